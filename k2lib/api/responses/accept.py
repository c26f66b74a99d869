"""Which format a request wants: `?format=` first, else the best of its Accept header; pure."""

import math
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeVar, get_args

from starlette.exceptions import HTTPException

Format = Literal["json", "csv", "parquet", "arrow"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
BINARY_TYPES: Final = (MEDIA_TYPES["parquet"], MEDIA_TYPES["arrow"])
SHOWN_AT_MOST: Final = 200
_Form = TypeVar("_Form", bound=str)


class _Range(NamedTuple):
    """A media range of an Accept header: `text/*`, and how much it is wanted."""

    kind: str
    subtype: str
    quality: float

    def rank(self, media_type: str) -> int:
        """How narrowly this names a media type: 0 is not at all."""
        kind, _, subtype = media_type.partition("/")
        if (self.kind, self.subtype) == (kind, subtype):
            return 3
        if (self.kind, self.subtype) == (kind, "*"):
            return 2
        return int((self.kind, self.subtype) == ("*", "*"))


def choose_format(asked: Format | None, accept: str | None) -> Format:
    """Return the format to answer in; see `choose`."""
    return choose(asked, accept, among=MEDIA_TYPES)


def choose(asked: _Form | None, accept: str | None, *, among: Mapping[_Form, str]) -> _Form:
    """Return the format to answer in.

    Args:
        asked: what `?format=` says; it goes before the header.
        accept: the header; what cannot be read of it is left out.
        among: the formats there are, the usual one first, and their media types.
    Raises:
        HTTPException: 406, none of the formats is acceptable.
    """
    if asked is not None:
        return asked
    ranges = [one for text in (accept or "").split(",") if (one := _range(text)) is not None]
    wanted = {form: _quality(media_type, ranges) for form, media_type in among.items()}
    best = max(wanted, key=lambda form: wanted[form])
    if accept is None or not accept.strip() or wanted[best] > 0:
        return best
    raise HTTPException(406, f"Accept: {accept[:SHOWN_AT_MOST]}: there is {_known(among)}")


def _quality(media_type: str, ranges: list[_Range]) -> float:
    """The narrowest range that names a type says how much it is wanted."""
    naming = [(one.rank(media_type), one.quality) for one in ranges if one.rank(media_type)]
    return max(naming, default=(0, 0.0))[1]


def _range(text: str) -> _Range | None:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    kind, slash, subtype = name.partition("/")
    if not (kind and slash and subtype) or (kind == "*" and subtype != "*"):
        return None
    weights = [one.partition("=")[2].strip() for one in parameters if one.startswith("q")]
    quality = _weight(weights[0]) if weights else 1.0
    return None if quality is None else _Range(kind, subtype, quality)


def _weight(text: str) -> float | None:
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if math.isfinite(weight) and 0 <= weight <= 1 else None


def _known(among: Mapping[_Form, str]) -> str:
    return ", ".join(f"{media_type} (or format={form})" for form, media_type in among.items())

"""Records of the live stream as JSON text, made once for all who listen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import polars as pl
import pyarrow as pa

from k2lib.api.answers.formats import texts
from k2lib.model.schemas import QUOTE, TRADE, RecordSchema

SCHEMAS: Final[dict[str, RecordSchema]] = {"trades": TRADE, "quotes": QUOTE}
INSTRUMENT: Final = ("exchange", "symbol")
ROWS_A_FRAME: Final = 500


class Wanted(NamedTuple):
    """What somebody listens to: `kind` is trades or quotes."""

    kind: str
    exchange: str
    symbol: str


@dataclass(frozen=True)
class Frame:
    """Records of one instrument as JSON text, made once for all who listen."""

    of: Wanted
    text: str
    rows: int


def frames_of(kind: str, rows: pa.Table) -> Iterator[Frame]:
    """Yield the records of each instrument as they came, some hundred at a time, as `texts`."""
    frame = pl.DataFrame(rows)
    if frame.is_empty():
        return
    for part in frame.partition_by(INSTRUMENT, maintain_order=True):
        of = Wanted(kind, *part.select(INSTRUMENT).row(0))
        for some in part.iter_slices(ROWS_A_FRAME):
            data = texts(some).write_json()
            yield Frame(of, f'{{"type":"{kind}","data":{data}}}', some.height)

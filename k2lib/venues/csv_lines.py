"""Lines of a CSV file as columns of text; a malformed line costs that line only."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from k2lib.schema.dead_letters import DeadLetter, DeadLetterReason, RawDigest

NEWLINE: Final = 10
CARRIAGE_RETURN: Final = 13
COMMA: Final = 44


@dataclass(frozen=True)
class BadLine:
    """A line that cannot pass: its number in the file, from 1, its bytes, and why.

    `digest` is that of the whole line where `raw` is only its beginning.
    """

    number: int
    raw: bytes
    reason: DeadLetterReason
    detail: str
    digest: RawDigest | None = None

    def dead_letter(self, source: str, *, first_line: int = 1) -> DeadLetter:
        """Return it as a dead letter; its position counts from `first_line`."""
        position = f"line {self.number - first_line + 1}"
        return DeadLetter(source, position, self.reason, self.detail, self.raw, digest=self.digest)


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file: where each begins and ends in `data`."""

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    commas: npt.NDArray[np.int64]

    def raw(self, index: int) -> bytes:
        """Return the bytes of one line, its end of line apart."""
        return self.data[self.starts[index] : self.ends[index]].rstrip(b"\r")


def find_lines(data: bytes) -> Lines:
    """Find the lines of `data` and count their commas; a last line may lack its newline."""
    if data and data[-1] != NEWLINE:
        data += b"\n"
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == NEWLINE)
    starts = np.concatenate([np.zeros(min(len(ends), 1), np.int64), ends[:-1] + 1])
    at_commas = np.flatnonzero(codes == COMMA)
    commas = np.diff(np.searchsorted(at_commas, ends), prepend=0)
    return Lines(data, starts, ends, commas)


def columns_error(found: int, expected: int) -> tuple[DeadLetterReason, str]:
    """Say that a line has another number of columns."""
    return "wrong_columns", f"{found} columns, {expected} expected"


def usual_columns(lines: Lines) -> int:
    """Return the number of columns that most lines have, blank ones apart; 0 without a line."""
    commas = lines.commas[~_blank(lines)]
    return int(np.bincount(commas).argmax()) + 1 if len(commas) else 0


def to_columns(
    lines: Lines, names: Sequence[str], *, first_line: int
) -> tuple[pl.DataFrame, npt.NDArray[np.int64], list[BadLine]]:
    """Split the lines into columns of text.

    Returns:
        The good rows in file order, their line numbers, and the bad lines; blank lines are neither.
    """
    blank = _blank(lines)
    wrong = ~blank & (lines.commas != len(names) - 1)
    broken = ~blank & ~wrong & _not_utf8(lines)
    bad = [
        BadLine(first_line + int(i), lines.raw(int(i)), *_why(lines, int(i), len(names)))
        for i in np.flatnonzero(wrong | broken)
    ]
    good = ~(blank | wrong | broken)
    numbers = np.flatnonzero(good) + first_line
    return _read(_only(lines, good), names), numbers, bad


def _blank(lines: Lines) -> npt.NDArray[np.bool_]:
    """Say which lines have nothing but their end: LF, CRLF, or CRCRLF as a spreadsheet's."""
    codes = np.frombuffer(lines.data, np.uint8)
    sizes = lines.ends - lines.starts
    blank: npt.NDArray[np.bool_] = sizes == 0
    few = np.flatnonzero((sizes == 1) | (sizes == 2))
    first, last = codes[lines.starts[few]], codes[lines.ends[few] - 1]
    blank[few] = (first == CARRIAGE_RETURN) & (last == CARRIAGE_RETURN)
    return blank


def _why(lines: Lines, index: int, columns: int) -> tuple[DeadLetterReason, str]:
    found = int(lines.commas[index]) + 1
    if found != columns:
        return columns_error(found, columns)
    return "not_utf8", "the line is not valid UTF-8"


def _not_utf8(lines: Lines) -> npt.NDArray[np.bool_]:
    broken = np.zeros(len(lines.starts), np.bool_)
    if lines.data.isascii() or _is_utf8(lines.data):
        return broken
    for index in range(len(broken)):
        try:
            lines.raw(index).decode()
        except UnicodeDecodeError:
            broken[index] = True
    return broken


def _is_utf8(data: bytes) -> bool:
    try:
        pa.array([data], pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _only(lines: Lines, good: npt.NDArray[np.bool_]) -> bytes:
    if good.all():
        return lines.data
    kept = np.repeat(good, lines.ends - lines.starts + 1)
    return np.frombuffer(lines.data, np.uint8)[kept].tobytes()


def _read(data: bytes, names: Sequence[str]) -> pl.DataFrame:
    schema: dict[str, Any] = dict.fromkeys(names, pl.String)
    if not data:
        return pl.DataFrame(schema=schema)
    frame = pl.read_csv(
        io.BytesIO(data),
        has_header=False,
        schema=schema,
        quote_char=None,
        empty_string_is_null=False,
    )
    return frame.with_columns(pl.col(names[-1]).str.strip_chars_end("\r"))

"""Lines of a CSV file as columns of text; a malformed line costs that line only."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from k2lib.schema.dead_letters import DeadLetterReason

NEWLINE: Final = 10
COMMA: Final = 44


@dataclass(frozen=True)
class BadLine:
    """A line that cannot pass: its number in the file, from 1, its bytes, and why."""

    number: int
    raw: bytes
    reason: DeadLetterReason
    detail: str


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
    blank = np.zeros(len(lines.starts), np.bool_)
    for index in np.flatnonzero(lines.ends - lines.starts <= 1):
        blank[index] = not lines.raw(int(index))
    return blank


def _why(lines: Lines, index: int, columns: int) -> tuple[DeadLetterReason, str]:
    found = int(lines.commas[index]) + 1
    if found != columns:
        return "wrong_columns", f"{found} columns, {columns} expected"
    return "not_utf8", "the line is not valid UTF-8"


def _not_utf8(lines: Lines) -> npt.NDArray[np.bool_]:
    broken = np.zeros(len(lines.starts), np.bool_)
    if lines.data.isascii():
        return broken
    for index in range(len(broken)):
        try:
            lines.raw(index).decode()
        except UnicodeDecodeError:
            broken[index] = True
    return broken


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

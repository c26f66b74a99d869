"""ASX files to batches: which files a path means, and each read in chunks of bounded memory."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from string import digits
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from k2lib.errors import SourceError
from k2lib.schema.dead_letters import DeadLetter
from k2lib.venues.asx.reference import FOLDER
from k2lib.venues.asx.rows import COLUMNS, ParsedLines, parse
from k2lib.venues.base import FileBatch, Instrument
from k2lib.venues.csv_chunks import (
    BYTE_ORDER_MARK,
    Chunk,
    Piece,
    beginning,
    describe_content,
    other_content,
    read_chunks,
    read_pieces,
)
from k2lib.venues.csv_lines import BadLine, find_lines, usual_columns
from k2lib.venues.source_files import expand_path, open_lines

CHUNK_BYTES: Final = 12 * 1024 * 1024
# Reading takes some twelve times as much memory.
WHOLE_BYTES: Final = 128 * 1024 * 1024
HEAD_BYTES: Final = 64 * 1024
SUFFIXES: Final = (".csv", ".csv.gz")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIME_PREFIX: Final = len("03/10/2014,10:00:06.717")
TIME_PREFIX_FORM: Final = re.compile(rb"[0-9/]{10},[0-9:.]{12}")


@dataclass(frozen=True)
class AsxFile:
    """One file, or several that are parts of one, of one company."""

    paths: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The file's name as a report shows it, with its folder."""
        return " + ".join(map(_shown, self.paths))

    @property
    def company_id(self) -> str:
        """The digits that the file's name begins with.

        Raises:
            SourceError: it begins with none.
        """
        company_id = _leading_digits(self.paths[0])
        if not company_id:
            raise SourceError(f"{self.name}: the name must begin with the company id: 7078.csv")
        return company_id


@dataclass
class _Parts:
    """The files read so far, to name the place of a line counted over all of them."""

    first_lines: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def begin(self, name: str, first_line: int) -> None:
        self.names.append(name)
        self.first_lines.append(first_line)

    def dead_letter(self, bad: BadLine) -> DeadLetter:
        part = bisect_right(self.first_lines, bad.number) - 1
        return bad.dead_letter(self.names[part], first_line=self.first_lines[part])


def find_files(paths: Sequence[str | Path], *, parts: bool = False) -> list[AsxFile]:
    """Return the files that the paths (files, folders, globs) mean, each once, in order.

    Args:
        parts: all files of one company in folders of one name are parts of one file.
    """
    expanded = (expand_path(Path(path), SUFFIXES, without=FOLDER) for path in paths)
    files = [AsxFile((path,)) for path in dict.fromkeys(chain.from_iterable(expanded))]
    if not parts:
        return files
    together: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        path = file.paths[0]
        key = (path.parent.name, _leading_digits(path) or str(path))
        together.setdefault(key, []).append(path)
    return [AsxFile(tuple(group)) for group in together.values()]


def read_file(
    file: AsxFile,
    instrument: Instrument,
    *,
    ingested: datetime,
    chunk_bytes: int = CHUNK_BYTES,
    whole_bytes: int = WHOLE_BYTES,
) -> Iterator[FileBatch]:
    """Read a file in chunks; a millisecond, or a file that is not in time order, is read whole.

    Args:
        whole_bytes: how much is read whole at most.
    Raises:
        SourceError: a missing or empty file, one without a good line among the first thousand, or
            one that would be read whole and is too large for that.
    """
    kind = file_kind(file)
    parts = _Parts()
    rows_done, next_line, newest = 0, 1, None
    limit = partial(_limited, file, whole_bytes)
    pieces = _pieces(file.paths, parts, chunk_bytes)
    for chunk in read_chunks(pieces, chunk_bytes=chunk_bytes, cut=limit(_cut)):
        if next_line == 1:
            _check_beginning(file, kind, instrument, beginning(chunk.data))
        parsed = _parse(chunk, kind, instrument, ingested)
        oldest, latest = _bounds(parsed.rows)
        if newest is not None and oldest is not None and oldest <= newest:
            break
        yield _batch(kind, parsed, parts, exchange=instrument.exchange, n_bytes=chunk.n_bytes)
        rows_done += parsed.rows.num_rows
        next_line = chunk.first_line + chunk.data.count(b"\n")
        newest = latest or newest
    else:
        return
    # All that follows the rows done: equal rows are numbered over the whole file.
    parts = _Parts()
    pieces = _pieces(file.paths, parts, chunk_bytes)
    chunks = read_chunks(pieces, chunk_bytes=chunk_bytes, cut=limit(_nowhere))
    (whole,) = [chunk for chunk in chunks if chunk.data]
    parsed = _parse(whole, kind, instrument, ingested)
    bad_lines = [bad for bad in parsed.bad_lines if bad.number >= next_line]
    parsed = ParsedLines(parsed.rows.slice(rows_done), bad_lines)
    yield _batch(kind, parsed, parts, exchange=instrument.exchange, n_bytes=whole.n_bytes)


def file_kind(file: AsxFile) -> str:
    """Return `trades` (7 columns) or `quotes` (6 columns), by what most lines have.

    Raises:
        SourceError: a part is missing, empty, has neither, or another number than the first.
    """
    kinds = [_part_kind(path) for path in file.paths]
    if len(set(kinds)) > 1:
        raise SourceError(f"{file.name}: parts of one file are of one kind, not {', '.join(kinds)}")
    return kinds[0]


def _part_kind(path: Path) -> str:
    name = _shown(path)
    with open_lines(path, str(path)) as opened:
        head = opened.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
    if not head.strip():
        raise SourceError(f"{name}: the file is empty")
    if len(head) >= HEAD_BYTES - len(BYTE_ORDER_MARK):
        head = head[: head.rfind(b"\n") + 1]
        if not head:
            return "trades"  # one line, which will be a dead letter of either kind
    columns = usual_columns(find_lines(head))
    for kind, names in COLUMNS.items():
        if columns == len(names):
            return kind
    content = describe_content(head) or f"{columns} columns"
    raise SourceError(f"{name}: {content}; trades have 7, quotes have 6")


def _check_beginning(file: AsxFile, kind: str, instrument: Instrument, head: bytes) -> None:
    parsed = parse(find_lines(head), kind, instrument=instrument, ingested=EPOCH)
    content = None if parsed.rows.num_rows else other_content(head, parsed.bad_lines)
    if content is not None:
        raise SourceError(f"{file.name}: no file of {kind}: {content}")


def _parse(chunk: Chunk, kind: str, instrument: Instrument, ingested: datetime) -> ParsedLines:
    parsed = parse(
        find_lines(chunk.data),
        kind,
        instrument=instrument,
        ingested=ingested,
        first_line=chunk.first_line,
    )
    bad_lines = chunk.bad_lines(parsed.bad_lines, columns=len(COLUMNS[kind]))
    return ParsedLines(parsed.rows, bad_lines)


def _batch(
    kind: str, parsed: ParsedLines, parts: _Parts, *, exchange: str, n_bytes: int
) -> FileBatch:
    letters = [parts.dead_letter(bad) for bad in parsed.bad_lines]
    return FileBatch(kind, exchange, parsed.rows, letters, n_bytes)


def _bounds(rows: pa.Table) -> tuple[datetime | None, datetime | None]:
    bounds = pc.min_max(rows["timestamp"])
    return bounds["min"].as_py(), bounds["max"].as_py()


def _pieces(paths: Sequence[Path], parts: _Parts, chunk_bytes: int) -> Iterator[Piece]:
    """Read the lines of all parts, and name each to `parts` before its first line."""
    first_line = 1
    for path in paths:
        parts.begin(path.name, first_line)
        with open_lines(path, str(path)) as opened:
            for piece in read_pieces(opened, block_bytes=chunk_bytes):
                first_line += piece.data.count(b"\n")
                yield piece


def _limited(file: AsxFile, limit: int, cut: Callable[[bytes], int]) -> Callable[[bytes], int]:
    """Return `cut` with a limit to what it parts nowhere."""

    def limited(data: bytes) -> int:
        at = cut(data)
        if not at and len(data) > limit:
            raise SourceError(
                f"{file.name}: its lines are not in time order, and too many to be read at once "
                f"(over {limit:,} bytes): sort them by date and time"
            )
        return at

    return limited


def _nowhere(data: bytes) -> int:
    return 0


def _cut(data: bytes) -> int:
    """Return where the last millisecond of the lines begins; 0 if there is but one."""
    cut = len(data)
    start = data.rfind(b"\n", 0, cut - 1) + 1
    prefix = data[start : start + TIME_PREFIX]
    if not TIME_PREFIX_FORM.fullmatch(prefix):
        return cut
    while data[start : start + TIME_PREFIX] == prefix:
        if start == 0:
            return 0
        cut, start = start, data.rfind(b"\n", 0, start - 1) + 1
    return cut


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _leading_digits(path: Path) -> str:
    return path.name[: len(path.name) - len(path.name.lstrip(digits))]

"""ASX files to batches: which files a path means, and each read in chunks of bounded memory."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from string import digits
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from k2lib.errors import SourceError
from k2lib.schema.dead_letters import DeadLetter
from k2lib.venues.asx.reference import FOLDER
from k2lib.venues.asx.rows import COLUMNS, ParsedLines, RowCounts, count_rows, parse
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
# Some 20 bytes are kept of a line whose order in time is not known.
COUNTED_BYTES: Final = 128 * 1024 * 1024
HEAD_BYTES: Final = 64 * 1024
SUFFIXES: Final = (".csv", ".csv.gz")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


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
    counted_bytes: int = COUNTED_BYTES,
) -> Iterator[FileBatch]:
    """Read a file in chunks; equal rows, and rows of one millisecond, are numbered over all of it.

    Args:
        counted_bytes: how much of one millisecond, or of a file that is not in time order, is read
            at most.
    Raises:
        SourceError: a missing or empty file, one without a good line among the first thousand, or
            one of more than `counted_bytes` that is not in time order.
    """
    reading = _Reading(file, instrument, ingested, chunk_bytes, counted_bytes)
    done = 0
    for batch in reading.batches(in_time_order=True):
        if batch is None:
            break
        yield batch
        done += 1
    else:
        return
    # Again from the first line on, now with a memory of all rows.
    yield from islice(filter(None, reading.batches(in_time_order=False)), done, None)


@dataclass(frozen=True)
class _Reading:
    """How a file is read; see `read_file`."""

    file: AsxFile
    instrument: Instrument
    ingested: datetime
    chunk_bytes: int
    counted_bytes: int

    def batches(self, *, in_time_order: bool) -> Iterator[FileBatch | None]:
        """Read all of it; in time order, end with None at a chunk with an older row."""
        kind = file_kind(self.file)
        parts, counts, counted = _Parts(), RowCounts(in_time_order=in_time_order), 0
        pieces = _pieces(self.file.paths, parts, self.chunk_bytes)
        for chunk in read_chunks(pieces, chunk_bytes=self.chunk_bytes):
            if chunk.first_line == 1:
                _check_beginning(self.file, kind, self.instrument, beginning(chunk.data))
            before = counts.newest_us
            parsed = _parse(chunk, kind, self.instrument, self.ingested, counts)
            oldest = _oldest_us(parsed.rows)
            if in_time_order and before is not None and oldest is not None and oldest < before:
                yield None
                return
            is_new = in_time_order and before != counts.newest_us
            counted = len(chunk.data) if is_new else counted + len(chunk.data)
            if counted > max(self.counted_bytes, len(chunk.data)):
                raise _too_many_lines(self.file, self.counted_bytes)
            exchange = self.instrument.exchange
            yield _batch(kind, parsed, parts, exchange=exchange, n_bytes=chunk.n_bytes)


def _too_many_lines(file: AsxFile, limit: int) -> SourceError:
    return SourceError(
        f"{file.name}: its lines are not in time order, and too many to be numbered (over "
        f"{limit:,} bytes): sort them by date and time"
    )


def file_kind(file: AsxFile) -> str:
    """Return `trades` (7 columns) or `quotes` (6 columns), by what most good lines are.

    Without a good line at its beginning, by how many columns most lines have.

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
    lines = find_lines(head)
    counts = {kind: count_rows(lines, kind) for kind in COLUMNS}
    if any(counts.values()):
        return max(counts, key=counts.__getitem__)
    columns = usual_columns(lines)
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


def _parse(
    chunk: Chunk, kind: str, instrument: Instrument, ingested: datetime, counts: RowCounts
) -> ParsedLines:
    parsed = parse(
        find_lines(chunk.data),
        kind,
        instrument=instrument,
        ingested=ingested,
        first_line=chunk.first_line,
        counts=counts,
    )
    bad_lines = chunk.bad_lines(parsed.bad_lines, columns=len(COLUMNS[kind]))
    return ParsedLines(parsed.rows, bad_lines)


def _batch(
    kind: str, parsed: ParsedLines, parts: _Parts, *, exchange: str, n_bytes: int
) -> FileBatch:
    letters = [parts.dead_letter(bad) for bad in parsed.bad_lines]
    return FileBatch(kind, exchange, parsed.rows, letters, n_bytes)


def _oldest_us(rows: pa.Table) -> int | None:
    oldest: int | None = pc.min(rows["timestamp"].cast(pa.int64())).as_py()
    return oldest


def _pieces(paths: Sequence[Path], parts: _Parts, chunk_bytes: int) -> Iterator[Piece]:
    """Read the lines of all parts, and name each to `parts` before its first line."""
    first_line = 1
    for path in paths:
        parts.begin(path.name, first_line)
        with open_lines(path, str(path)) as opened:
            for piece in read_pieces(opened, block_bytes=chunk_bytes):
                first_line += piece.data.count(b"\n")
                yield piece


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _leading_digits(path: Path) -> str:
    return path.name[: len(path.name) - len(path.name.lstrip(digits))]

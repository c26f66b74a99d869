"""ASX files to batches: which files a path means, and each read in chunks of bounded memory."""

import glob
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
from k2lib.venues.csv_lines import BadLine, find_lines, usual_columns

CHUNK_BYTES: Final = 24 * 1024 * 1024
HEAD_BYTES: Final = 64 * 1024
TIME_PREFIX: Final = len("03/10/2014,10:00:06.717")


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
        line = bad.number - self.first_lines[part] + 1
        return DeadLetter(self.names[part], f"line {line}", bad.reason, bad.detail, bad.raw)


def find_files(paths: Sequence[str | Path], *, parts: bool = False) -> list[AsxFile]:
    """Return the files that the paths (files, folders, globs) mean, each once, in order.

    Args:
        parts: all files of one company in folders of one name are parts of one file.
    """
    found = dict.fromkeys(file for path in paths for file in _expand(Path(path)))
    files = [AsxFile((path,)) for path in found]
    if not parts:
        return files
    together: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        path = file.paths[0]
        key = (path.parent.name, _leading_digits(path) or str(path))
        together.setdefault(key, []).append(path)
    return [AsxFile(tuple(group)) for group in together.values()]


def read_file(
    file: AsxFile, instrument: Instrument, *, ingested: datetime, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[FileBatch]:
    """Read a file in chunks; a large file that is not in time order is read whole.

    Raises:
        SourceError: a missing or empty file, or one with neither 7 nor 6 columns.
    """
    kind = file_kind(file)
    parts = _Parts()
    rows_done, next_line, newest = 0, 1, None
    for data, first_line in _chunks(file.paths, parts, chunk_bytes):
        lines = find_lines(data)
        parsed = parse(lines, kind, instrument=instrument, ingested=ingested, first_line=first_line)
        oldest, latest = _bounds(parsed.rows)
        if newest is not None and oldest is not None and oldest <= newest:
            break
        yield _batch(kind, parsed, parts, exchange=instrument.exchange, n_bytes=len(data))
        rows_done, next_line = rows_done + parsed.rows.num_rows, first_line + len(lines.starts)
        newest = latest or newest
    else:
        return
    yield _rest(file, instrument, ingested, kind=kind, rows_done=rows_done, next_line=next_line)


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
    if path.is_dir():
        raise SourceError(f"{name}: no .csv file in this folder")
    try:
        with path.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except OSError as exc:
        raise SourceError(f"{name}: cannot be read: {exc.strerror}") from exc
    if not head.strip():
        raise SourceError(f"{name}: the file is empty")
    columns = usual_columns(find_lines(head))
    for kind, names in COLUMNS.items():
        if columns == len(names):
            return kind
    raise SourceError(f"{name}: {columns} columns; trades have 7, quotes have 6")


def _rest(
    file: AsxFile,
    instrument: Instrument,
    ingested: datetime,
    *,
    kind: str,
    rows_done: int,
    next_line: int,
) -> FileBatch:
    """All that follows the rows done: equal rows are numbered over the whole file."""
    parts = _Parts()
    data = b"".join(data for data, _ in _chunks(file.paths, parts, CHUNK_BYTES))
    parsed = parse(find_lines(data), kind, instrument=instrument, ingested=ingested)
    bad_lines = [bad for bad in parsed.bad_lines if bad.number >= next_line]
    rows = parsed.rows.slice(rows_done)
    parsed = ParsedLines(rows, bad_lines)
    return _batch(kind, parsed, parts, exchange=instrument.exchange, n_bytes=len(data))


def _batch(
    kind: str, parsed: ParsedLines, parts: _Parts, *, exchange: str, n_bytes: int
) -> FileBatch:
    letters = [parts.dead_letter(bad) for bad in parsed.bad_lines]
    return FileBatch(kind, exchange, parsed.rows, letters, n_bytes)


def _bounds(rows: pa.Table) -> tuple[datetime | None, datetime | None]:
    bounds = pc.min_max(rows["timestamp"])
    return bounds["min"].as_py(), bounds["max"].as_py()


def _chunks(paths: Sequence[Path], parts: _Parts, chunk_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines and the number of the first, never cutting inside a millisecond."""
    pending, first_line = b"", 1
    for path in paths:
        parts.begin(path.name, first_line + pending.count(b"\n"))
        with path.open("rb") as opened:
            while block := opened.read(chunk_bytes):
                pending += block
                cut = _cut(pending) if len(pending) >= chunk_bytes else 0
                if cut:
                    yield pending[:cut], first_line
                    first_line += pending.count(b"\n", 0, cut)
                    pending = pending[cut:]
        if pending and not pending.endswith(b"\n"):
            pending += b"\n"
    if pending:
        yield pending, first_line


def _cut(data: bytes) -> int:
    """Return where the last millisecond of the whole lines begins."""
    cut = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(cut - 1, 0)) + 1
    prefix = data[start : start + TIME_PREFIX]
    while start > 0 and data[start : start + TIME_PREFIX] == prefix:
        cut, start = start, data.rfind(b"\n", 0, start - 1) + 1
    return cut


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _leading_digits(path: Path) -> str:
    return path.name[: len(path.name) - len(path.name.lstrip(digits))]


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.rglob("*.csv"))
    elif glob.has_magic(str(path)):
        pattern = path.relative_to(path.anchor)
        files = sorted(Path(path.anchor or ".").glob(str(pattern)))
    else:
        return [path]
    files = [file for file in files if file.is_file() and file.parent.name != FOLDER]
    return files or [path]

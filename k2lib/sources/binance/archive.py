"""Binance's archive: zips of daily and monthly trades, verified, then read in chunks.

Source: Binance's documentation, "Binance Public Data".
"""

import glob
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from k2lib.errors import ConfigError, SourceError
from k2lib.model.dead_letters import RAW_BYTES, DeadLetter
from k2lib.sources.binance.archive_lines import detect_unit, is_header, parse_lines
from k2lib.sources.binance.symbols import Instrument, fallback_instruments

CHUNK_BYTES: Final = 8 * 1024 * 1024
EXCHANGE: Final = "BINANCE"
# The archive's own folders lie so deep: data/spot/daily/trades/BTCUSDT.
LEVELS: Final = 6
NAME: Final = re.compile(r"(?P<symbol>[^\W_]+)-(?P<kind>\w+)-\d{4}-\d{2}(-\d{2})?\.zip")
READ: Final = "read are files of trades: BTCUSDT-trades-2025-01-31.zip, BTCUSDT-trades-2025-01.zip"
BROKEN_ZIP: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class BrokenFileError(SourceError):
    """The file is not what Binance published; `letter` is the dead letter that says so."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(f"{letter.source}: {letter.detail}; not loaded: download it again")
        self.letter = letter


@dataclass(frozen=True)
class Batch:
    """Rows of one chunk of a file, and the dead letters found among them."""

    rows: pa.Table
    dead_letters: list[DeadLetter]
    n_bytes: int


def find_archives(paths: Sequence[str | Path]) -> list[Path]:
    """Return the zips that the paths (files, folders, globs) mean, each once, in order."""
    return list(dict.fromkeys(file for path in paths for file in _expand(Path(path))))


def archive_instrument(path: Path, known: Mapping[str, Instrument]) -> Instrument:
    """Return the instrument that the file's name names: from `known`, else the shipped table.

    Raises:
        SourceError: the file is no archive of trades, or the symbol's assets are not known.
    """
    if path.is_dir():
        raise SourceError(f"{path.name}: no .zip file in this folder; {READ}")
    match = NAME.fullmatch(path.name)
    if match is None:
        raise SourceError(f"{path.name}: not a name of Binance's archive; {READ}")
    if match["kind"] != "trades":
        raise SourceError(f"{path.name}: a file of {_kind(match['kind'])}; {READ}")
    symbol = match["symbol"].upper()
    try:
        return known.get(symbol) or fallback_instruments([symbol])[symbol]
    except ConfigError as exc:
        raise SourceError(
            f"{path.name}: base and quote asset of {symbol} are not known: "
            "give them, as --assets BASE/QUOTE"
        ) from exc


def archive_exchange(path: Path, exchange: str | None) -> str:
    """Return the venue of a file: the text of `exchange.txt` in a folder of it, else BINANCE.

    Raises:
        SourceError: `exchange` is another than the one in `exchange.txt`, or that is no name.
    """
    folders = path.resolve().parents[:LEVELS]
    marker = next((f for p in folders if (f := p / "exchange.txt").is_file()), None)
    if marker is None:
        return exchange or EXCHANGE
    said = marker.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch("[A-Z0-9_]+", said):
        raise SourceError(f"{marker}: {said!r} is no name of a venue (A-Z, 0-9, _)")
    if exchange not in (None, said):
        raise SourceError(f"{path.name}: {marker} says that it is from {said}, not {exchange}")
    return said


def verify(path: Path) -> str | None:
    """Check a file against the SHA-256 beside it, and that its zip can be read to its end.

    Returns:
        What could not be checked, to be told; None if nothing.
    Raises:
        BrokenFileError: the sum is another one, or the zip is broken.
        SourceError: the file cannot be read.
    """
    digest = _digest(path)
    note = _check_sum(path, digest)
    with _zip_errors(path, digest), zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} in it is damaged")
    return note


def read_archive(
    path: Path,
    instrument: Instrument,
    *,
    exchange: str,
    ingested: datetime,
    latest_us: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Batch]:
    """Read a verified file in chunks.

    Raises:
        SourceError: the zip does not hold one CSV, or that is empty.
    """
    with zipfile.ZipFile(path) as archive, archive.open(_only_csv(archive, path)) as opened:
        unit, line = None, 1
        for data in _chunks(opened, chunk_bytes):
            skipped = data.index(b"\n") + 1 if line == 1 and is_header(data) else 0
            line += bool(skipped)
            unit = unit or detect_unit(data[skipped:])
            rows, letters, n_lines = parse_lines(
                data[skipped:],
                instrument,
                exchange=exchange,
                unit=unit or "us",
                ingested=ingested,
                latest_us=latest_us,
                source=path.name,
                first_line=line,
            )
            yield Batch(rows, letters, len(data))
            line += n_lines
    if line == 1:
        raise SourceError(f"{path.name}: the file is empty")


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.rglob("*.zip"))
    elif glob.has_magic(str(path)):
        pattern = path.relative_to(path.anchor)
        files = sorted(Path(path.anchor or ".").glob(str(pattern)))
    else:
        return [path]
    return [file for file in files if file.is_file() and file.suffix == ".zip"] or [path]


def _kind(name: str) -> str:
    return "aggregate trades" if name == "aggTrades" else f"klines or other data ({name})"


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return file_digest(opened, "sha256").hexdigest()
    except OSError as exc:
        raise SourceError(f"{path.name}: cannot be read: {exc.strerror}") from exc


def _check_sum(path: Path, digest: str) -> str | None:
    beside = path.with_name(f"{path.name}.CHECKSUM")
    if not beside.is_file():
        return "no .CHECKSUM beside it: not verified"
    wanted = beside.read_text(encoding="utf-8", errors="replace").split()[:1]
    if [digest] != [word.lower() for word in wanted]:
        told = wanted[0] if wanted else "nothing"
        detail = f"its SHA-256 is {digest}, {beside.name} says {told}"
        raise BrokenFileError(_letter(path, "bad_checksum", detail))
    return None


@contextmanager
def _zip_errors(path: Path, digest: str) -> Iterator[None]:
    try:
        yield
    except BROKEN_ZIP as exc:
        detail = f"not a readable zip: {exc} (SHA-256 {digest})"
        raise BrokenFileError(_letter(path, "broken_zip", detail)) from exc


def _letter(path: Path, reason: str, detail: str) -> DeadLetter:
    with path.open("rb") as opened:
        head = opened.read(RAW_BYTES)
    return DeadLetter(path.name, f"file of {path.stat().st_size} bytes", reason, detail, head)


def _only_csv(archive: zipfile.ZipFile, path: Path) -> str:
    names = archive.namelist()
    if len(names) != 1 or not names[0].endswith(".csv"):
        raise SourceError(f"{path.name}: holds {', '.join(names) or 'nothing'}; one .csv expected")
    return names[0]


def _chunks(opened: IO[bytes], chunk_bytes: int) -> Iterator[bytes]:
    """Yield whole lines; the last one may lack its newline."""
    pending = b""
    while block := opened.read(chunk_bytes):
        pending += block
        cut = pending.rfind(b"\n") + 1
        if cut:
            yield pending[:cut]
            pending = pending[cut:]
    if pending:
        yield pending + b"\n"

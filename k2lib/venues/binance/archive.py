"""Binance's archive: zips of daily and monthly trades, verified, then read in chunks.

Source: Binance's documentation, "Binance Public Data".
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from k2lib.errors import ConfigError, SourceError
from k2lib.schema.dead_letters import RAW_BYTES, DeadLetter, DeadLetterReason
from k2lib.venues.base import BrokenFileError, FileBatch, Instrument
from k2lib.venues.binance.instruments import shipped_instruments
from k2lib.venues.binance.rows import RawTrades, Unit, trade_rows
from k2lib.venues.csv_chunks import (
    Chunk,
    beginning,
    other_content,
    read_chunks,
    read_pieces,
)
from k2lib.venues.csv_lines import BadLine, find_lines, to_columns, usual_columns
from k2lib.venues.source_files import MARKER, check_is_file, expand_path, is_folder, read_marker

COLUMNS: Final = (
    "id",
    "price",
    "quantity",
    "quote_quantity",
    "time",
    "is_buyer_maker",
    "is_best_match",
)
INTEGERS: Final = ("id", "time")
BOOLEANS: Final = {"True": True, "False": False, "true": True, "false": False}
MICROSECOND_DIGITS: Final = 16
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# [0-9], because \d means the digits of all scripts.
LONG: Final = r"^[0-9]{1,18}$"
HEADER: Final = re.compile(rb'["A-Za-z_][\w "]*(,["A-Za-z_][\w "]*)*\r*\n')
TIME_OF_A_LINE: Final = re.compile(rb"^[^\n]*,([0-9]{13,16}),[A-Za-z]+,[A-Za-z]+\r?$", re.MULTILINE)


def is_header(data: bytes) -> bool:
    """Say whether the first line names columns: each of its fields is a name."""
    return HEADER.match(data) is not None


def detect_unit(data: bytes) -> Unit | None:
    """Tell the unit by the digits of the first time: ms up to 2024, µs since; None without one."""
    found = TIME_OF_A_LINE.search(data)
    if found is None:
        return None
    return "us" if len(found[1]) >= MICROSECOND_DIGITS else "ms"


def parse_lines(
    data: bytes,
    instrument: Instrument,
    *,
    unit: Unit,
    ingested: datetime,
    latest_us: int,
    first_line: int,
) -> tuple[pa.Table, list[BadLine]]:
    """Turn whole lines into rows of `records.TRADE` in their order.

    Args:
        ingested: ingestion time of every row, aware.
        first_line: number of the first line in its file.
    Returns:
        The rows, and the lines that are none.
    """
    lines = find_lines(data)
    written, numbers, bad = to_columns(lines, COLUMNS, first_line=first_line)
    readable = written.select(_is_readable()).to_series()
    for index in (~readable).arg_true():
        number = int(numbers[index])
        raw = lines.raw(number - first_line)
        bad.append(BadLine(number, raw, *_why(written.row(index, named=True))))
    numbers = numbers[readable.to_numpy()]
    rows = trade_rows(
        _columns(written.filter(readable), (ingested - EPOCH) // MICROSECOND),
        [instrument],
        unit=unit,
        latest_us=latest_us,
    )
    for one in rows.refusals:
        number = int(numbers[one.index])
        bad.append(BadLine(number, lines.raw(number - first_line), one.reason, one.detail))
    return rows.table, bad


def _is_readable() -> pl.Expr:
    return pl.all_horizontal(
        *(pl.col(name).str.contains(LONG) for name in INTEGERS),
        *(pl.col(name).is_in(list(BOOLEANS)) for name in ("is_buyer_maker", "is_best_match")),
    )


def _why(row: dict[str, str]) -> tuple[DeadLetterReason, str]:
    for name in INTEGERS:
        if not re.fullmatch(LONG, row[name]):
            return "bad_number", f"{name} {row[name]!r} is not a whole number"
    name = "is_best_match" if row["is_buyer_maker"] in BOOLEANS else "is_buyer_maker"
    return "bad_flag", f"{name} {row[name]!r} is not True or False"


def _columns(written: pl.DataFrame, ingested_us: int) -> RawTrades:
    n_rows = written.height
    return RawTrades(
        codes=np.zeros(n_rows, np.int64),
        ids=written["id"].cast(pl.Int64).to_numpy(),
        prices=_texts(written["price"]),
        quantities=_texts(written["quantity"]),
        times=written["time"].cast(pl.Int64).to_numpy(),
        buyer_is_maker=written["is_buyer_maker"].is_in(["True", "true"]).to_numpy(),
        received_us=np.full(n_rows, ingested_us),
        vendor={
            "is_best_match": _texts(written["is_best_match"].str.to_lowercase()),
            "origin": "archive",
            "quote_quantity": _texts(written["quote_quantity"]),
        },
    )


def _texts(column: pl.Series) -> pa.Array:
    return column.to_arrow().cast(pa.string())


CHUNK_BYTES: Final = 8 * 1024 * 1024
EXCHANGE: Final = "BINANCE"
# The archive's own folders lie so deep: data/spot/daily/trades/BTCUSDT.
LEVELS: Final = 6
NAME: Final = re.compile(
    r"(?P<symbol>[^\W_]+)-(?P<kind>\w+)-(?P<month>\d{4}-\d{2})(?P<day>-\d{2})?\.(?i:zip)"
)
DAY_US: Final = 24 * 3600 * 1_000_000
READ: Final = "read are files of trades: BTCUSDT-trades-2025-01-31.zip, BTCUSDT-trades-2025-01.zip"
CHECKSUM_BYTES: Final = 1024
NAMED: Final = 5
# Other files of the archive, by the number of their columns.
OTHER_KINDS: Final = {6: "trades of futures", 8: "aggregate trades", 12: "klines"}
BROKEN_ZIP: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def find_archives(paths: Sequence[str | Path]) -> list[Path]:
    """Return the zips that the paths (files, folders, globs) mean, each once, in order."""
    return list(dict.fromkeys(file for path in paths for file in _zips(Path(path))))


def archive_instrument(
    path: Path, instruments: Mapping[str, Instrument], *, exchange: str | None = None
) -> Instrument:
    """Return the instrument that the file's name names: from `instruments`, else the shipped table.

    Args:
        exchange: of the file, see `archive_exchange`.
    Raises:
        SourceError: the file is no archive of trades, or the symbol's assets are not known.
    """
    if is_folder(path):
        raise SourceError(f"{path.name}: no .zip file in this folder; {READ}")
    match = NAME.fullmatch(path.name)
    if match is None:
        raise SourceError(f"{path.name}: not a name of Binance's archive; {READ}")
    if match["kind"] != "trades":
        raise SourceError(f"{path.name}: a file of {_kind(match['kind'])}; {READ}")
    symbol = match["symbol"].upper()
    try:
        instrument = instruments.get(symbol) or shipped_instruments([symbol])[symbol]
    except ConfigError as exc:
        raise SourceError(
            f"{path.name}: base and quote asset of {symbol} are not known: "
            "give them, as --assets BASE/QUOTE"
        ) from exc
    return replace(instrument, exchange=archive_exchange(path, exchange))


def latest_in(path: Path, *, now_us: int) -> int:
    """Return a time, µs since the epoch, after which no trade of an archive file can be.

    A clock of ours that is behind must refuse no trade of the day or month that the venue wrote
    into the file's name.
    """
    match = NAME.fullmatch(path.name)
    try:
        first = (
            datetime.fromisoformat(f"{match['month']}{match['day'] or '-01'}") if match else None
        )
    except ValueError:
        first = None
    if match is None or first is None:
        return now_us + DAY_US
    named_us = int(first.replace(tzinfo=UTC).timestamp()) * 1_000_000
    return max(now_us, named_us + (1 if match["day"] else 31) * DAY_US) + DAY_US


def archive_exchange(path: Path, exchange: str | None) -> str:
    """Return the venue of a file: the text of `exchange.txt` in a folder of it, else BINANCE.

    Raises:
        SourceError: `exchange` is another than the one in `exchange.txt`, or that is no name.
    """
    folders = path.resolve().parents[:LEVELS]
    marker = next((f for p in folders if (f := p / MARKER).is_file()), None)
    if marker is None:
        return exchange or EXCHANGE
    said = read_marker(marker)
    if exchange not in (None, said):
        raise SourceError(f"{path.name}: {marker} says that it is from {said}, not {exchange}")
    return said


def verify(path: Path) -> str | None:
    """Check a file against the SHA-256 beside it, and that its zip can be read to its end.

    Returns:
        What could not be checked; None if nothing.
    Raises:
        BrokenFileError: the sum is another one, or the zip is broken.
        SourceError: the file cannot be read, or the zip does not hold one CSV.
    """
    digest = _digest(path)
    note = _check_sum(path, digest)
    with _zip_errors(path, digest), zipfile.ZipFile(path) as archive:
        _only_csv(archive, path)
        broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} in it is damaged")
    return note


def read_archive(
    path: Path,
    instrument: Instrument,
    *,
    ingested: datetime,
    latest_us: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[FileBatch]:
    """Read a verified file in chunks.

    Raises:
        SourceError: the zip does not hold one CSV; or that is empty, or without a trade among its
            first thousand lines.
    """
    unit, is_empty = None, True
    with zipfile.ZipFile(path) as archive, archive.open(_only_csv(archive, path)) as opened:
        pieces = read_pieces(opened, block_bytes=chunk_bytes)
        for chunk in read_chunks(pieces, chunk_bytes=chunk_bytes):
            data, first_line = _without_header(chunk)
            unit = unit or detect_unit(data)
            parse = partial(
                parse_lines,
                instrument=instrument,
                unit=unit or "us",
                ingested=ingested,
                latest_us=latest_us,
                first_line=first_line,
            )
            if is_empty:
                _check_beginning(path, chunk, *parse(beginning(data)))
            rows, bad = parse(data)
            bad = chunk.bad_lines(bad, columns=len(COLUMNS))
            letters = [one.dead_letter(path.name) for one in bad]
            yield FileBatch("trades", instrument.exchange, rows, letters, chunk.n_bytes)
            is_empty = False
    if is_empty:
        raise SourceError(f"{path.name}: the file is empty")


def _without_header(chunk: Chunk) -> tuple[bytes, int]:
    if chunk.first_line > 1 or not is_header(chunk.data):
        return chunk.data, chunk.first_line
    return chunk.data.partition(b"\n")[2], 2


def _check_beginning(path: Path, chunk: Chunk, rows: pa.Table, bad: Sequence[BadLine]) -> None:
    """Refuse a file that has no trade among its first thousand lines, but other content."""
    if rows.num_rows:
        return
    head = beginning(chunk.data)
    content = _other_kind(head) or other_content(head, bad)
    if content is not None:
        raise SourceError(f"{path.name}: no trades of the spot market: {content}; {READ}")


def _other_kind(head: bytes) -> str | None:
    """Name another file of the archive by its columns; a single line is no such file."""
    lines = find_lines(head)
    columns = usual_columns(lines)
    if head.startswith(b"agg_trade_id,"):
        return "aggregate trades"
    if len(lines.starts) < 2 or columns == len(COLUMNS):
        return None
    kind = f", as {OTHER_KINDS[columns]} have" if columns in OTHER_KINDS else ""
    return f"{columns} columns{kind}, {len(COLUMNS)} expected"


def _zips(path: Path) -> list[Path]:
    files = expand_path(path, (".zip",))
    return [file for file in files if file.suffix.lower() == ".zip"] or [path]


def _kind(name: str) -> str:
    return "aggregate trades" if name == "aggTrades" else f"klines or other data ({name})"


def _digest(path: Path) -> str:
    try:
        check_is_file(path, str(path))
        with path.open("rb") as opened:
            return file_digest(opened, "sha256").hexdigest()
    except OSError as exc:
        raise SourceError(f"{path}: cannot be read: {exc.strerror}") from exc


def _check_sum(path: Path, digest: str) -> str | None:
    beside = path.with_name(f"{path.name}.CHECKSUM")
    if not beside.is_file():
        return "no .CHECKSUM beside it: not verified"
    with beside.open("rb") as opened:
        text = opened.read(CHECKSUM_BYTES).decode("utf-8-sig", errors="replace")
    published = text.split()[:1]
    if [digest] != [word.lower() for word in published]:
        shown = published[0] if published else "nothing"
        detail = f"its SHA-256 is {digest}, {beside.name} says {shown}"
        raise BrokenFileError(_letter(path, "bad_checksum", detail))
    return None


@contextmanager
def _zip_errors(path: Path, digest: str) -> Iterator[None]:
    try:
        yield
    except BROKEN_ZIP as exc:
        detail = f"not a readable zip: {exc} (SHA-256 {digest})"
        raise BrokenFileError(_letter(path, "broken_zip", detail)) from exc


def _letter(path: Path, reason: DeadLetterReason, detail: str) -> DeadLetter:
    with path.open("rb") as opened:
        head = opened.read(RAW_BYTES)
    return DeadLetter(path.name, f"file of {path.stat().st_size} bytes", reason, detail, head)


def _only_csv(archive: zipfile.ZipFile, path: Path) -> str:
    names = archive.namelist()
    if len(names) != 1 or not names[0].lower().endswith(".csv"):
        shown = [ascii(name)[1:-1] for name in names[:NAMED]]
        more = [f"{len(names) - NAMED:,} more"] if len(names) > NAMED else []
        listed = ", ".join(shown + more) or "nothing"
        raise SourceError(f"{path.name}: holds {listed}; one .csv expected")
    return names[0]

"""Source files: the lines of ASX files and Binance archives, parsed by DuckDB, beside the tables.

A line is a row of its table, or a dead letter, or blank. Of equal lines the table has as many rows
as the file that has most of them. Times are compared by the millisecond.
"""

import csv
import gzip
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
from duckdb import DuckDBPyConnection

from k2lib.audit.report import NAMED, Check, Difference, SymbolAccount
from k2lib.errors import SourceError

REFERENCE: Final = "reference-data"
MARKER: Final = "exchange.txt"
SUFFIXES: Final = (".csv", ".csv.gz", ".zip")
ARCHIVE: Final = re.compile(r"([^\W_]+)-trades-\d{4}-\d{2}(-\d{2})?\.zip", re.IGNORECASE)
LEVELS: Final = 6
TRADE_FIELDS: Final = 7
BATCH_LINES: Final = 100_000
HEADER: Final = re.compile(r'["A-Za-z_][\w "]*(,["A-Za-z_][\w "]*)*')
BROKEN: Final = (OSError, EOFError, zlib.error, zipfile.BadZipFile, csv.Error, UnicodeDecodeError)

# From a line's fields f: what identifies it among the lines of a file, its time, and its values.
ASX_TIME: Final = """timezone('Australia/Sydney',
    try_strptime(f[1] || ' ' || f[2], '%m/%d/%Y %H:%M:%S.%g'))"""
PARSED: Final = {
    "asx trades": f"""
        SELECT number, raw, len(f) = 7 AS whole, false AS counted_once, {ASX_TIME} AS moment,
            try_cast(f[3] AS DECIMAL(18,8)) AS price, try_cast(f[4] AS DECIMAL(19,8)) AS quantity,
            price || ' x ' || quantity || ' UNKNOWN' AS said,
            concat_ws('|', moment, said, f[5], f[6], f[7]) AS content""",
    "asx quotes": f"""
        SELECT number, raw, false AS counted_once, {ASX_TIME} AS moment,
            try_cast(f[3] AS DECIMAL(18,8)) AS bid, try_cast(f[5] AS DECIMAL(19,8)) AS bid_size,
            try_cast(f[4] AS DECIMAL(18,8)) AS ask, try_cast(f[6] AS DECIMAL(19,8)) AS ask_size,
            len(f) = 6 AND bid IS NOT NULL AND bid_size IS NOT NULL AND ask IS NOT NULL
                AND ask_size IS NOT NULL AS whole,
            CASE WHEN bid * bid_size <> 0 THEN bid END AS price,
            CASE WHEN bid * bid_size <> 0 THEN bid_size END AS quantity,
            coalesce(price || ' x ' || quantity, '') || ' / ' || CASE WHEN ask * ask_size <> 0
                THEN ask || ' x ' || ask_size ELSE '' END AS said,
            concat_ws('|', moment, said) AS content""",
    "archive": """
        SELECT number, raw, len(f) = 7 AS whole, true AS counted_once,
            make_timestamptz(try_cast(f[5] AS BIGINT) * if(len(f[5]) >= 16, 1, 1000)) AS moment,
            try_cast(f[2] AS DECIMAL(18,8)) AS price, try_cast(f[3] AS DECIMAL(19,8)) AS quantity,
            price || ' x ' || quantity || CASE lower(f[6])
                WHEN 'true' THEN ' SELL' WHEN 'false' THEN ' BUY' END AS said,
            f[1] AS content""",
}
STORED: Final = """
    SELECT 'trades_v2' AS target, exchange, symbol, timestamp AS moment, price, quantity,
        price || ' x ' || quantity || ' ' || side AS said
    FROM (SELECT * FROM trades_v2.rows UNION ALL SELECT * FROM trades_v2.deleted)
    UNION ALL
    SELECT 'quotes_v2', exchange, symbol, timestamp, bid_price, bid_quantity,
        coalesce(bid_price || ' x ' || bid_quantity, '') || ' / '
            || coalesce(ask_price || ' x ' || ask_quantity, '')
    FROM (SELECT * FROM quotes_v2.rows UNION ALL SELECT * FROM quotes_v2.deleted)"""


@dataclass(frozen=True)
class NamedFile:
    """A file, and of which instrument its lines are."""

    path: Path
    form: str
    exchange: str
    symbol: str

    @property
    def table(self) -> str:
        """The table that its lines are rows of."""
        return "quotes_v2" if self.form == "asx quotes" else "trades_v2"


def find_files(
    paths: Iterable[Path], *, reference: Path | None, exchange: str | None
) -> list[NamedFile]:
    """Return the ASX files and archives that the paths (files and folders) mean.

    Raises:
        SourceError: a path that is not there, or a file of which the instrument is not known.
    """
    found: dict[Path, NamedFile] = {}
    try:
        for path in paths:
            if not path.exists():
                raise SourceError(f"{path}: no such file or folder")
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            data = [one for one in inside if one.name.lower().endswith(SUFFIXES)]
            files = [one for one in data if one.parent.name != REFERENCE]
            if not files:
                raise SourceError(f"{path}: no .csv, .csv.gz or .zip file")
            for one in files:
                is_archive = one.name.lower().endswith(".zip")
                found[one] = _archive(one, exchange) if is_archive else _asx(one, reference)
    except BROKEN as exc:
        raise SourceError(f"{path}: cannot be read: {exc}") from exc
    return list(found.values())


def _archive(path: Path, exchange: str | None) -> NamedFile:
    name = ARCHIVE.fullmatch(path.name)
    if name is None:
        raise SourceError(f"{path}: no archive of trades, as BTCUSDT-trades-2025-01-31.zip")
    folders = path.resolve().parents[:LEVELS]
    marker = next((one / MARKER for one in folders if (one / MARKER).is_file()), None)
    venue = exchange or "BINANCE" if marker is None else marker.read_text("utf-8-sig").strip()
    return NamedFile(path, "archive", venue, name[1].upper())


def _asx(path: Path, reference: Path | None) -> NamedFile:
    beside = [reference] if reference else [one / REFERENCE for one in path.resolve().parents[:2]]
    folder = next((one for one in beside if (one / "company_info.csv").is_file()), None)
    if folder is None:
        raise SourceError(f"{path}: no reference data beside it: give --reference")
    with (folder / "company_info.csv").open(encoding="utf-8-sig", newline=None) as opened:
        symbols = {row[0]: row[1] for row in csv.reader(opened) if len(row) > 1}
    company = re.match("[0-9]*", path.name)
    symbol = symbols.get(company[0] if company else "")
    if symbol is None:
        raise SourceError(f"{path}: its company id is not in {folder / 'company_info.csv'}")
    marker = folder / MARKER
    exchange = marker.read_text("utf-8-sig").strip() if marker.is_file() else "ASX"
    with _lines(path) as opened:
        commas = [line.count(b",") for line in islice(opened, 1000) if line.strip()]
    usual = max(set(commas), key=commas.count, default=0) + 1
    return NamedFile(
        path, "asx trades" if usual == TRADE_FIELDS else "asx quotes", exchange, symbol
    )


def _lines(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path)  # type: ignore[return-value]
    if path.name.lower().endswith(".zip"):
        archive = zipfile.ZipFile(path)
        return archive.open(archive.namelist()[0])
    return path.open("rb")


def compare_files(
    connection: DuckDBPyConnection, files: Sequence[NamedFile], *, parts: bool
) -> tuple[list[SymbolAccount], list[Check]]:
    """Compare the lines of the files with the rows of the same instruments and times.

    Args:
        parts: all files of one instrument are parts of one.
    Raises:
        SourceError: a file cannot be read.
    """
    connection.execute(
        """CREATE TABLE source_rows (target VARCHAR, exchange VARCHAR, symbol VARCHAR, file VARCHAR,
            moment TIMESTAMPTZ, price DECIMAL(18,8), quantity DECIMAL(19,8), said VARCHAR,
            content VARCHAR, counted_once BOOLEAN);
        CREATE MACRO plain(d) AS coalesce(rtrim(rtrim(d::VARCHAR, '0'), '.'), '0');
        CREATE TABLE refused (target VARCHAR, path VARCHAR, number BIGINT)"""
    )
    for one in files:
        _read(connection, one, file=one.symbol if parts else str(one.path))
    connection.execute(
        f"""CREATE TABLE expected AS
            SELECT target, exchange, symbol, moment, said, price, quantity, sum(n)::BIGINT AS n
            FROM (
                SELECT *, row_number() OVER (PARTITION BY target, exchange, symbol, content
                    ORDER BY n DESC) AS turn
                FROM (SELECT target, exchange, symbol, moment, said, price, quantity, content, file,
                    if(any_value(counted_once), 1, count(*)) AS n
                    FROM source_rows GROUP BY ALL)
            ) WHERE turn = 1 GROUP BY ALL;
        CREATE TABLE stored AS
            SELECT target, exchange, symbol, date_trunc('milliseconds', moment) AS moment, said,
                price, quantity, count(*) AS n
            FROM ({STORED}) JOIN (
                SELECT target, exchange, symbol, min(moment) AS first,
                    max(moment) + INTERVAL 1 MILLISECOND AS last
                FROM source_rows GROUP BY ALL
            ) USING (target, exchange, symbol)
            WHERE moment >= first AND moment < last GROUP BY ALL"""
    )
    tables = dict.fromkeys(sorted((one.table for one in files), reverse=True))
    return _accounts(connection), [_compare(connection, table, files) for table in tables]


def _read(connection: DuckDBPyConnection, named: NamedFile, *, file: str) -> None:
    """Parse a file's lines, but for those that are dead letters."""
    for batch in _batches(named):
        connection.register("lines", batch)
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE letters AS
            SELECT number, message_id,
                uuid5(concat_ws('|', source, position, sha256(lines.raw))) AS id_of_line
            FROM lines JOIN dead_letters.rows ON position = 'line ' || number
            WHERE source = ?""",
            [named.path.name],
        )
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE parsed AS
            {PARSED[named.form]}
            FROM (SELECT *, string_split(line, ',') AS f FROM lines)
            WHERE number NOT IN (SELECT number FROM letters WHERE message_id = id_of_line)"""
        )
        connection.execute(
            """INSERT INTO source_rows
            SELECT ?, ?, ?, ?, date_trunc('milliseconds', moment), price, quantity, said, content,
                counted_once
            FROM parsed WHERE whole AND moment IS NOT NULL AND said IS NOT NULL""",
            [named.table, named.exchange, named.symbol, file],
        )
        connection.execute(
            """INSERT INTO refused SELECT ?, ?, number
            FROM parsed WHERE NOT whole OR moment IS NULL OR said IS NULL""",
            [named.table, str(named.path)],
        )
        connection.unregister("lines")


def _batches(named: NamedFile) -> Iterator[pa.Table]:
    """Read lines: number, bytes and text of each that is not blank."""
    try:
        with _lines(named.path) as opened:
            lines = enumerate(opened, start=1)
            while some := list(islice(lines, BATCH_LINES)):
                rows = [(number, raw.rstrip(b"\r\n")) for number, raw in some]
                if some[0][0] == 1:
                    rows[0] = (1, rows[0][1].removeprefix(b"\xef\xbb\xbf"))
                    if named.form == "archive" and HEADER.fullmatch(rows[0][1].decode("latin-1")):
                        rows = rows[1:]
                rows = [one for one in rows if one[1]]
                numbers = pa.array([number for number, _ in rows], pa.int64())
                raw = pa.array([one for _, one in rows], pa.binary())
                text = pa.array([one.decode(errors="replace") for _, one in rows], pa.string())
                yield pa.table({"number": numbers, "raw": raw, "line": text})
    except BROKEN as exc:
        raise SourceError(f"{named.path}: cannot be read: {exc}") from exc


def _accounts(connection: DuckDBPyConnection) -> list[SymbolAccount]:
    totals = connection.execute(
        """SELECT target, exchange, symbol,
            coalesce(sum(n) FILTER (side = 'files'), 0)::BIGINT,
            coalesce(sum(n) FILTER (side = 'table'), 0)::BIGINT,
            plain(sum(price * n) FILTER (side = 'files')),
            plain(sum(price * n) FILTER (side = 'table')),
            plain(sum(quantity * n) FILTER (side = 'files')),
            plain(sum(quantity * n) FILTER (side = 'table'))
        FROM (SELECT 'files' AS side, * FROM expected UNION ALL SELECT 'table', * FROM stored)
        GROUP BY ALL ORDER BY ALL"""
    )
    return [SymbolAccount(*one) for one in totals.fetchall()]


def _compare(connection: DuckDBPyConnection, table: str, files: Sequence[NamedFile]) -> Check:
    """Compare how often each symbol, time, price and quantity is there."""
    refused = connection.execute(
        """SELECT path, count(*), min(number) FROM refused
        WHERE target = ? GROUP BY ALL ORDER BY ALL""",
        [table],
    ).fetchall()
    others = connection.execute(
        """SELECT exchange, symbol, sum(coalesce(expected.n, 0)), sum(coalesce(stored.n, 0)),
            count(*), min(moment || ' ' || said)
        FROM expected FULL JOIN stored USING (target, exchange, symbol, moment, said)
        WHERE target = ? AND expected.n IS DISTINCT FROM stored.n
        GROUP BY ALL ORDER BY ALL""",
        [table],
    ).fetchall()
    (counted,) = connection.execute(
        "SELECT coalesce(sum(n), 0) FROM expected WHERE target = ?", [table]
    ).fetchall()[0]
    differences = [
        Difference(
            path, "each line is a row or a dead letter", f"{n:,} are neither", f"line {line}"
        )
        for path, n, line in refused
    ]
    differences += [
        Difference(
            f"{exchange} {symbol}",
            f"{expected:,} rows, as the files have",
            f"{stored:,} in the table, at {n:,} prices and times that differ",
            example,
        )
        for exchange, symbol, expected, stored, n, example in others
    ]
    counted_text = f"{int(counted):,} rows of {sum(one.table == table for one in files):,} files"
    return Check("rows of named files", table, counted_text, tuple(differences[:NAMED]))

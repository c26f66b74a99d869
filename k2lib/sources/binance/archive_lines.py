"""Lines of Binance's trade CSVs to v2 rows: pure, by whole columns."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from k2lib.model.dead_letters import DeadLetter
from k2lib.sources.binance.rows import TradeColumns, Unit, trade_rows
from k2lib.sources.binance.symbols import Instrument
from k2lib.sources.lines import BadLine, find_lines, to_columns

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
TIME_OF_A_LINE: Final = re.compile(rb"^[^\n]*,([0-9]{13,16}),[A-Za-z]+,[A-Za-z]+\r?$", re.MULTILINE)


def is_header(data: bytes) -> bool:
    """Say whether the first line names columns: none of its fields begins with a digit."""
    line = data.partition(b"\n")[0].strip()
    return bool(line) and not any(field[:1].isdigit() for field in line.split(b","))


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
    exchange: str,
    unit: Unit,
    ingested: datetime,
    latest_us: int,
    source: str,
    first_line: int,
) -> tuple[pa.Table, list[DeadLetter], int]:
    """Turn whole lines into rows of `schemas.TRADE` in their order.

    Args:
        ingested: ingestion time of every row, aware.
        source: the file's name in dead letters.
        first_line: number of the first line in its file.
    Returns:
        The rows, the dead letters in file order, and how many lines there were.
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
        exchange=exchange,
        unit=unit,
        latest_us=latest_us,
    )
    for one in rows.refusals:
        number = int(numbers[one.index])
        bad.append(BadLine(number, lines.raw(number - first_line), one.reason, one.detail))
    letters = [
        DeadLetter(source, f"line {one.number}", one.reason, one.detail, one.raw)
        for one in sorted(bad, key=lambda one: one.number)
    ]
    return rows.table, letters, len(lines.starts)


def _is_readable() -> pl.Expr:
    return pl.all_horizontal(
        *(pl.col(name).str.contains(LONG) for name in INTEGERS),
        *(pl.col(name).is_in(list(BOOLEANS)) for name in ("is_buyer_maker", "is_best_match")),
    )


def _why(row: dict[str, str]) -> tuple[str, str]:
    for name in INTEGERS:
        if not re.fullmatch(LONG, row[name]):
            return "bad_number", f"{name} {row[name]!r} is not a whole number"
    name = "is_best_match" if row["is_buyer_maker"] in BOOLEANS else "is_buyer_maker"
    return "bad_flag", f"{name} {row[name]!r} is not True or False"


def _columns(written: pl.DataFrame, ingested_us: int) -> TradeColumns:
    n_rows = written.height
    return TradeColumns(
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

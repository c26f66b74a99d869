"""Frames checked, put in the order of events, and given new columns in the rows' own order."""

from collections.abc import Collection, Sequence
from typing import Final

import polars as pl

from k2lib.errors import QueryError
from k2lib.schema.order import INSTRUMENT_ORDER

INSTRUMENT: Final = ("exchange", "symbol")
# Where a frame lacks some of these, equal times stay in the order in which they were given.
TIES: Final = INSTRUMENT_ORDER[1:]
RUN: Final = "instrument_run"
ROW_NUMBER: Final = "row_number"
TIME: Final = pl.Datetime("us", "UTC")
TYPES: Final[dict[str, pl.DataType]] = {
    "exchange": pl.String(),
    "symbol": pl.String(),
    "timestamp": TIME,
    "start": TIME,
    "side": pl.String(),
    "sign": pl.Int8(),
    "trading_date": pl.Date(),
    "vendor_data": pl.Map(pl.String(), pl.String()),
}
MONEY: Final = ("price", "quantity", "bid_price", "bid_quantity", "ask_price", "ask_quantity")
MONEY_TYPE: Final = pl.Decimal(18, 8)
SOURCES: Final = {
    "trades": "k2.trades(...)",
    "quotes": "k2.quotes(...)",
    "signed": "tick_rule(...) or lee_ready(...)",
    "bars": "k2.bars(...)",
    "frame": "k2.trades(...), k2.quotes(...) or k2.bars(...)",
}
SIDES: Final = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")
MAY_BE_NULL: Final = (*SIDES, "sign", "vendor_data")


def check(frame: pl.DataFrame, what: str, columns: Collection[str]) -> None:
    """Refuse what is no frame with these columns, of their types and without unforeseen nulls.

    Args:
        what: name of the argument, a key of `SOURCES`.
    Raises:
        QueryError: names the column and what to give instead.
    """
    if not isinstance(frame, pl.DataFrame):
        raise QueryError(
            f"{what} is a {type(frame).__name__}: give a Polars DataFrame, "
            f"for example of {SOURCES[what]}"
        )
    for name in (*INSTRUMENT, *columns):
        _check_column(frame, what, name)


def refuse_columns(frame: pl.DataFrame, what: str, columns: Collection[str]) -> None:
    """Refuse a frame that has columns which are to be added.

    Raises:
        QueryError: names them.
    """
    there = [name for name in columns if name in frame.columns]
    if there:
        names = ", ".join(there)
        raise QueryError(f"{what} has {names} already: drop or rename it first")


def in_order(
    frame: pl.DataFrame, columns: Sequence[str], *, time: str = "timestamp"
) -> pl.DataFrame:
    """Return some columns of a checked frame, by instrument and then in the order of events.

    Returns:
        exchange, symbol, the time and the columns; `RUN`, the number of the instrument, from 1;
        and `ROW_NUMBER`, the number of the row in the frame as given, from 0.
    """
    keys = frame.select(*INSTRUMENT, at=time).with_row_index(ROW_NUMBER)
    placed = _by_instrument(
        keys if keys["at"].is_sorted() else keys.sort("at", maintain_order=True)
    )
    ties = [name for name in TIES if name in frame.columns]
    if ties:
        placed = _with_ties_sorted(placed, frame.select(ties))
    row_numbers = placed[ROW_NUMBER]
    rows = frame.select(*INSTRUMENT, time, *columns)
    if not row_numbers.is_sorted():
        rows = rows[row_numbers]
    return rows.with_columns(placed[RUN], row_numbers)


def add(frame: pl.DataFrame, rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Return a frame with columns of `rows`, which are its rows in the order of `in_order`."""
    if not rows[ROW_NUMBER].is_sorted():
        rows = rows.select(ROW_NUMBER, *columns).sort(ROW_NUMBER)
    return frame.with_columns(rows.select(columns))


def _check_column(frame: pl.DataFrame, what: str, name: str) -> None:
    if name not in frame.columns:
        raise QueryError(
            f"{what} has no column {name}: give {what} with the columns of {SOURCES[what]}; "
            f"there are {', '.join(frame.columns) or 'none'}"
        )
    found, expected = frame.schema[name], MONEY_TYPE if name in MONEY else TYPES.get(name)
    if expected is not None and not _fits(found, expected):
        raise QueryError(f"{what}: column {name} is {found!r}: cast it to {expected!r}")
    if name not in MAY_BE_NULL and frame[name].null_count():
        rows = frame[name].null_count()
        raise QueryError(f"{what}: column {name} is null in {rows} rows: drop those rows first")


def _fits(found: pl.DataType, expected: pl.DataType) -> bool:
    """A decimal of scale 8 holds the same units whatever its precision."""
    if isinstance(expected, pl.Decimal):
        return isinstance(found, pl.Decimal) and found.scale == expected.scale
    return found == expected


def _by_instrument(keys: pl.DataFrame) -> pl.DataFrame:
    """One sort by all keys would take ten times as long."""
    groups = keys.group_by(INSTRUMENT).agg("at", ROW_NUMBER).sort(INSTRUMENT).with_row_index(RUN, 1)
    return groups.select(RUN, "at", ROW_NUMBER).explode("at", ROW_NUMBER, empty_as_null=False)


def _with_ties_sorted(placed: pl.DataFrame, ties: pl.DataFrame) -> pl.DataFrame:
    """Sort among themselves the rows that share instrument and time; the others stay."""
    same = (pl.col(RUN) == pl.col(RUN).shift()) & (pl.col("at") == pl.col("at").shift())
    tied = placed.select(same.fill_null(False)).to_series()
    tied |= tied.shift(-1, fill_value=False)
    among = placed.filter(tied)
    among = among.with_columns(ties[among[ROW_NUMBER]])
    order = [RUN, "at", *ties.columns]
    if among.select(pl.struct(order)).to_series().is_sorted():
        return placed
    among = among.sort(order, maintain_order=True).select(RUN, "at", ROW_NUMBER)
    spots = pl.concat([(~tied).arg_true(), tied.arg_true()])
    return pl.concat([placed.filter(~tied), among])[spots.arg_sort()]

"""Every function takes rows in any order and none, and refuses frames that do not fit."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.analytics_rows import (
    Row,
    by_instrument,
    many_quotes,
    many_trades,
    quotes_frame,
    trades_frame,
)
from support.documents import ROOT, quoted, rows, section
from support.lake_rows import append, catalog_in, quote, trade

from k2lib import analytics
from k2lib.analytics.frames import ROW_NUMBER, RUN, in_order
from k2lib.errors import QueryError
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.query.statistics import read_bars

READING = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
Function = Callable[[pl.DataFrame], pl.DataFrame]
OF_TRADES: dict[str, Function] = {
    "time_bars": lambda trades: analytics.time_bars(trades, "1m"),
    "tick_bars": lambda trades: analytics.tick_bars(trades, 2),
    "volume_bars": lambda trades: analytics.volume_bars(trades, 100),
    "dollar_bars": lambda trades: analytics.dollar_bars(trades, 1000),
    "day_summary": analytics.day_summary,
    "vwap": analytics.vwap,
    "tick_rule": analytics.tick_rule,
    "lee_ready": lambda trades: analytics.lee_ready(trades, quotes_frame([])),
    "trades_with_quotes": lambda trades: analytics.trades_with_quotes(trades, quotes_frame([])),
    "trade_imbalance": lambda trades: analytics.trade_imbalance(_signed(trades), "1m"),
    "returns": lambda trades: analytics.returns(_as_bars(trades)),
    "realised_volatility": lambda trades: analytics.realised_volatility(_as_bars(trades), 252),
    "session": analytics.session,
    "continuous_trading": analytics.continuous_trading,
    "trading_date": analytics.trading_date,
    "on_market": analytics.on_market,
}
OF_QUOTES: dict[str, Function] = {
    "spread": analytics.spread,
    "time_weighted_spread": analytics.time_weighted_spread,
    "order_flow_imbalance": lambda quotes: analytics.order_flow_imbalance(quotes, "1m"),
    "lee_ready": lambda quotes: analytics.lee_ready(trades_frame([trade(1)]), quotes),
    "trades_with_quotes": lambda quotes: analytics.trades_with_quotes(
        trades_frame([trade(1)]), quotes
    ),
}
of_trades = pytest.mark.parametrize("function", OF_TRADES.values(), ids=OF_TRADES.keys())
of_quotes = pytest.mark.parametrize("function", OF_QUOTES.values(), ids=OF_QUOTES.keys())


def _signed(trades: pl.DataFrame) -> pl.DataFrame:
    return trades.with_columns(sign=pl.lit(1, pl.Int8))


def _as_bars(trades: pl.DataFrame) -> pl.DataFrame:
    names = {"timestamp": "start", "price": "close"}
    return trades.rename(names, strict=False)


def _is_sorted_out(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    keys = [name for name in ("message_id", *one.columns[:4]) if name in one.columns]
    return one.sort(keys, maintain_order=True).equals(other.sort(keys, maintain_order=True))


def test_every_public_function_is_tried_here() -> None:
    assert {*OF_TRADES, *OF_QUOTES} == set(analytics.__all__)


@of_trades
def test_no_trades_give_no_rows_of_the_same_columns(function: Function) -> None:
    none, some = function(trades_frame([])), function(trades_frame([trade(1), trade(2)]))
    assert none.is_empty()
    assert none.schema == some.schema


@of_quotes
def test_no_quotes_give_the_same_columns(function: Function) -> None:
    none, some = function(quotes_frame([])), function(quotes_frame([quote(1), quote(2)]))
    assert none.schema == some.schema


@of_trades
@settings(max_examples=25)
@given(rows=many_trades(), seed=st.integers(0, 3))
def test_trades_may_come_in_any_order(function: Function, rows: list[Row], seed: int) -> None:
    frame = trades_frame(rows)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=seed)
    found = function(frame)
    if len(found) == len(frame) and "message_id" in found.columns:
        assert found["message_id"].to_list() == frame["message_id"].to_list()
    assert _is_sorted_out(found, function(shuffled))


@of_quotes
@settings(max_examples=25)
@given(rows=many_quotes(), seed=st.integers(0, 3))
def test_quotes_may_come_in_any_order(function: Function, rows: list[Row], seed: int) -> None:
    frame = quotes_frame(rows)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=seed)
    assert _is_sorted_out(function(frame), function(shuffled))


@pytest.mark.slow
@given(many_trades(40))
def test_rows_are_put_in_the_order_of_events(rows: list[Row]) -> None:
    found = in_order(trades_frame(rows), ["message_id"])
    expected = [
        (run, row["message_id"], rows.index(row))
        for run, (_, of_it) in enumerate(by_instrument(rows), start=1)
        for row in of_it
    ]
    assert found.select(RUN, "message_id", ROW_NUMBER).rows() == expected


@pytest.mark.slow
@given(many_trades())
def test_without_their_sequences_equal_times_stay_as_given(rows: list[Row]) -> None:
    rows = [{**row, "source_sequence": None, "platform_sequence": n} for n, row in enumerate(rows)]
    frame = trades_frame(rows)
    bare = frame.select("exchange", "symbol", "timestamp", "price", "quantity")
    assert analytics.tick_bars(bare, 2).equals(analytics.tick_bars(frame, 2))


@of_trades
@pytest.mark.parametrize("name", ["exchange", "symbol"])
def test_a_missing_column_is_named_with_what_to_give(function: Function, name: str) -> None:
    with pytest.raises(QueryError, match=rf"has no column {name}: give .* of (k2\.|tick_rule)"):
        function(trades_frame([trade(1)]).drop(name))


@pytest.mark.parametrize("name", sorted(OF_TRADES.keys() - {"on_market"}))
def test_a_missing_time_is_named(name: str) -> None:
    with pytest.raises(QueryError, match=r"has no column (timestamp|start): give"):
        OF_TRADES[name](trades_frame([trade(1)]).drop("timestamp"))


@of_quotes
@pytest.mark.parametrize("name", ["bid_price", "ask_price", "symbol"])
def test_a_missing_side_is_named_with_what_to_give(function: Function, name: str) -> None:
    with pytest.raises(QueryError, match=rf"quotes has no column {name}: .* k2\.quotes\(\.\.\.\)"):
        function(quotes_frame([quote(1)]).drop(name))


@pytest.mark.parametrize(
    ("column", "kind", "remedy"),
    [
        ("price", pl.Float64, r"price is Float64: cast it to Decimal\(precision=18, scale=8\)"),
        ("quantity", pl.Decimal(18, 6), "quantity is Decimal.*scale=6.*cast it to Decimal"),
        ("timestamp", pl.Datetime("us"), "timestamp is Datetime.*cast it to Datetime.*'UTC'"),
        ("timestamp", pl.Datetime("ms", "UTC"), "timestamp is Datetime.*cast it to"),
        ("symbol", pl.Categorical, "symbol is Categorical.*cast it to String"),
    ],
)
def test_columns_of_other_types_are_refused(column: str, kind: Any, remedy: str) -> None:
    frame = trades_frame([trade(1)])
    other = frame.with_columns(
        pl.col(column).dt.replace_time_zone(None).dt.cast_time_unit(kind.time_unit)
        if kind == pl.Datetime("us")
        else pl.col(column).cast(kind)
    )
    with pytest.raises(QueryError, match=f"^trades: column {remedy}"):
        analytics.vwap(other)


def test_decimals_of_more_digits_are_taken() -> None:
    frame = trades_frame([trade(1), trade(2)])
    wide = frame.with_columns(pl.col("price", "quantity").cast(pl.Decimal(38, 8)))
    assert analytics.vwap(wide).equals(analytics.vwap(frame))


def test_nulls_where_none_can_be_are_refused() -> None:
    frame = trades_frame([trade(1), trade(2)]).with_columns(price=pl.lit(None, pl.Decimal(18, 8)))
    with pytest.raises(QueryError, match="price is null in 2 rows: drop those rows first"):
        analytics.vwap(frame)


@pytest.mark.parametrize("frame", [trades_frame([]).lazy(), None, [1]])
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    with pytest.raises(QueryError, match=r"trades is a .*: give a Polars DataFrame"):
        analytics.vwap(frame)
    for function in (analytics.returns, analytics.session, analytics.tick_rule):
        with pytest.raises(QueryError, match="give a Polars DataFrame"):
            function(frame)


def test_a_sign_that_is_no_number_is_refused() -> None:
    signed = trades_frame([trade(1)]).with_columns(sign=pl.lit("1"))
    with pytest.raises(QueryError, match="signed: column sign is String: cast it to Int8"):
        analytics.trade_imbalance(signed, timedelta(minutes=1))


def test_frames_of_the_lake_fit(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    append(catalog, [trade(n) for n in range(3)])
    append(catalog, [quote(0, ask_price=Decimal("36.70"), ask_quantity=Decimal(1))], "quotes_v2")
    with Engine(catalog) as engine:
        request = ReadRequest("BHP")
        trades = engine.read("trades_v2", request).frame
        quotes = engine.read("quotes_v2", request).frame
        of_sql = read_bars(engine, request).frame
    assert analytics.time_bars(trades, "1m").equals(of_sql)
    assert analytics.lee_ready(trades, quotes)["sign"].to_list() == [None, -1, -1]
    assert analytics.spread(quotes)["spread"].item() == Decimal("0.04")
    assert analytics.returns(of_sql)["return"].to_list() == [None]


def test_the_document_names_every_function_with_its_arguments() -> None:
    told = [quoted(row[0])[0] for row in rows(section(READING, "Analytics"))]
    calls = [ast.parse(call, mode="eval").body for call in told]
    named = {
        call.func.id: [*(one.id for one in call.args), *(one.arg for one in call.keywords)]
        for call in calls
    }
    assert named == {
        name: list(inspect.signature(getattr(analytics, name)).parameters)
        for name in analytics.__all__
    }


def test_importing_the_analytics_imports_little() -> None:
    heavy = "{'duckdb', 'pyarrow', 'pandas', 'confluent_kafka', 'pyiceberg'}"
    check = f"import sys; from k2lib import analytics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"

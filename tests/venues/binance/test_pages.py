"""REST replies: the same trades as on the stream, and aggregates that are one trade."""

import json
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.binance_facts import (
    CORE,
    INSTRUMENTS,
    LATEST_US,
    RECEIVED_US,
    Fact,
    aggregates_body,
    core,
    csv_line,
    rest_body,
    stream_frame,
)

from k2lib.errors import RecordError
from k2lib.schema.records import TRADE
from k2lib.venues.base import BackfillPage, Instrument
from k2lib.venues.binance.archive import parse_lines
from k2lib.venues.binance.messages import parse_frames
from k2lib.venues.binance.pages import aggregates_page, single_trades, trades_page
from k2lib.venues.binance.rows import Unit

BTCUSDT = INSTRUMENTS["BTCUSDT"]
FACTS: dict[str, Any] = {
    "instrument": BTCUSDT,
    "received_us": RECEIVED_US,
    "latest_us": LATEST_US,
    "source": "rest",
}


def page(body: bytes, unit: Unit = "us") -> BackfillPage:
    return trades_page(body, unit=unit, **FACTS)


def singles(body: bytes, unit: Unit = "us") -> BackfillPage:
    return single_trades(aggregates_page(body, unit=unit), **FACTS)


def streamed(facts: list[Fact], unit: Unit = "us") -> pa.Table:
    return parse_frames(
        [stream_frame(fact, unit_us={"us": 1, "ms": 1000}[unit]) for fact in facts],
        [RECEIVED_US] * len(facts),
        instruments=INSTRUMENTS,
        unit=unit,
        latest_us=LATEST_US,
        source="x",
    ).trades


def archived(facts: list[Fact], unit: Unit) -> pa.Table:
    lines = [csv_line(fact, unit_us={"us": 1, "ms": 1000}[unit]) for fact in facts]
    table, bad_lines = parse_lines(
        "".join(f"{line}\n" for line in lines).encode(),
        BTCUSDT,
        unit=unit,
        ingested=pl.select(pl.lit(RECEIVED_US).cast(pl.Datetime("us", "UTC"))).item(),
        latest_us=LATEST_US,
        first_line=1,
    )
    assert not bad_lines
    return table


FACTS_OF_A_SYMBOL = st.lists(
    st.builds(
        Fact,
        trade_id=st.integers(0, 10**17),
        price=st.decimals("0.00000001", "9999999999.99999999", places=8).map("{:f}".format),
        quantity=st.decimals("0.00000001", "9999999999.99999999", places=8).map("{:f}".format),
        time_us=st.integers(1_483_228_800_000_000, LATEST_US),
        buyer_is_maker=st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=30)
@given(FACTS_OF_A_SYMBOL)
def test_a_trade_is_the_same_wherever_it_was_read(facts: list[Fact]) -> None:
    wanted = core(streamed(facts))
    assert core(page(rest_body(facts)).rows) == wanted
    assert core(singles(aggregates_body(facts)).rows) == wanted
    assert core(archived(facts, "us")) == wanted


@settings(max_examples=30)
@given(FACTS_OF_A_SYMBOL)
def test_in_milliseconds_a_trade_is_the_same_but_for_the_rest_of_its_time(
    facts: list[Fact],
) -> None:
    stream = streamed(facts)
    coarse = [time.replace(microsecond=time.microsecond // 1000 * 1000) for time in times(stream)]
    others = [name for name in CORE if name != "timestamp"]
    for rows in (
        page(rest_body(facts, unit_us=1000), "ms").rows,
        singles(aggregates_body(facts, unit_us=1000), "ms").rows,
        archived(facts, "ms"),
        streamed(facts, "ms"),
    ):
        assert times(rows) == coarse
        assert core(rows, others) == core(stream, others)


def times(rows: pa.Table) -> list[Any]:
    return list(rows["timestamp"].to_pylist())


def test_vendor_data_of_a_rest_trade_has_the_fields_by_our_names() -> None:
    (row,) = page(rest_body([Fact()])).rows.to_pylist(maps_as_pydicts="strict")
    assert row["vendor_data"] == {
        "base_asset": "BTC",
        "is_best_match": "true",
        "is_buyer_maker": "true",
        "origin": "rest",
        "quote_asset": "USDT",
        "quote_quantity": "142.68451500",
    }


def test_unknown_fields_are_kept_and_missing_ones_are_not_made_up() -> None:
    body = b'[{"id":1,"price":"1","qty":"2","time":1735800000000000,"isBuyerMaker":false,"x":1.0}]'
    (row,) = page(body).rows.to_pylist(maps_as_pydicts="strict")
    assert set(row["vendor_data"]) == {"base_asset", "is_buyer_maker", "origin", "quote_asset", "x"}
    assert row["vendor_data"]["x"] == "1.0"


def test_a_page_has_its_trades_in_order_and_their_ids() -> None:
    result = page(rest_body([Fact(7), Fact(8), Fact(9)]))
    assert result.rows["source_sequence"].to_pylist() == [7, 8, 9]
    assert result.ids.tolist() == [7, 8, 9]
    assert result.rows.schema == TRADE.arrow


def test_an_empty_page_is_no_rows() -> None:
    result = page(b"[]")
    assert (result.rows.num_rows, result.ids.tolist(), result.refused) == (0, [], [])


def test_a_trade_that_does_not_fit_is_a_dead_letter_and_its_id_came() -> None:
    result = page(rest_body([Fact(1), Fact(2, quantity="92233720368.54775808"), Fact(3)]))
    (letter,) = result.refused
    assert (letter.reason, letter.position) == ("overflow", f"{RECEIVED_US}:1")
    assert json.loads(letter.raw)["id"] == 2
    assert result.rows["source_sequence"].to_pylist() == [1, 3]
    assert result.ids.tolist() == [1, 2, 3]


def test_a_malformed_trade_costs_itself_only_and_keeps_its_place() -> None:
    good = rest_body([Fact(1)])[1:-1]
    zero = rest_body([Fact(2)], price="0")[1:-1]
    result = page(b"[7,%s,%s,%s]" % (good, good.replace(b'"id"', b'"no"'), zero))
    assert result.rows.num_rows == 1
    assert [(one.position.split(":")[1], one.reason) for one in result.refused] == [
        ("0", "not_json"),
        ("2", "bad_field"),
        ("3", "not_positive"),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"code":-1121,"msg":"x"}', b"<html>", b"[1", b"\xff"]
)
def test_another_reply_is_no_page(body: bytes) -> None:
    with pytest.raises(RecordError, match="no list of trades"):
        page(body)
    with pytest.raises(RecordError, match="no aggregate trades"):
        aggregates_page(body, unit="us")


def test_a_time_in_the_other_unit_is_refused() -> None:
    (letter,) = page(rest_body([Fact()], unit_us=1000)).refused
    assert (letter.reason, letter.detail.split("; ")[1]) == ("bad_time", "milliseconds?")


def test_aggregates_keep_what_covers_a_gap() -> None:
    body = aggregates_body([Fact(5)], unit_us=1000, l=9)
    (found,) = aggregates_page(body, unit="ms")
    assert (found.aggregate_id, found.first_id, found.last_id) == (7000, 5, 9)
    assert (found.price, found.quantity) == ("95123.01000000", "0.00150000")
    assert (found.time_us, found.is_buyer_maker) == (1_735_800_000_000_000, True)


def test_aggregates_that_binance_voided_are_left_out() -> None:
    voided = aggregates_body([Fact()], p="0", q="0", f=-1, l=-1)
    assert aggregates_page(voided, unit="us") == []


def test_only_an_aggregate_of_one_trade_is_that_trade() -> None:
    several, one = aggregates_body([Fact(5)], l=9)[1:-1], aggregates_body([Fact(10)])[1:-1]
    found = singles(b"[%s,%s]" % (several, one))
    assert found.ids.tolist() == [10]
    (row,) = found.rows.to_pylist(maps_as_pydicts="strict")
    assert row["vendor_data"]["origin"] == "aggregate"
    assert row["vendor_data"]["aggregate_id"] == "7000"


def test_an_aggregate_that_does_not_fit_is_a_dead_letter() -> None:
    found = singles(aggregates_body([Fact(1), Fact(2, price="10000000000")]))
    (letter,) = found.refused
    assert (letter.reason, json.loads(letter.raw)["first_id"]) == ("overflow", 2)
    assert found.rows["price"].to_pylist() == [Decimal("95123.01")]


def test_the_assets_are_those_of_the_instrument() -> None:
    facts = FACTS | {"instrument": Instrument("BINANCE", "WIFUSDC", "WIF", "USDC")}
    (row,) = trades_page(rest_body([Fact()]), unit="us", **facts).rows.to_pylist()
    assert (row["symbol"], row["currency"]) == ("WIFUSDC", "USDC")

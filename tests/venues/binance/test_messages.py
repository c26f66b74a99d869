"""Frames of `@trade` and `@bookTicker`: rows, dead letters, and nothing in between."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.binance_facts import INSTRUMENTS, LATEST_US, RECEIVED_US, Fact, combined, stream_frame

from k2lib.schema.identity import message_id
from k2lib.schema.records import QUOTE, TRADE
from k2lib.venues.base import ParsedFrames
from k2lib.venues.binance.messages import parse_frames
from k2lib.venues.binance.rows import Unit

TRADE_FRAME = stream_frame(Fact())
QUOTE_FRAME = (
    b'{"u":400900217,"s":"BTCUSDT","b":"25.35190000","B":"31.21000000",'
    b'"a":"25.36520000","A":"40.66000000"}'
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parsed(*frames: bytes, unit: Unit = "us", exchange: str = "BINANCE") -> ParsedFrames:
    return parse_frames(
        frames,
        range(RECEIVED_US, RECEIVED_US + len(frames)),
        instruments={n: replace(one, exchange=exchange) for n, one in INSTRUMENTS.items()},
        unit=unit,
        latest_us=LATEST_US,
        source="market.crypto.trades.binance",
    )


def trade(frame: bytes, **options: Any) -> dict[str, Any]:
    result = parsed(frame, **options)
    assert not result.refused
    (row,) = result.trades.to_pylist(maps_as_pydicts="strict")
    return row


def quote(frame: bytes) -> dict[str, Any]:
    (row,) = parsed(frame).quotes.to_pylist(maps_as_pydicts="strict")
    return row


def refused(frame: bytes, *, unit: Unit = "us") -> tuple[str, str]:
    result = parsed(frame, unit=unit)
    assert result.trades.num_rows + result.quotes.num_rows == 0
    (letter,) = result.refused
    assert letter.raw == frame
    return letter.reason, letter.detail


def test_a_trade_frame_is_a_row() -> None:
    assert trade(TRADE_FRAME) == {
        "message_id": "46a9b5c1-e348-5ccd-b634-d6b9a420110a",
        "trade_id": "BINANCE-4000000000",
        "symbol": "BTCUSDT",
        "exchange": "BINANCE",
        "asset_class": "crypto",
        "timestamp": EPOCH + timedelta(microseconds=1_735_800_000_000_123),
        "price": Decimal("95123.01"),
        "quantity": Decimal("0.0015"),
        "currency": "USDT",
        "side": "SELL",
        "trade_conditions": [],
        "source_sequence": 4_000_000_000,
        "ingestion_timestamp": EPOCH + timedelta(microseconds=RECEIVED_US),
        "platform_sequence": None,
        "vendor_data": {
            "M": "true",
            "base_asset": "BTC",
            "event_time": "1735800000000823",
            "is_buyer_maker": "true",
            "origin": "stream",
            "quote_asset": "USDT",
        },
    }


def test_a_book_ticker_frame_is_a_quote_at_its_receipt() -> None:
    received = EPOCH + timedelta(microseconds=RECEIVED_US)
    assert quote(QUOTE_FRAME) == {
        "message_id": message_id("BINANCE", "Q", "BTCUSDT", "400900217"),
        "quote_id": "BINANCE-Q-400900217",
        "symbol": "BTCUSDT",
        "exchange": "BINANCE",
        "asset_class": "crypto",
        "timestamp": received,
        "bid_price": Decimal("25.3519"),
        "bid_quantity": Decimal("31.21"),
        "ask_price": Decimal("25.3652"),
        "ask_quantity": Decimal("40.66"),
        "currency": "USDT",
        "source_sequence": 400_900_217,
        "ingestion_timestamp": received,
        "platform_sequence": None,
        "vendor_data": {
            "base_asset": "BTC",
            "origin": "stream",
            "quote_asset": "USDT",
            "time_source": "receipt",
        },
    }


def test_keys_of_vendor_data_are_in_alphabetical_order() -> None:
    frame = stream_frame(Fact(), Z="last of the capitals", a=1, zz=2)
    (row,) = parsed(frame).trades.to_pylist()
    keys = [key for key, _ in row["vendor_data"]]
    assert keys == sorted(keys)
    assert {"M", "Z", "a", "zz"} < set(keys)


def test_a_combined_frame_is_the_row_of_its_data() -> None:
    assert parsed(combined(TRADE_FRAME)).trades == parsed(TRADE_FRAME).trades
    wrapped = combined(QUOTE_FRAME, "btcusdt@bookTicker")
    assert parsed(wrapped).quotes == parsed(QUOTE_FRAME).quotes


def test_spaces_and_another_order_of_fields_change_nothing() -> None:
    fields = json.loads(TRADE_FRAME)
    spaced = json.dumps(dict(reversed(fields.items())), indent=1).encode()
    assert trade(spaced) == trade(TRADE_FRAME)
    assert trade(b' { "data" : %s , "stream" : "x" }' % spaced) == trade(TRADE_FRAME)


def test_the_buyer_being_the_taker_is_a_buy() -> None:
    assert trade(stream_frame(Fact(buyer_is_maker=False)))["side"] == "BUY"


def test_the_currency_is_the_quote_asset_of_each_symbol() -> None:
    frames = [TRADE_FRAME, stream_frame(Fact(symbol="ETHBTC")), TRADE_FRAME]
    rows = parsed(*frames).trades.to_pylist(maps_as_pydicts="strict")
    assert [row["currency"] for row in rows] == ["USDT", "BTC", "USDT"]
    assert [row["vendor_data"]["base_asset"] for row in rows] == ["BTC", "ETH", "BTC"]


def test_milliseconds_are_read_by_configuration() -> None:
    row = trade(stream_frame(Fact(), unit_us=1000), unit="ms")
    assert row["timestamp"] == datetime(2025, 1, 2, 6, 40, tzinfo=UTC)
    assert row["vendor_data"]["event_time"] == "1735800000000000"


def test_rows_and_ids_are_in_the_order_of_arrival() -> None:
    facts = [Fact(5), Fact(3, symbol="ETHBTC"), Fact(4), Fact(4), Fact(9, symbol="ETHBTC")]
    result = parsed(*map(stream_frame, facts))
    assert result.trades["source_sequence"].to_pylist() == [5, 3, 4, 4, 9]
    names = ["BTCUSDT", "ETHBTC", "BTCUSDT", "BTCUSDT", "ETHBTC"]
    assert result.trades["symbol"].to_pylist() == names


@pytest.mark.parametrize("count", [1, 31, 32, 500])
def test_any_number_of_frames_has_the_same_identities(count: int) -> None:
    result = parsed(*(stream_frame(Fact(number)) for number in range(count)))
    wanted = [message_id("BINANCE", "BTCUSDT", str(number)) for number in range(count)]
    assert result.trades["message_id"].to_pylist() == wanted


def test_the_exchange_is_the_one_given() -> None:
    row = trade(TRADE_FRAME, exchange="BINANCE_SIM")
    assert (row["exchange"], row["trade_id"]) == ("BINANCE_SIM", "BINANCE_SIM-4000000000")
    assert row["message_id"] == message_id("BINANCE_SIM", "BTCUSDT", "4000000000")


def test_unknown_fields_are_kept_as_they_are_written() -> None:
    frame = (
        TRADE_FRAME[:-1] + b',"b":88,"x":1.10,"y":1e400,"z":{"k":[1, 2]},"n":null,"w":"\\u00e9"}'
    )
    kept = trade(frame)["vendor_data"].items() - trade(TRADE_FRAME)["vendor_data"].items()
    assert dict(kept) == {"b": "88", "x": "1.10", "y": "1e400", "z": '{"k":[1, 2]}', "w": "é"}


def test_an_unknown_field_does_not_replace_one_of_ours() -> None:
    vendor = trade(stream_frame(Fact(), origin="elsewhere"))["vendor_data"]
    assert (vendor["origin"], vendor["venue_origin"]) == ("stream", "elsewhere")


def test_unknown_fields_of_one_frame_are_not_those_of_another() -> None:
    rows = parsed(TRADE_FRAME, stream_frame(Fact(), x=1), TRADE_FRAME).trades.to_pylist()
    assert [dict(row["vendor_data"]).get("x") for row in rows] == [None, "1", None]


@pytest.mark.parametrize("ignored", [{"M": "yes"}, {"M": 3}, {"M": None}, {"M": [1]}])
def test_the_field_to_ignore_may_be_anything(ignored: dict[str, object]) -> None:
    assert trade(stream_frame(Fact(), **ignored))["price"] == Decimal("95123.01")


def test_the_field_to_ignore_may_be_missing() -> None:
    assert "M" not in trade(TRADE_FRAME.replace(b',"M":true', b""))["vendor_data"]


def test_a_book_ticker_with_a_kind_and_times_is_still_a_quote() -> None:
    row = quote(QUOTE_FRAME[:-1] + b',"e":"bookTicker","E":1}')
    assert (row["source_sequence"], row["vendor_data"]["E"]) == (400_900_217, "1")


@pytest.mark.parametrize(
    ("frame", "nothing"),
    [
        (QUOTE_FRAME.replace(b"25.35190000", b"0.00000000"), ["bid_price", "bid_quantity"]),
        (QUOTE_FRAME.replace(b"31.21000000", b"0"), ["bid_price", "bid_quantity"]),
        (QUOTE_FRAME.replace(b"40.66000000", b"0.0"), ["ask_price", "ask_quantity"]),
    ],
)
def test_an_empty_side_of_a_quote_is_null(frame: bytes, nothing: list[str]) -> None:
    assert [name for name, value in quote(frame).items() if value is None] == [
        *nothing,
        "platform_sequence",
    ]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[]", "not_json"),
        (b"7", "not_json"),
        (TRADE_FRAME + b"," + TRADE_FRAME, "not_json"),
        (b'{"s":"\xff"}', "not_json"),
        (TRADE_FRAME.replace(b"true}", b'"\xff"}'), "not_json"),
        (TRADE_FRAME.replace(b"true}", b'"\\ud800"}'), "not_json"),
        (TRADE_FRAME.replace(b"true}", b"tru}"), "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"a":' * 100_000, "not_json"),
        (combined(b"7"), "not_json"),
        (b"{}", "unknown_kind"),
        (b'{"result":null,"id":1}', "unknown_kind"),
        (b'{"e":"aggTrade"}', "unknown_kind"),
        (b'{"e":7}', "unknown_kind"),
        (TRADE_FRAME.replace(b'"t":4', b'"t":-4'), "bad_field"),
        (TRADE_FRAME.replace(b'"t":4', b'"t":99999999994'), "bad_field"),
        (TRADE_FRAME.replace(b'"t":4', b'"x":4'), "bad_field"),
        (TRADE_FRAME.replace(b'"95123.01000000"', b"95123.01"), "bad_field"),
        (TRADE_FRAME.replace(b'"m":true', b'"m":"true"'), "bad_field"),
        (TRADE_FRAME.replace(b'"m":true', b'"m":null'), "bad_field"),
        (QUOTE_FRAME.replace(b'"A"', b'"C"'), "bad_field"),
        (stream_frame(Fact(symbol="XRPUSDT")), "unknown_symbol"),
        (QUOTE_FRAME.replace(b"BTCUSDT", b"btcusdt"), "unknown_symbol"),
    ],
)
def test_a_malformed_frame_is_a_dead_letter(frame: bytes, reason: str) -> None:
    assert refused(frame)[0] == reason


def test_a_malformed_field_is_named() -> None:
    frame = TRADE_FRAME.replace(b'"m":true', b'"m":1')
    assert refused(frame) == ("bad_field", "Expected `bool`, got `int` - at `$.m`")


@pytest.mark.parametrize(
    ("number", "reason", "told"),
    [
        ("abc", "bad_number", "'abc' is not a number"),
        ("", "bad_number", "'' is not a number"),
        ("1e", "bad_number", "'1e' is not a number"),
        ("e3", "bad_number", "'e3' is not a number"),
        ("1e3.5", "bad_number", "'1e3.5' is not a number"),
        ("inf", "bad_number", "'inf' is not a number"),
        ("NaN", "bad_number", "'NaN' is not a number"),
        ("-1E+3", "negative", "-1E+3 is negative"),
        ("0E-8", "not_positive", "0E-8 is not positive"),
        ("0e999999999", "not_positive", "0e999999999 is not positive"),
        ("00.0E-999999999", "not_positive", "00.0E-999999999 is not positive"),
        ("+1", "bad_number", "'+1' is not a number"),
        ("1.", "bad_number", "'1.' is not a number"),
        (".5", "bad_number", "'.5' is not a number"),
        ("\u0663", "bad_number", "'\u0663' is not a number"),
        ("1\n", "bad_number", "'1\\n' is not a number"),
        ("-1.5", "negative", "-1.5 is negative"),
        ("0.00000000", "not_positive", "0.00000000 is not positive"),
        ("92233720368.54775808", "overflow", "92233720368.54775808 does not fit {}"),
        ("1.123456789", "overflow", "1.123456789 does not fit {}"),
        ("1E-9", "overflow", "1E-9 does not fit {}"),
        ("1e11", "overflow", "1e11 does not fit {}"),
        ("1e999999999999999999999", "overflow", "1e999999999999999999999 does not fit {}"),
        (f"{2**64}", "overflow", f"{2**64} does not fit {{}}"),
        (f"{2**128 + 1}", "overflow", f"{2**128 + 1} does not fit {{}}"),
        ("1" + "0" * 39, "overflow", f"1{'0' * 39} does not fit {{}}"),
        ("0." + "0" * 39 + "1", "overflow", f"0.{'0' * 39}1 does not fit {{}}"),
    ],
)
@pytest.mark.parametrize(
    ("name", "kind"), [("price", "decimal(18,8)"), ("quantity", "decimal(19,8) in 64 bits")]
)
def test_a_number_that_does_not_fit_is_refused(
    name: str, kind: str, number: str, reason: str, told: str
) -> None:
    frame = stream_frame(replace(Fact(), **{name: number}))
    assert refused(frame) == (reason, f"{name} {told.format(kind)}")


def test_a_price_has_ten_digits_where_a_quantity_has_eleven() -> None:
    number = "10000000000"
    assert trade(stream_frame(Fact(quantity=number)))["quantity"] == Decimal(number)
    assert refused(stream_frame(Fact(price=number, quantity=number))) == (
        "overflow",
        f"price {number} does not fit decimal(18,8)",
    )
    beside = parsed(stream_frame(Fact(price=number)), stream_frame(Fact(trade_id=1)))
    assert beside.trades["source_sequence"].to_pylist() == [1]


@pytest.mark.parametrize(
    "number",
    [
        *(
            "9999999999.99999999",
            "0.00000001",
            "1.5000000000",
            "001",
            "1e3",
            "1.2E-05",
            "1e+9",
            "1e-0008",
        ),
        *("1.5" + "0" * 60, "0" * 100 + "1.5", "0" * 100 + "1.5" + "0" * 100),
    ],
)
def test_a_number_that_fits_is_exact(number: str) -> None:
    row = trade(stream_frame(Fact(price=number, quantity=number)))
    assert (row["price"], row["quantity"]) == (Decimal(number), Decimal(number))


@given(st.text("0123456789.-e+", min_size=1, max_size=24) | st.text("019.", max_size=60))
def test_a_number_is_the_same_alone_and_beside_one_that_is_refused(number: str) -> None:
    frame = stream_frame(Fact(price=number))
    beside = parsed(frame, stream_frame(Fact(price="x")))
    assert beside.trades == parsed(frame).trades
    assert beside.refused[:-1] == parsed(frame).refused


@given(st.decimals(min_value=0, max_value=Decimal("9999999999.99999999"), places=8))
def test_every_price_of_a_quote_is_exact(price: Decimal) -> None:
    row = quote(QUOTE_FRAME.replace(b"25.36520000", f"{price:f}".encode()))
    assert row["ask_price"] == (price or None)


@given(st.decimals(min_value=0, max_value=Decimal("92233720368.54775807"), places=8))
def test_every_quantity_of_a_quote_is_exact(quantity: Decimal) -> None:
    for text in (f"{quantity:f}", f"{quantity:E}"):
        row = quote(QUOTE_FRAME.replace(b"31.21000000", text.encode()))
        assert row["bid_quantity"] == (quantity or None)


def test_a_quote_with_a_number_that_does_not_fit_is_refused() -> None:
    frame = QUOTE_FRAME.replace(b"31.21000000", b"-1")
    assert refused(frame) == ("negative", "bid_quantity -1 is negative")


@pytest.mark.parametrize(
    ("time", "unit", "told"),
    [
        (
            1_735_800_000_000,
            "us",
            "time 1735800000000 is no time of a trade in microseconds; milliseconds?",
        ),
        (
            1_735_800_000_000_123,
            "ms",
            "time 1735800000000123 is no time of a trade in milliseconds; microseconds?",
        ),
        (LATEST_US + 1, "us", f"time {LATEST_US + 1} is no time of a trade in microseconds"),
        (
            1_483_228_799_999_999,
            "us",
            "time 1483228799999999 is no time of a trade in microseconds",
        ),
        (0, "us", "time 0 is no time of a trade in microseconds"),
        (2**63 - 1, "ms", f"time {2**63 - 1} is no time of a trade in milliseconds"),
    ],
)
def test_a_time_out_of_range_is_refused(time: int, unit: Unit, told: str) -> None:
    assert refused(stream_frame(Fact(), T=time), unit=unit) == ("bad_time", told)


HOUR_US = 3_600_000_000


def test_a_clock_an_hour_behind_refuses_no_trade() -> None:
    now_us = LATEST_US + HOUR_US
    frame = stream_frame(Fact(), T=now_us, E=now_us + 100)
    result = parsed(frame)
    assert result.trades["timestamp"].cast(pa.int64()).to_pylist() == [now_us]
    assert result.sent_us == now_us + 100


def test_the_venues_time_is_that_of_most_frames() -> None:
    late = stream_frame(Fact(), T=LATEST_US + HOUR_US, E=LATEST_US + HOUR_US)
    result = parsed(TRADE_FRAME, late, TRADE_FRAME)
    assert [letter.raw for letter in result.refused] == [late]
    assert result.sent_us == 1_735_800_000_000_823


def test_a_time_that_no_clock_shows_is_not_the_venues() -> None:
    frame = stream_frame(Fact(), T=2**62, E=2**62)
    assert refused(frame)[0] == "bad_time"
    assert parsed(frame).sent_us is None


@pytest.mark.parametrize("time", [1_483_228_800_000_000, LATEST_US])
def test_the_ends_of_the_range_are_times(time: int) -> None:
    row = trade(stream_frame(Fact(), T=time))
    assert row["timestamp"] == EPOCH + timedelta(microseconds=time)


def test_a_refused_frame_costs_itself_only_and_keeps_its_place() -> None:
    frames = [b"{", stream_frame(Fact(1)), stream_frame(Fact(2, price="0")), QUOTE_FRAME, b"7"]
    result = parsed(*frames, stream_frame(Fact(3)))
    assert result.trades["source_sequence"].to_pylist() == [1, 3]
    assert result.quotes.num_rows == 1
    assert [(one.position, one.raw) for one in result.refused] == [
        (f"{RECEIVED_US + place}:{place}", frames[place]) for place in (0, 2, 4)
    ]


def test_frames_read_together_are_what_each_is_alone() -> None:
    frames = [combined(stream_frame(Fact(number))) for number in range(1, 5)]
    alone = [parsed(frame).trades for frame in frames]
    assert _unlike_receipt(parsed(*frames).trades) == _unlike_receipt(pa.concat_tables(alone))
    other = combined(TRADE_FRAME.replace(b"BTCUSDT", b"XYZ"))
    result = parsed(*frames, other)
    assert result.trades.num_rows == 4
    assert [one.reason for one in result.refused] == ["unknown_symbol"]


def test_a_frame_that_holds_two_is_refused_among_whole_ones() -> None:
    one, two = (combined(stream_frame(Fact(number))) for number in (1, 2))
    result = parsed(one, one + b"," + two, two)
    assert result.trades["source_sequence"].to_pylist() == [1, 2]
    assert [letter.raw for letter in result.refused] == [one + b"," + two]


def test_parts_that_are_whole_only_together_are_refused() -> None:
    one, two = (combined(stream_frame(Fact(number))) for number in (1, 2))
    head, comma, tail = one.partition(b",")
    assert comma
    frames = [head, tail, one + b"," + two]
    result = parsed(*frames)
    assert result.trades.num_rows == 0
    assert [letter.raw for letter in result.refused] == frames


def _unlike_receipt(rows: pa.Table) -> pa.Table:
    return rows.drop_columns("ingestion_timestamp")


def test_dead_letters_name_their_source() -> None:
    assert parsed(b"{").refused[0].source == "market.crypto.trades.binance"


def test_no_frames_are_no_rows() -> None:
    result = parsed()
    assert result.refused == []
    assert result.trades.schema == TRADE.arrow
    assert result.quotes.schema == QUOTE.arrow


def test_rows_have_no_nulls_where_the_schema_has_none() -> None:
    result = parsed(TRADE_FRAME, QUOTE_FRAME, b"{", stream_frame(Fact(2, price="x")))
    for table, schema in ((result.trades, TRADE), (result.quotes, QUOTE)):
        assert table.schema == schema.arrow
        assert [_nulls(table, one.name) for one in schema.fields if not one.nullable] == [0] * (
            sum(not one.nullable for one in schema.fields)
        )


def _nulls(table: pa.Table, name: str) -> int:
    return int(table[name].null_count)


FIELDS = st.dictionaries(
    st.sampled_from([*"eEstpqTmMubBaA", "stream", "data", "x"]),
    st.sampled_from(["trade", "BTCUSDT", "1.5", 1, 1_735_800_000_000_123, True, None, 1.5, {}, ""]),
)


@given(st.lists(FIELDS, max_size=5))
def test_any_fields_become_a_row_or_a_dead_letter(frames: list[dict[str, object]]) -> None:
    result = parsed(*(json.dumps(one).encode() for one in frames))
    found = result.trades.num_rows + result.quotes.num_rows + len(result.refused)
    assert found == len(frames)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_become_dead_letters(frames: list[bytes]) -> None:
    whole = combined(TRADE_FRAME)
    result = parsed(whole, *frames, whole)
    assert (result.trades.num_rows, len(result.refused)) == (2, len(frames))

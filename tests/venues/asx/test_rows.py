"""ASX lines to rows: every trap of the files, and lines that cost themselves only."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.schema.identity import message_id
from k2lib.schema.records import QUOTE, TRADE
from k2lib.venues.asx.rows import ParsedLines, parse, vendor_map
from k2lib.venues.base import Instrument
from k2lib.venues.csv_lines import BadLine, find_lines, to_columns, usual_columns

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
XYZ = Instrument("ASX", "XYZ", company_id="9009", isin="AU000000XYZ9")
TRADE_LINE = "03/10/2014,10:00:06.717,1.11,3667,0,,"
QUOTE_LINE = "03/10/2014,10:00:06.717,1.11,1.18,10300,3667"


def parsed(text: str | bytes, kind: str = "trades", instrument: Instrument = XYZ) -> ParsedLines:
    data = text if isinstance(text, bytes) else text.encode()
    return parse(find_lines(data), kind, instrument=instrument, ingested=NOW)


def rows(text: str | bytes, kind: str = "trades") -> list[dict[str, Any]]:
    result = parsed(text, kind)
    assert result.bad_lines == []
    return result.rows.to_pylist(maps_as_pydicts="strict")


def row(text: str, kind: str = "trades") -> dict[str, Any]:
    (only,) = rows(text, kind)
    return only


def bad(text: str | bytes, kind: str = "trades") -> BadLine:
    result = parsed(text, kind)
    (only,) = result.bad_lines
    assert result.rows.num_rows == 0
    return only


def at(local: str) -> datetime:
    """Return the time of a trade whose line begins with this date and time."""
    stamp: datetime = row(f"{local},1.11,3667,0,,")["timestamp"]
    return stamp


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_trade_has_every_field() -> None:
    trade = row("03/10/2014,07:57:14.754,36.667,20000,3,X,35.77")
    message_id = trade.pop("message_id")
    assert trade == {
        "trade_id": f"ASX-{message_id}",
        "symbol": "XYZ",
        "exchange": "ASX",
        "asset_class": "equities",
        "timestamp": utc("2014-03-09T20:57:14.754"),
        "price": Decimal("36.667"),
        "quantity": Decimal(20000),
        "currency": "AUD",
        "side": "UNKNOWN",
        "trade_conditions": ["3"],
        "source_sequence": None,
        "ingestion_timestamp": NOW,
        "platform_sequence": 0,
        "vendor_data": {
            "buyer_id": "35.77",
            "company_id": "9009",
            "isin": "AU000000XYZ9",
            "qualifiers": "3",
            "venue": "X",
        },
    }


def test_quote_columns_are_bid_ask_bid_volume_ask_volume() -> None:
    quote = row("03/10/2014,10:00:06.717,37.7,37.73,300,600", "quotes")
    message_id = quote.pop("message_id")
    assert quote == {
        "quote_id": f"ASX-Q-{message_id}",
        "symbol": "XYZ",
        "exchange": "ASX",
        "asset_class": "equities",
        "timestamp": utc("2014-03-09T23:00:06.717"),
        "bid_price": Decimal("37.7"),
        "bid_quantity": Decimal(300),
        "ask_price": Decimal("37.73"),
        "ask_quantity": Decimal(600),
        "currency": "AUD",
        "source_sequence": None,
        "ingestion_timestamp": NOW,
        "platform_sequence": 0,
        "vendor_data": {"company_id": "9009", "isin": "AU000000XYZ9"},
    }


@pytest.mark.parametrize(
    ("sides", "bid", "ask"),
    [
        ("37.7,0.0,300,0", (Decimal("37.7"), Decimal(300)), (None, None)),
        ("0.0,37.7,0,300", (None, None), (Decimal("37.7"), Decimal(300))),
        ("37.7,37.8,300,0", (Decimal("37.7"), Decimal(300)), (None, None)),
        ("37.7,0,300,5", (Decimal("37.7"), Decimal(300)), (None, None)),
        ("0,0,0,0", (None, None), (None, None)),
    ],
)
def test_an_empty_side_is_null_never_0(sides: str, bid: object, ask: object) -> None:
    quote = row(f"03/10/2014,10:00:06.717,{sides}", "quotes")
    assert (quote["bid_price"], quote["bid_quantity"]) == bid
    assert (quote["ask_price"], quote["ask_quantity"]) == ask


def test_crossed_quotes_and_garbage_volumes_are_kept_as_they_are() -> None:
    quote = row("03/10/2014,09:50:00.000,37.8,37.7,1000003033,600", "quotes")
    assert quote["bid_price"] > quote["ask_price"]
    assert quote["bid_quantity"] == 1_000_003_033


@pytest.mark.parametrize(
    ("local", "wanted"),
    [
        ("03/10/2014,10:00:06.717", "2014-03-09T23:00:06.717"),
        ("07/10/2014,10:00:00.000", "2014-07-10T00:00:00"),
        ("03/10/2014,10:59:59.999", "2014-03-09T23:59:59.999"),
        ("03/10/2014,11:00:00.000", "2014-03-10T00:00:00"),
        ("02/29/2016,12:00:00.000", "2016-02-29T01:00:00"),
        ("04/06/2014,01:59:59.999", "2014-04-05T14:59:59.999"),
        ("04/06/2014,03:00:00.000", "2014-04-05T17:00:00"),
        ("10/05/2014,01:59:59.999", "2014-10-04T15:59:59.999"),
        ("10/05/2014,03:00:00.000", "2014-10-04T16:00:00"),
    ],
)
def test_times_are_sydneys(local: str, wanted: str) -> None:
    assert at(local) == utc(wanted)


def test_the_hour_that_comes_twice_is_taken_the_first_time() -> None:
    assert at("04/06/2014,02:30:00.000") == utc("2014-04-05T15:30:00")


def test_one_trading_date_spans_two_utc_days() -> None:
    morning, noon = rows("03/10/2014,10:00:00.000,1.11,1,0,,\n03/10/2014,12:00:00.000,1.11,1,0,,\n")
    assert [one["timestamp"].date().day for one in (morning, noon)] == [9, 10]


@pytest.mark.parametrize(("code", "conditions"), [("0", ["0"]), ("25", ["25"]), ("", [])])
def test_qualifiers_are_conditions_0_among_them(code: str, conditions: list[str]) -> None:
    trade = row(f"03/10/2014,10:00:06.717,1.11,3667,{code},,")
    assert trade["trade_conditions"] == conditions
    assert trade["vendor_data"].get("qualifiers") == (code or None)


def test_empty_fields_have_no_key_and_keys_stand_in_alphabetical_order() -> None:
    lines = f"{TRADE_LINE}\n03/10/2014,10:00:06.717,1.11,3667,0,X,35.77\n"
    maps = parsed(lines).rows["vendor_data"].to_pylist()
    assert [[key for key, _ in one] for one in maps] == [
        ["company_id", "isin", "qualifiers"],
        ["buyer_id", "company_id", "isin", "qualifiers", "venue"],
    ]


def test_a_company_without_isin_has_no_such_key() -> None:
    unlisted = Instrument("ASX", "XYZ", company_id="9009")
    result = parsed(QUOTE_LINE, "quotes", unlisted).rows["vendor_data"].to_pylist()
    assert result == [[("company_id", "9009")]]


def test_buyer_id_stays_the_text_it_was() -> None:
    trade = row("03/10/2014,10:00:06.717,1.11,3667,0,,35.770")
    assert trade["vendor_data"]["buyer_id"] == "35.770"


def test_text_beyond_ascii_is_kept() -> None:
    trade = row("03/10/2014,10:00:06.717,1.11,3667,0,Zürich,")
    assert trade["vendor_data"]["venue"] == "Zürich"


def test_equal_rows_are_as_many_trades_adjacent_or_not() -> None:
    other = "03/10/2014,10:00:06.717,1.12,3667,0,,"
    ids = [one["message_id"] for one in rows("\n".join([TRADE_LINE] * 2 + [other, TRADE_LINE]))]
    assert len(set(ids)) == 4
    assert ids[:2] == [one["message_id"] for one in rows("\n".join([TRADE_LINE] * 2))]


def test_the_same_number_written_otherwise_is_the_same_trade() -> None:
    short, long = "03/10/2014,10:00:06.717,1.1,30,0,,", "03/10/2014,10:00:06.717,01.10,30.0,0,,"
    assert row(short)["message_id"] == row(long)["message_id"]
    both, twice = rows(f"{short}\n{long}\n"), rows(f"{short}\n{short}\n")
    assert [one["message_id"] for one in both] == [one["message_id"] for one in twice]


def test_equal_rows_of_two_days_are_each_the_first_of_their_day() -> None:
    next_day = TRADE_LINE.replace("03/10", "03/11")
    together = [one["message_id"] for one in rows(f"{TRADE_LINE}\n{next_day}\n")]
    assert together == [row(TRADE_LINE)["message_id"], row(next_day)["message_id"]]


def test_places_count_within_a_millisecond() -> None:
    times = ["06.717", "06.717", "06.718", "06.717", "06.718"]
    lines = "\n".join(f"03/10/2014,10:00:{second},1.11,{n},0,," for n, second in enumerate(times))
    assert [one["platform_sequence"] for one in rows(lines)] == [0, 1, 0, 2, 1]


def test_rows_stay_in_file_order() -> None:
    lines = "\n".join(f"03/10/2014,10:00:0{n}.000,1.11,{n},0,," for n in (3, 1, 2))
    assert [one["quantity"] for one in rows(lines)] == [3, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        f"{TRADE_LINE}\n{TRADE_LINE}\n",
        f"{TRADE_LINE}\n{TRADE_LINE}",
        f"{TRADE_LINE}\r\n{TRADE_LINE}\r\n",
        f"{TRADE_LINE}\r\n{TRADE_LINE}",
        f"\n{TRADE_LINE}\n\n\r\n{TRADE_LINE}\n\n",
        f"\ufeff{TRADE_LINE}\n{TRADE_LINE}\n",
    ],
    ids=["LF", "no last LF", "CRLF", "no last CRLF", "blank lines", "byte order mark"],
)
def test_ends_of_line_change_nothing(text: str) -> None:
    assert rows(text) == rows(f"{TRADE_LINE}\n" * 2)


def test_the_last_column_has_no_carriage_return() -> None:
    quote = row(f"{QUOTE_LINE}\r\n", "quotes")
    trade = row(f"{TRADE_LINE}35.77\r\n")
    assert (quote["ask_quantity"], trade["vendor_data"]["buyer_id"]) == (3667, "35.77")


@pytest.mark.parametrize("kind", ["trades", "quotes"])
def test_no_lines_are_no_rows(kind: str) -> None:
    result = parsed(b"", kind)
    assert (result.rows.num_rows, result.bad_lines) == (0, [])
    assert result.rows.schema == {"trades": TRADE, "quotes": QUOTE}[kind].arrow


@pytest.mark.parametrize(
    "text",
    ["9999999999.99999999", "0.00000001", "0", "1.500000000", "001", "0" * 40 + "1.5" + "0" * 40],
)
def test_a_number_that_fits_is_exact(text: str) -> None:
    trade = row(f"03/10/2014,10:00:06.717,{text},{text},0,,")
    assert (trade["price"], trade["quantity"]) == (Decimal(text), Decimal(text))


@pytest.mark.parametrize(
    ("price", "reason", "detail"),
    [
        ("abc", "bad_number", "price 'abc' is not a number"),
        ("", "bad_number", "price '' is not a number"),
        ("1e3", "bad_number", "price '1e3' is not a number"),
        ("nan", "bad_number", "price 'nan' is not a number"),
        ("1.", "bad_number", "price '1.' is not a number"),
        (" 1", "bad_number", "price ' 1' is not a number"),
        ("+1", "bad_number", "price '+1' is not a number"),
        ("\u0663", "bad_number", "price '\u0663' is not a number"),
        ('"1"', "bad_number", "price '\"1\"' is not a number"),
        ("-1.5", "negative", "price -1.5 is negative"),
        ("10000000000", "overflow", "price 10000000000 does not fit decimal(18,8)"),
        ("99999999999", "overflow", "price 99999999999 does not fit decimal(18,8)"),
        ("1" + "0" * 40, "overflow", f"price 1{'0' * 40} does not fit decimal(18,8)"),
        ("1.123456789", "overflow", "price 1.123456789 does not fit decimal(18,8)"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(price: str, reason: str, detail: str) -> None:
    line = f"03/10/2014,10:00:06.717,{price},3667,0,,"
    assert bad(line) == BadLine(1, line.encode(), reason, detail)


def test_the_greatest_quantity_is_read_and_one_unit_more_is_refused() -> None:
    most, more = "92233720368.54775807", "92233720368.54775808"
    trade = row(f"03/10/2014,10:00:06.717,1.11,{most},0,,")
    sides = row(f"03/10/2014,10:00:06.717,1.11,1.18,{most},{most}", "quotes")
    assert {trade["quantity"], sides["bid_quantity"], sides["ask_quantity"]} == {Decimal(most)}
    refused = bad(f"03/10/2014,10:00:06.717,1.11,{more},0,,")
    assert (refused.reason, refused.detail) == (
        "overflow",
        f"volume {more} does not fit decimal(19,8) in 64 bits",
    )
    quote = bad(f"03/10/2014,10:00:06.717,1.11,1.18,5,{more}", "quotes")
    assert (quote.reason, quote.detail.partition(" ")[0]) == ("overflow", "ask_volume")


@pytest.mark.parametrize("name", ["bid", "ask", "bid_volume", "ask_volume"])
def test_every_number_of_a_quote_is_checked(name: str) -> None:
    values = {"bid": "1.11", "ask": "1.18", "bid_volume": "10300", "ask_volume": "3667"}
    line = ",".join(["03/10/2014", "10:00:06.717", *(values | {name: "x"}).values()])
    assert bad(line, "quotes").detail == f"{name} 'x' is not a number"


@pytest.mark.parametrize(
    "date",
    [
        *("02/30/2014", "02/29/2014", "13/10/2014", "00/10/2014", "01/01/0001", "03/10/0000"),
        *("3/10/2014", "2014-03-10", "03/10/14", "\u06603/10/2014", ""),
    ],
)
def test_an_impossible_date_is_refused(date: str) -> None:
    line = bad(f"{date},10:00:06.717,1.11,3667,0,,")
    assert line.reason == "bad_date"
    assert line.detail == f"{date!r} 10:00:06.717 is not a time in Sydney (MM/DD/YYYY)"


@pytest.mark.parametrize(
    "time", ["24:00:00.000", "10:60:00.000", "10:00:60.000", "10:00:00", "10:00:00.1234", "x", ""]
)
def test_an_impossible_time_is_refused(time: str) -> None:
    line = bad(f"03/10/2014,{time},1.11,3667,0,,")
    assert (line.reason, line.detail) == ("bad_time", f"time {time!r} is not HH:MM:SS.mmm")


def test_the_hour_that_summer_time_skips_is_refused() -> None:
    line = bad("10/05/2014,02:30:00.000,1.11,3667,0,,")
    assert line.reason == "bad_date"
    assert line.detail == "'10/05/2014' 02:30:00.000 is not a time in Sydney (MM/DD/YYYY)"


@pytest.mark.parametrize(
    ("line", "columns"), [(TRADE_LINE + ",", 8), (TRADE_LINE[:-1], 6), ("hello", 1), (" ", 1)]
)
def test_a_wrong_number_of_columns_is_refused(line: str, columns: int) -> None:
    refused = bad(line)
    assert refused.reason == "wrong_columns"
    assert refused.detail == f"{columns} columns, 7 expected"


def test_broken_utf8_is_refused_with_its_bytes() -> None:
    line = b"03/10/2014,10:00:06.717,1.11,3667,0,\xff\xfe,"
    assert bad(line + b"\r\n") == BadLine(1, line, "not_utf8", "the line is not valid UTF-8")


def test_a_field_with_a_pipe_is_refused() -> None:
    refused = bad("03/10/2014,10:00:06.717,1.11,3667,0,X|Y,")
    assert (refused.reason, refused.detail) == ("bad_text", "venue 'X|Y' contains |")


def test_bad_lines_cost_themselves_only_and_come_in_file_order() -> None:
    lines = [TRADE_LINE, "nonsense", TRADE_LINE, TRADE_LINE.replace("1.11", "-1"), "", TRADE_LINE]
    result = parsed("\n".join([*lines, "x,y"]))
    assert result.rows["message_id"].to_pylist() == [
        one["message_id"] for one in rows(f"{TRADE_LINE}\n" * 3)
    ]
    assert [(one.number, one.reason) for one in result.bad_lines] == [
        (2, "wrong_columns"),
        (4, "negative"),
        (7, "wrong_columns"),
    ]


def test_lines_are_numbered_from_the_one_they_begin_with() -> None:
    lines = find_lines(f"{TRADE_LINE}\nnonsense\n".encode())
    result = parse(lines, "trades", instrument=XYZ, ingested=NOW, first_line=100)
    assert [one.number for one in result.bad_lines] == [101]


@given(st.lists(st.sampled_from(["03/10/2014", "10:00:06.717", "1", "-1", "", "|", "é", "\x00"])))
def test_any_fields_become_a_row_or_a_bad_line(fields: list[str]) -> None:
    text = ",".join(fields)
    result = parsed(text)
    assert result.rows.num_rows + len(result.bad_lines) == (1 if text else 0)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_become_rows_or_bad_lines(lines: list[bytes]) -> None:
    good = TRADE_LINE.encode()
    result = parsed(b"\n".join([good, *lines, good]))
    kept = [one for line in lines for one in line.split(b"\n") if one not in (b"", b"\r")]
    assert result.rows.num_rows + len(result.bad_lines) == 2 + len(kept)
    assert result.rows.num_rows >= 2


@pytest.mark.slow
@given(st.lists(st.integers(0, 3), max_size=30))
def test_equal_rows_are_numbered_as_a_plain_count_does(volumes: list[int]) -> None:
    lines = [f"03/10/2014,10:00:06.717,1.11,{volume},0,," for volume in volumes]
    seen: Counter[int] = Counter()
    wanted = []
    for volume in volumes:
        numbers = ["111000000", str(volume * 10**8)]
        text = ["ASX", "XYZ", "2014-03-10", "10:00:06.717", *numbers, "0", "", ""]
        wanted.append(message_id(*text, str(seen[volume])))
        seen[volume] += 1
    assert [one["message_id"] for one in rows("\n".join(lines))] == wanted


def test_the_usual_number_of_columns_is_that_of_most_lines_that_are_not_blank() -> None:
    assert usual_columns(find_lines(b"a,b,c\n\n\n\n\nx\nd,e,f\n")) == 3
    assert usual_columns(find_lines(b"")) == 0


def test_columns_keep_their_line_numbers() -> None:
    lines = find_lines(b"a,b\n\nbroken\nc,d\n")
    texts, numbers, refused = to_columns(lines, ["x", "y"], first_line=10)
    assert (texts.rows(), numbers.tolist()) == ([("a", "b"), ("c", "d")], [10, 13])
    assert [one.number for one in refused] == [12]


def test_maps_are_built_by_columns_and_constants() -> None:
    fields = {"b": pa.array(["1", "", "2"]), "a": "same", "c": pa.array(["", "", "x"])}
    assert vendor_map(fields, 3).to_pylist() == [
        [("a", "same"), ("b", "1")],
        [("a", "same")],
        [("a", "same"), ("b", "2"), ("c", "x")],
    ]


def test_a_map_of_empty_fields_is_empty_not_null() -> None:
    assert vendor_map({"a": "", "b": pa.array(["", ""])}, 2).to_pylist() == [[], []]

"""Frames leave as files and text that say the same."""

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lake_rows import rows_table, trade

from k2lib.errors import QueryError
from k2lib.query.export import json_array, json_rows, render, text_table, write

TRADES = pl.DataFrame(rows_table([trade(1), trade(2, vendor_data=None, platform_sequence=None)]))
ODD = pl.DataFrame(
    {
        "text": ['a "b", [c]', None],
        "real": [1.5, float("nan")],
        "raw": [b"\x00\xff", b""],
        "day": [date(2014, 3, 10), None],
        "span": [timedelta(hours=1), None],
        "local": [datetime(2014, 3, 10, 12, 0, 0, 5, UTC).replace(tzinfo=None), None],
        "times": [[datetime(2014, 3, 10, tzinfo=UTC)], []],
        "prices": [[Decimal("1.50")], [None]],
        "flag": [True, None],
    }
)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_json_is_an_array_of_objects_with_exact_decimals() -> None:
    first, second = json.loads(render(TRADES, "json"))
    assert first["price"] == "36.67000000"
    assert first["timestamp"] == "2014-03-10T01:00:01.000000Z"
    assert first["trade_conditions"] == ["0"]
    assert first["vendor_data"] == {"qualifiers": "0"}
    assert second["vendor_data"] is second["platform_sequence"] is None


def test_json_says_every_type_in_its_own_way() -> None:
    first, second = json.loads(render(ODD, "json"))
    assert first == {
        "text": 'a "b", [c]',
        "real": 1.5,
        "raw": "AP8=",
        "day": "2014-03-10",
        "span": "PT1H",
        "local": "2014-03-10T12:00:00.000005",
        "times": ["2014-03-10T00:00:00.000000Z"],
        "prices": ["1.50"],
        "flag": True,
    }
    assert second["real"] is None
    assert second["prices"] == [None]


def test_times_of_another_zone_are_told_in_utc() -> None:
    sydney = TRADES.select(pl.col("timestamp").dt.convert_time_zone("Australia/Sydney"))
    assert json.loads(render(sydney, "json"))[0]["timestamp"] == "2014-03-10T01:00:01.000000Z"


def test_csv_has_a_header_and_nested_values_as_json() -> None:
    first, second = csv.DictReader(io.StringIO(render(TRADES, "csv").decode()))
    assert first["price"] == "36.67000000"
    assert first["timestamp"] == "2014-03-10T01:00:01.000000Z"
    assert json.loads(first["vendor_data"]) == {"qualifiers": "0"}
    assert second["vendor_data"] == ""


def test_csv_keeps_commas_and_quotation_marks_in_their_cell() -> None:
    first, second = csv.DictReader(io.StringIO(render(ODD, "csv").decode()))
    assert (first["text"], first["raw"], first["flag"]) == ('a "b", [c]', "AP8=", "true")
    assert (second["text"], second["real"]) == ("", "")


def test_parquet_keeps_native_types() -> None:
    read = pq.read_table(io.BytesIO(render(TRADES, "parquet")))
    assert read.schema.field("price").type == pa.decimal128(18, 8)
    assert read.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    assert pa.types.is_map(read.schema.field("vendor_data").type)
    assert pl.DataFrame(read).equals(TRADES)


def test_arrow_is_an_ipc_stream_with_native_types() -> None:
    read = pa.ipc.open_stream(render(TRADES, "arrow")).read_all()
    assert read.schema.field("price").type == pa.decimal128(18, 8)
    assert pa.types.is_map(read.schema.field("vendor_data").type)
    assert pl.DataFrame(read).equals(TRADES)


def test_table_has_numbers_to_the_right_without_trailing_zeros() -> None:
    prices = pl.DataFrame(
        {"price": [Decimal("36.6700"), Decimal("100.0000"), None], "n": [1, 2, 3]}
    )
    assert text_table(prices).splitlines() == ["price  n", "36.67  1", "  100  2", "       3"]


def test_table_shows_forty_rows_and_counts_the_rest() -> None:
    lines = text_table(pl.DataFrame({"n": range(1_100)})).splitlines()
    assert len(lines) == 42
    assert lines[-1] == "… 1,060 more rows"
    assert len(text_table(pl.DataFrame({"n": range(40)})).splitlines()) == 41


def test_table_shows_square_brackets_as_they_are() -> None:
    assert "[bold]x[/bold]" in text_table(pl.DataFrame({"t": ["[bold]x[/bold]"]}))
    assert '["0"]' in text_table(TRADES)
    assert '{"qualifiers": "0"}' in text_table(TRADES)


def test_empty_frames_are_written_in_every_format() -> None:
    none = TRADES.clear()
    assert json.loads(render(none, "json")) == []
    assert render(none, "csv").decode().strip() == ",".join(TRADES.columns)
    assert pl.read_parquet(render(none, "parquet")).equals(none)
    assert pa.ipc.open_stream(render(none, "arrow")).read_all().num_rows == 0
    assert text_table(none).split() == TRADES.columns


def test_output_goes_to_the_file(tmp_path: Path) -> None:
    screen = io.BytesIO()
    write(TRADES, "json", output=tmp_path / "trades.json", stdout=screen)
    assert (tmp_path / "trades.json").read_bytes() == render(TRADES, "json")
    assert screen.getvalue() == b""


def test_output_goes_to_stdout_where_no_file_is_named() -> None:
    piped, screen = io.BytesIO(), Terminal()
    write(TRADES, "arrow", output=None, stdout=piped)
    assert piped.getvalue() == render(TRADES, "arrow")
    write(TRADES, "csv", output=None, stdout=screen)
    assert screen.getvalue() == render(TRADES, "csv")


def test_bytes_are_not_for_a_terminal() -> None:
    with pytest.raises(
        QueryError, match="--format parquet is not for a terminal: name a file with --output"
    ):
        write(TRADES, "parquet", output=None, stdout=Terminal())


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "trades.csv"
    with pytest.raises(QueryError, match=r"--output .*trades.csv: cannot be written: No such"):
        write(TRADES, "csv", output=missing, stdout=io.BytesIO())


def test_unknown_format_is_answered_with_the_known_ones() -> None:
    with pytest.raises(QueryError, match="--format xlsx: give one of table, json, csv, parquet"):
        render(TRADES, "xlsx")  # type: ignore[arg-type]


def test_json_rows_and_the_array_say_the_same() -> None:
    for frame in (TRADES, ODD, TRADES.clear()):
        rows = [json.loads(row) for row in json_rows(frame)]
        assert json.loads(json_array(frame)) == json.loads(render(frame, "json")) == rows


def test_a_frame_without_columns_is_an_empty_array() -> None:
    assert json.loads(json_array(pl.DataFrame())) == []
    assert render(pl.DataFrame(), "json") == b"[]\n"

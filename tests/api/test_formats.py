"""Answers in each format hold the same rows; the best acceptable format is taken."""

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient
from support.api_client import api_of, asked, problem_of
from support.asx_csv import told
from support.lake_rows import append, gap, quote, trade

from k2lib import K2
from k2lib.api.responses.formats import FORMATS, MAX_ACCEPT, MEDIA_TYPES, choose_format, encode
from k2lib.schema.records import TRADE

ODD = {"plain": "0", "quoted": 'a "b", c', "line": "x\ny\u2028", "wide": "Ünï 😀", "empty": ""}
ROWS = [
    trade(1, vendor_data=ODD),
    trade(2, vendor_data=None, source_sequence=2**62, trade_conditions=["1", 'a"b']),
    trade(3, vendor_data={}, price=Decimal("9999999999.99999999"), trade_conditions=[]),
    trade(4, price=Decimal("0.00000001"), quantity=Decimal(0)),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2]:
    folder: Path = tmp_path_factory.mktemp("formats")
    with K2.open(home=folder / "home") as k2:
        append(k2.catalog, ROWS)
        append(k2.catalog, [quote(1)], "quotes_v2")
        append(k2.catalog, [gap("g", 0)], "gaps")
        yield k2


@pytest.fixture(scope="module")
def client(home: K2) -> Iterator[TestClient]:
    with api_of(home) as opened:
        yield opened


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    amounts = {name: f"{row[name]:.8f}" for name in ("price", "quantity")}
    times = {name: told(row[name]) for name in ("timestamp", "ingestion_timestamp")}
    return row | amounts | times


def test_json_has_every_field_as_it_is(client: TestClient) -> None:
    assert asked(client, "/v1/trades", symbol="BHP")["data"] == [as_json(row) for row in ROWS]


def test_csv_has_the_same_with_json_in_nested_columns(client: TestClient) -> None:
    response = client.get("/v1/trades", params={"symbol": "BHP", "format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    for row, wanted in zip(rows, map(as_json, ROWS), strict=True):
        nested = {name: wanted[name] for name in ("trade_conditions", "vendor_data")}
        for name, value in nested.items():
            assert (json.loads(row.pop(name)) if value is not None else row.pop(name) or None) == (
                value
            )
        flat = {name: value for name, value in wanted.items() if name not in nested}
        assert row == {name: "" if one is None else str(one) for name, one in flat.items()}


def test_ndjson_has_the_rows_of_json_a_line_each(client: TestClient) -> None:
    for path, params in (("/v1/trades", {"symbol": "BHP"}), ("/v1/snapshots", {})):
        response = client.get(path, params={**params, "format": "ndjson"})
        *lines, rest = response.text.split("\n")
        assert list(map(json.loads, lines)) == asked(client, path, **params)["data"]
        assert rest == ""
    none = {"symbol": "BHP", "end": "2014-03-01", "format": "ndjson"}
    assert client.get("/v1/trades", params=none).text == ""


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_parquet_and_arrow_have_the_native_types(client: TestClient, form: str) -> None:
    response = client.get("/v1/trades", params={"symbol": "BHP", "format": form})
    read = pq.read_table if form == "parquet" else lambda data: pa.ipc.open_stream(data).read_all()
    table = read(pa.BufferReader(response.content))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    assert table.schema.names == TRADE.arrow.names
    assert table.schema.field("price").type == pa.decimal128(18, 8)
    assert table.schema.field("timestamp").type == pa.timestamp("us", "UTC")
    assert frame.drop("vendor_data").rows(named=True) == [
        {name: value for name, value in row.items() if name != "vendor_data"} for row in ROWS
    ]
    assert table["vendor_data"].to_pylist(maps_as_pydicts="strict") == [
        row["vendor_data"] for row in ROWS
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_in_headers_what_json_says_in_its_body(
    client: TestClient, form: str
) -> None:
    whole = asked(client, "/v1/trades", symbol="BHP", limit=2)
    response = client.get("/v1/trades", params={"symbol": "BHP", "limit": 2, "format": form})
    assert response.headers["content-type"].partition(";")[0] == MEDIA_TYPES[form]
    assert json.loads(response.headers["x-k2-complete-to"]) == whole["complete_to"]
    assert response.headers["x-k2-next"] == whole["next"]
    assert response.headers["cache-control"] == "no-cache"
    following = client.get(response.links["next"]["url"], headers={"Accept": MEDIA_TYPES[form]})
    assert following.status_code == 200
    assert "x-k2-next" not in following.headers
    assert "link" not in following.headers


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/trades?symbol=BHP",
        "/v1/trades/recent?symbol=BHP",
        "/v1/quotes?symbol=BHP",
        "/v1/bars?symbol=BHP&every=1d",
        "/v1/summary/ASX/BHP/2014-03-10?tail=false",
        "/v1/symbols?table=quotes_v2",
        "/v1/stats?tail=true",
        "/v1/snapshots?table=trades_v2",
        "/v1/gaps?tail=false",
    ],
)
def test_every_read_has_every_format(client: TestClient, path: str, form: str) -> None:
    response = client.get(f"{path}&format={form}")
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == MEDIA_TYPES[form]
    assert len(response.content) > 40


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "json"),
        ("", "json"),
        ("*/*", "json"),
        ("text/*", "csv"),
        ("text/csv", "csv"),
        ("TEXT/CSV; charset=utf-8", "csv"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "json"),
        ("application/json;q=0.2, text/csv;q=0.9", "csv"),
        ("application/vnd.apache.parquet", "parquet"),
        ("application/vnd.apache.arrow.stream, */*;q=0.1", "arrow"),
        ("*/*, application/json;q=0", "csv"),
        ("*/*;q=0.1, text/*;q=0.5, text/csv;q=0", "json"),
        ("nonsense, text/csv;q=x, text/csv;q=0.5", "csv"),
        ("text/csv;q=nan, application/json;q=0.1", "json"),
    ],
)
def test_the_most_wanted_format_is_taken(accept: str | None, form: str) -> None:
    assert choose_format(None, accept) == form


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", ";;,", "*/csv", "*/*;q=2", "\x00"])
def test_no_acceptable_format_is_told_with_those_there_are(accept: str) -> None:
    with pytest.raises(HTTPException) as refused:
        choose_format(None, accept)
    assert refused.value.status_code == 406
    assert "text/csv (or format=csv)" in refused.value.detail


def test_only_the_beginning_of_a_long_accept_header_is_parsed() -> None:
    blanks = " " * MAX_ACCEPT
    assert choose_format(None, f"text/csv,{blanks}") == "csv"
    with pytest.raises(HTTPException):
        choose_format(None, f"image/png,{blanks},text/csv")


@given(st.text())
def test_any_accept_header_is_a_format_or_refused(accept: str) -> None:
    try:
        assert choose_format(None, accept) in FORMATS
    except HTTPException as refused:
        assert refused.status_code == 406


def test_format_goes_before_the_accept_header() -> None:
    assert choose_format("parquet", "text/csv") == "parquet"


def test_refusals_of_formats_are_problems(client: TestClient) -> None:
    query = {"symbol": "BHP"}
    problem_of(client.get("/v1/trades", params=query, headers={"Accept": "image/png"}), 406)
    told = problem_of(client.get("/v1/trades", params={**query, "format": "xlsx"}), 400)
    assert told["errors"][0]["parameter"] == "format"


def test_json_and_csv_are_compressed_where_the_client_can_read_it(client: TestClient) -> None:
    for form, compressed in {"json": True, "csv": True, "parquet": False, "arrow": False}.items():
        response = client.get("/v1/trades", params={"symbol": "BHP", "format": form})
        assert (response.headers.get("content-encoding") == "gzip") is compressed
    plain = client.get(
        "/v1/trades", params={"symbol": "BHP"}, headers={"Accept-Encoding": "identity"}
    )
    assert "content-encoding" not in plain.headers


@given(st.dictionaries(st.text(), st.text(), max_size=3) | st.none(), st.text())
def test_any_text_is_the_same_after_json(data: dict[str, str] | None, text: str) -> None:
    frame = pl.from_arrow(
        pa.table(
            {
                "symbol": pa.array([text]),
                "vendor_data": pa.array(
                    [None if data is None else list(data.items())],
                    pa.map_(pa.string(), pa.string()),
                ),
            }
        )
    )
    assert isinstance(frame, pl.DataFrame)
    body = encode(frame, "json", about={"next": None})
    assert json.loads(body)["data"] == [{"symbol": text, "vendor_data": data}]
    cells = next(
        csv.DictReader(io.StringIO(encode(frame, "csv", about={"next": None}).decode(), newline=""))
    )
    assert (json.loads(cells["vendor_data"]) if cells["vendor_data"] else None) == data

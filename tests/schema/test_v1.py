"""v1 records become v2 records of the same identity, and what v1 never kept stays lost."""

import csv
import io
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest
from support.asx_facts import SYDNEY

from k2lib.schema.records import QUOTE, TRADE, load_schema
from k2lib.schema.v1 import quote_v2, trade_v2
from k2lib.venues.asx.files import find_files, read_file
from k2lib.venues.asx.reference import find_reference, read_reference

READ_AT = datetime(2026, 3, 14, 12, tzinfo=UTC)
ROWS = 2_000


def _busiest(folder: Path, kind: str) -> Path:
    return max((folder / kind).glob("*.csv"), key=lambda path: path.stat().st_size)


def _loaded(path: Path) -> list[dict[str, Any]]:
    instrument = read_reference(find_reference(path)).instrument(path.stem)
    batch = next(read_file(*find_files([path]), instrument, ingested=READ_AT))
    return batch.rows.slice(0, ROWS).to_pylist(maps_as_pydicts="strict")


def _as_v1(path: Path, name: str) -> list[dict[str, Any]]:
    """Read a file's first rows as v1 records, by way of v1's own Avro."""
    schema = load_schema(name).parsed
    instrument = read_reference(find_reference(path)).instrument(path.stem)
    head = {
        "symbol": instrument.symbol,
        "company_id": int(instrument.company_id),
        "exchange": instrument.exchange,
        "ingestion_timestamp": READ_AT,
    }
    with path.open(newline="") as lines:
        rows = list(csv.reader(lines))[:ROWS]
    fields = _trade_fields if name == "trade_v1" else _quote_fields
    return [
        _through_avro({**head, "sequence_number": number, **fields(row)}, schema)
        for number, row in enumerate(rows)
    ]


def _through_avro(record: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, schema, record)
    body.seek(0)
    returned = fastavro.schemaless_reader(body, schema, None)
    assert isinstance(returned, dict)
    return returned


def _moment(row: list[str]) -> datetime:
    return datetime.strptime(f"{row[0]} {row[1]}", "%m/%d/%Y %H:%M:%S.%f").replace(tzinfo=SYDNEY)


def _trade_fields(row: list[str]) -> dict[str, Any]:
    return {
        "exchange_timestamp": _moment(row),
        "price": Decimal(row[2]),
        "volume": int(row[3]),
        "qualifiers": int(row[4]),
        "venue": row[5],
        "buyer_id": row[6] or None,
    }


def _quote_fields(row: list[str]) -> dict[str, Any]:
    return {
        "exchange_timestamp": _moment(row),
        "bid_price": Decimal(row[2]),
        "ask_price": Decimal(row[3]),
        "bid_volume": int(row[4]),
        "ask_volume": int(row[5]),
    }


def _copy_numbers(records: list[dict[str, Any]]) -> list[int]:
    """Number equal records 0, 1, …, which is what v1 did not keep."""
    copies: Counter[str] = Counter()
    numbers = []
    for record in records:
        key = str({name: value for name, value in record.items() if name != "sequence_number"})
        numbers.append(copies[key])
        copies[key] += 1
    return numbers


def _without(record: dict[str, Any]) -> dict[str, Any]:
    vendor = {name: text for name, text in record["vendor_data"].items() if name != "isin"}
    return {**record, "vendor_data": vendor, "platform_sequence": None}


def test_converted_trades_are_the_loaded_ones_without_isin(asx_sample: Path) -> None:
    path = _busiest(asx_sample, "trades")
    records = _as_v1(path, "trade_v1")
    numbered = zip(records, _copy_numbers(records), strict=True)
    converted = [trade_v2(record, k=number) for record, number in numbered]
    assert [_without(one) for one in converted] == [_without(one) for one in _loaded(path)]


def test_converted_quotes_are_the_loaded_ones_without_isin(asx_sample: Path) -> None:
    path = _busiest(asx_sample, "quotes")
    converted = [quote_v2(record) for record in _as_v1(path, "quote_v1")]
    assert [_without(one) for one in converted] == [_without(one) for one in _loaded(path)]


def test_equal_trades_become_one_without_their_place(asx_sample: Path) -> None:
    records = _as_v1(_busiest(asx_sample, "trades"), "trade_v1")
    distinct = sum(number == 0 for number in _copy_numbers(records))
    assert len({trade_v2(record)["message_id"] for record in records}) == distinct < len(records)


@pytest.mark.parametrize(("name", "schema"), [("trades", TRADE), ("quotes", QUOTE)])
def test_a_converted_record_has_the_fields_of_v2_in_order(
    name: str, schema: Any, asx_sample: Path
) -> None:
    convert = {"trades": trade_v2, "quotes": quote_v2}[name]
    record = _as_v1(_busiest(asx_sample, name), f"{name.removesuffix('s')}_v1")[0]
    assert list(convert(record)) == schema.arrow.names


def test_the_place_in_the_file_keeps_the_order(asx_sample: Path) -> None:
    records = _as_v1(_busiest(asx_sample, "trades"), "trade_v1")
    assert [trade_v2(one)["platform_sequence"] for one in records] == list(range(len(records)))


def test_the_identity_is_the_one_of_the_design() -> None:
    trade = {
        "symbol": "BHP",
        "company_id": 7078,
        "exchange": "ASX",
        "exchange_timestamp": datetime(2014, 3, 9, 20, 57, 14, 754_000, UTC),
        "price": Decimal("36.667"),
        "volume": 20_000,
        "qualifiers": 3,
        "venue": "X",
        "buyer_id": None,
        "ingestion_timestamp": READ_AT,
        "sequence_number": 0,
    }
    assert trade_v2(trade)["message_id"] == "b59a418f-8cc6-5020-93a1-a5b1ac0169bc"


def test_a_side_of_nothing_is_null() -> None:
    quote = {
        "symbol": "BHP",
        "company_id": 7078,
        "exchange": "ASX",
        "exchange_timestamp": datetime(2014, 3, 9, 18, 43, 45, 676_000, UTC),
        "bid_price": Decimal("37.70"),
        "bid_volume": 300,
        "ask_price": Decimal(0),
        "ask_volume": 0,
        "ingestion_timestamp": READ_AT,
        "sequence_number": None,
    }
    converted = quote_v2(quote)
    assert converted["message_id"] == "89da9b03-e5bf-5329-9be9-5e9c68ee2171"
    assert converted["ask_price"] is None and converted["ask_quantity"] is None

"""Rows and tables that tests of the lake and of queries make for themselves."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.iceberg.writer import QuickTransaction
from k2lib.schema.records import GAP, QUOTE, TRADE
from k2lib.settings import Settings

NOON = datetime(2014, 3, 10, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return the moment so many seconds after noon in Sydney on 10 March 2014."""
    return NOON + timedelta(seconds=seconds)


def trade(number: int, **changed: Any) -> dict[str, Any]:
    """Return a BHP trade, a second after the one with the number before."""
    row = {
        "message_id": f"m{number:06d}",
        "trade_id": f"ASX-m{number:06d}",
        "symbol": "BHP",
        "exchange": "ASX",
        "asset_class": "equities",
        "timestamp": at(number),
        "price": Decimal("36.67"),
        "quantity": Decimal(100),
        "currency": "AUD",
        "side": "UNKNOWN",
        "trade_conditions": ["0"],
        "source_sequence": None,
        "ingestion_timestamp": at(number),
        "platform_sequence": 0,
        "vendor_data": {"qualifiers": "0"},
    }
    return row | changed


def quote(number: int, **changed: Any) -> dict[str, Any]:
    """Return a BHP quote without an ask."""
    bought = {"bid_price": Decimal("36.66"), "bid_quantity": Decimal(300)}
    sold = {"quote_id": f"ASX-Q-m{number:06d}", "ask_price": None, "ask_quantity": None}
    known = {name: one for name, one in trade(number).items() if name in QUOTE.arrow.names}
    return known | bought | sold | changed


def gap(gap_id: str, revision: int, **changed: Any) -> dict[str, Any]:
    """Return one revision of a gap of ten ids."""
    row = {
        "message_id": f"{gap_id}|{revision}",
        "gap_id": gap_id,
        "revision": revision,
        "noticed": at(revision),
        "exchange": "BINANCE",
        "symbol": "BTCUSDT",
        "from_id": 1,
        "to_id": 10,
        "state": "noticed",
        "filled": 0,
        "covered": 0,
        "absent": 0,
        "note": "",
    }
    return row | changed


SCHEMAS = {"trades_v2": TRADE, "quotes_v2": QUOTE, "gaps": GAP}


def rows_table(rows: Sequence[dict[str, Any]], name: str = "trades_v2") -> pa.Table:
    """Return rows as the Arrow table that a sink would append."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[name].arrow)


def catalog_in(home: Path) -> Catalog:
    """Open the embedded catalog of a home of its own."""
    return open_catalog(Settings(home=home))


def append(catalog: Catalog, rows: Sequence[dict[str, Any]], name: str = "trades_v2") -> Table:
    """Append rows to a table, made where needed, and return it."""
    table = ensure_table(catalog, TABLES[name])
    append_rows(table, rows_table(rows, name))
    return table


def append_rows(table: Table, rows: pa.Table, **properties: str) -> None:
    """Append rows as `Table.append` does, whose transaction copies all metadata twenty times."""
    with QuickTransaction(table) as transaction:
        transaction.append(rows, snapshot_properties=properties)

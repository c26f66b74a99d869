"""What only the exchange of a chaos run knows: that each of its ids is in the lake."""

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pyiceberg.table import StaticTable

LOCKED_S: Final = 0.3
SIM: Final = "BINANCE_SIM"


def newest_metadata(home: Path, table: str = "trades_v2") -> str | None:
    """Return where the newest metadata of a table is; None where there is no table."""
    uri = f"file:{home / 'catalog.db'}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_S)) as catalog:
            query = "select metadata_location from iceberg_tables where table_name = ?"
            found = catalog.execute(query, [table]).fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else str(found[0])


def missing_ids(home: Path, last: Mapping[str, int]) -> dict[str, int]:
    """Return how many of the exchange's ids, from the first stored to the last, are not there."""
    location = newest_metadata(home)
    if location is None:
        return {symbol: -1 for symbol in last}
    table = StaticTable.from_metadata(location)
    scan = table.scan(f"exchange = '{SIM}'", selected_fields=("symbol", "source_sequence"))
    found: dict[str, set[int]] = {}
    for row in scan.to_arrow().to_pylist():
        found.setdefault(row["symbol"], set()).add(row["source_sequence"])
    return {
        symbol: end - min(found[symbol]) + 1 - len({one for one in found[symbol] if one <= end})
        if symbol in found
        else -1
        for symbol, end in last.items()
    }

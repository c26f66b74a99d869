"""Replay of generated trades: records and batches a second, beside DuckDB's plain reading.

Run: python -m bench.replay [rows]
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from bench.homes import new_home
from bench.measure import Figure, machine, measured, peak_mb
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.replay import Replay, replay
from k2lib.schema.decimals import decimal_array
from k2lib.schema.identity import message_ids
from k2lib.schema.records import TRADE
from k2lib.settings import Settings

ROWS: Final = 2_000_000
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
DAY: Final = datetime(2026, 3, 14, tzinfo=UTC)
FIRST_ID: Final = 4_000_000_000
ROWS_A_DAY: Final = 2_000_000
FEW: Final = ("timestamp", "exchange", "symbol", "price", "quantity", "side", "source_sequence")
TIMES: Final = 3


def trades(first: int, rows: int) -> pa.Table:
    """Make a day's trades numbered from `first`, the symbols in turn, as Binance's would be."""
    numbers = np.arange(first, first + rows)
    draw = np.random.default_rng(first)
    days = first // ROWS_A_DAY * 86_400_000_000
    spread = np.arange(rows) * (86_400_000_000 // rows)
    times = pa.array(int(DAY.timestamp()) * 1_000_000 + days + spread)
    symbols = pa.array(SYMBOLS).take(pa.array(numbers % len(SYMBOLS)))
    ids = pl.Series("id", FIRST_ID + numbers // len(SYMBOLS))
    texts = pl.DataFrame({"symbol": pl.Series(symbols), "id": ids.cast(pl.String)})
    identity = texts.select(
        message_ids(pl.concat_str(pl.lit("BINANCE"), "symbol", "id", separator="|"))
    )
    price, quantity = (
        6_500_000 + np.cumsum(draw.integers(-1, 2, rows)),
        draw.integers(1, 40_000, rows),
    )
    decimals = TRADE.arrow.field("price").type
    maker = draw.integers(0, 2, rows)
    vendor = ("base_asset", "is_buyer_maker", "origin", "quote_asset")
    values = pa.array(["BTC", "true", "stream", "USDT", "BTC", "false", "stream", "USDT"])
    pairs = (maker[:, None] * len(vendor) + np.arange(len(vendor))).ravel()
    columns: dict[str, Any] = {
        "message_id": identity.to_series().to_arrow(),
        "trade_id": texts.select("BINANCE-" + pl.col("id")).to_series().to_arrow(),
        "symbol": symbols,
        "exchange": pa.repeat("BINANCE", rows),
        "asset_class": pa.repeat("crypto", rows),
        "timestamp": times,
        "price": decimal_array(price * 10**6, arrow_type=decimals),
        "quantity": decimal_array(quantity * 1000, arrow_type=decimals),
        "currency": pa.repeat("USDT", rows),
        "side": pa.array(["SELL", "BUY"]).take(pa.array(maker)),
        "trade_conditions": pa.repeat(pa.scalar([], pa.list_(pa.string())), rows),
        "source_sequence": ids.to_arrow(),
        "ingestion_timestamp": times,
        "platform_sequence": pa.nulls(rows),
        "vendor_data": pa.MapArray.from_arrays(
            pa.array(np.arange(rows + 1) * len(vendor), pa.int32()),
            pa.array(vendor).take(pa.array(np.tile(np.arange(len(vendor)), rows))),
            values.take(pa.array(pairs)),
        ),
    }
    arrays = [columns[field.name].cast(field.type) for field in TRADE.arrow]
    table = pa.Table.from_arrays(arrays, schema=TRADE.arrow)
    return table.sort_by([(name, "ascending") for name in TABLES["trades_v2"].order])


def best(name: str, rows: int, work: Callable[[], int]) -> Figure:
    """Do the work some times and return what the quickest took."""
    figures = []
    for _ in range(TIMES):
        with measured(name, rows) as figure:
            done = work()
        if done != rows:
            raise RuntimeError(f"{name}: {done} rows of {rows}")
        figures.append(figure)
    return min(figures, key=lambda figure: figure.cpu_s)


def run(build: Path, *, rows: int = ROWS) -> list[str]:
    """Write a lake, replay it, and return the report's lines."""
    with new_home(build, "bench-replay") as home:
        return list(report(home, rows))


def report(home: Path, rows: int = ROWS) -> Iterator[str]:
    """Write a lake and describe what replaying it takes, in lines of text."""
    catalog = open_catalog(Settings(home=home))
    table = ensure_table(catalog, TABLES["trades_v2"])
    for first in range(0, rows, ROWS_A_DAY):
        table.append(trades(first, min(ROWS_A_DAY, rows - first)))
    yield machine()
    yield f"{rows:,} trades of {len(SYMBOLS)} symbols, {ROWS_A_DAY:,} a day; best of {TIMES}"
    end = DAY + timedelta(days=1 + rows // ROWS_A_DAY)
    with Engine(catalog) as engine:
        requests = [ReadRequest(symbol, start=DAY, end=end, tail=False) for symbol in SYMBOLS]
        of_all = replay(engine, requests, kinds=["trades"])
        of_one = replay(engine, requests[:1], kinds=["trades"])
        engine.fetch("SET threads = 1")
        names = ", ".join(FEW)
        work: list[tuple[str, int, Callable[[], int]]] = [
            ("batches, 7 columns, one symbol", rows // 2, lambda: _batches(of_one, FEW)),
            ("batches, 7 columns", rows, lambda: _batches(of_all, FEW)),
            ("batches, all columns", rows, lambda: _batches(of_all, None)),
            ("records", rows, lambda: sum(1 for _ in of_all)),
            ("DuckDB, 7 columns, as stored", rows, lambda: _duckdb(engine, names)),
            ("DuckDB, 7 columns, by time", rows, lambda: _duckdb(engine, names, ordered=True)),
            ("DuckDB, all columns, by time", rows, lambda: _duckdb(engine, "*", ordered=True)),
        ]
        for name, count, job in work:
            yield str(best(name, count, job))
            if name == "records":
                yield f"most memory held until here, the making of the rows too: {peak_mb():.0f} MB"


def _batches(replayed: Replay, columns: tuple[str, ...] | None) -> int:
    return sum(batch.rows.num_rows for batch in replayed.batches(columns=columns))


def _duckdb(engine: Engine, columns: str, *, ordered: bool = False) -> int:
    order = "ORDER BY timestamp, exchange, symbol, source_sequence" if ordered else ""
    return engine.sql(f"SELECT {columns} FROM lake.trades_v2 {order}", tail=False).height


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="k2-bench-") as folder:
        for line in report(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else ROWS):
            print(line, flush=True)

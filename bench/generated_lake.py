"""A lake of generated trades, as sink and maintenance leave it; written without Kafka.

Run: python -m bench.generated_lake HOME ROWS
"""

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.consumer import TopicPartition
from k2lib.settings import Settings
from k2lib.venues.binance.instruments import SHIPPED, shipped_instruments
from k2lib.venues.binance.rows import RawTrades, trade_rows

EXCHANGE: Final = "BINANCE_SIM"
INSTRUMENTS: Final = list(shipped_instruments(list(SHIPPED)[:20], exchange=EXCHANGE).values())
SYMBOLS: Final = [one.symbol for one in INSTRUMENTS]
ROWS_A_DAY: Final = 2_000_000
# Of these rows, a commit's file is as large as those that compaction makes.
ROWS_A_COMMIT: Final = 1_000_000
FIRST_DAY: Final = date(2026, 1, 5)
PARTITION: Final = TopicPartition("market.crypto.trades.binance_sim", 0)
LOG: Final = "generated/0"
DAY_US: Final = 24 * 3600 * 1_000_000
FIRST_US: Final = int(datetime.combine(FIRST_DAY, datetime.min.time(), UTC).timestamp()) * 1_000_000
PRICES: Final = pa.array([f"{100 + n // 100}.{n % 100:02}" for n in range(5_000)])
QUANTITIES: Final = pa.array([f"{n // 1000}.{n % 1000:03}" for n in range(1, 20_000)])
ORIGIN: Final = {"origin": "stream"}


def last_day(rows: int, *, rows_a_day: int = ROWS_A_DAY) -> date:
    """Return the last day of a lake of so many rows."""
    return FIRST_DAY + timedelta(days=-(-rows // rows_a_day) - 1)


def trades(first: int, count: int, *, rows_a_day: int = ROWS_A_DAY) -> pa.Table:
    """Make trades numbered from `first`, evenly over the days, the symbols taking turns.

    They come in the order in which the table's files have them, which is quicker to write.
    """
    numbers = _by_symbol(np.arange(first, first + count))
    draw = np.random.default_rng(first)
    times = FIRST_US + numbers * DAY_US // rows_a_day
    columns = RawTrades(
        codes=numbers % len(SYMBOLS),
        ids=numbers // len(SYMBOLS) + 1,
        prices=PRICES.take(pa.array(_walk(draw, count))),
        quantities=QUANTITIES.take(pa.array(draw.integers(0, len(QUANTITIES), count))),
        times=times,
        buyer_is_maker=draw.random(count) < 0.5,
        received_us=times + draw.integers(1_000, 50_000, count),
        vendor=ORIGIN,
    )
    made = trade_rows(columns, INSTRUMENTS, unit="us", latest_us=2**62)
    assert not made.refusals
    return made.table


def write(
    home: Path,
    rows: int,
    *,
    rows_a_day: int = ROWS_A_DAY,
    rows_a_commit: int = ROWS_A_COMMIT,
) -> None:
    """Commit so many trades into a new table in `home`, with the maintenance that is due."""
    spec = TABLES["trades_v2"]
    table = ensure_table(open_catalog(Settings(home=home)), spec)
    writer = TableWriter(table, spec, on_event=lambda event: None)
    maintenance = _maintenance(home)
    for begin, end in _commits(rows, rows_a_day, rows_a_commit):
        made = trades(begin, end - begin, rows_a_day=rows_a_day)
        writer.append(made, {PARTITION: (begin, end)}, {PARTITION.topic: LOG})
        maintenance.after_commit(writer.table)
    maintenance.run_now(writer.table)


def _by_symbol(numbers: np.ndarray) -> np.ndarray:
    codes = np.argsort(SYMBOLS)
    return np.concatenate([numbers[numbers % len(SYMBOLS) == code] for code in codes])


def _commits(rows: int, rows_a_day: int, rows_a_commit: int) -> Iterator[tuple[int, int]]:
    """No commit crosses midnight, so that the files of all days are alike."""
    for day in range(0, rows, rows_a_day):
        end = min(day + rows_a_day, rows)
        for begin in range(day, end, rows_a_commit):
            yield begin, min(begin + rows_a_commit, end)


def _maintenance(home: Path) -> Maintenance:
    return Maintenance(
        TABLES["trades_v2"],
        state=home / "sweep.json",
        now=lambda: datetime.now(UTC),
        on_event=lambda event: None,
    )


def _walk(draw: np.random.Generator, count: int) -> np.ndarray:
    """A price that wanders by a cent or none and is turned back at the edges."""
    steps = np.cumsum(draw.integers(-1, 2, count)) + len(PRICES) // 2
    return np.abs((steps + len(PRICES)) % (2 * len(PRICES)) - len(PRICES)) % len(PRICES)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))

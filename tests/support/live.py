"""Live feeds of the offline exchange: options that do not wait long, and the proof at the end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
from support.lake_audit import audit
from support.waiting import wait_until

from k2lib import K2
from k2lib.feed.options import FeedOptions, StreamLimits
from k2lib.feed.status_file import read_status, status_path
from k2lib.simulator import OfflineExchange
from k2lib.venues.binance.venue import BinanceVenue, binance

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
SOON = FeedOptions(
    limits=StreamLimits(
        first_delay_s=0.1, longest_delay_s=0.5, stale_s=1.0, breaker_rest_s=0.5, attempts=10_000
    ),
    grace_s=0.3,
    upgrade_s=0.5,
)
# For who counts alerts or connections: that the machine pauses for a moment is no silent stream.
CALM = replace(SOON, limits=replace(SOON.limits, stale_s=60.0))


def streams(home: Path, trades: int = 1) -> bool:
    """Tell whether the feed of a home has told of so many trades of each symbol."""
    told = read_status(status_path(home))
    return told is not None and all(one.trades >= trades for one in told.status.symbols)


def venue_of(exchange: OfflineExchange) -> BinanceVenue:
    """Return the venue that an offline exchange is."""
    return binance(exchange.ws_urls, exchange.rest_urls)


def wait_for_lake(k2: K2, exchange: OfflineExchange, seconds: float = 60.0) -> dict[str, int]:
    """Wait until the lake explains every id made by now; return the last ids made by now."""
    last = {symbol: exchange.truth(symbol).last_id for symbol in SYMBOLS}

    def explained() -> bool:
        rows = {row["symbol"]: row for row in k2.contiguity().iter_rows(named=True)}
        return rows.keys() >= last.keys() and all(
            rows[symbol]["last_id"] >= last[symbol] and rows[symbol]["unexplained"] == 0
            for symbol in last
        )

    wait_until(explained, seconds)
    return last


def assert_all_there(
    home: Path, exchange: OfflineExchange, *, first: dict[str, int], last: dict[str, int]
) -> None:
    """Fail unless each id after first, to last, is in the lake once or was never published."""
    stored = audit(home)
    assert stored is not None
    for symbol in SYMBOLS:
        found = duckdb.execute(
            "select source_sequence from read_parquet($files) where symbol = $symbol "
            "and source_sequence <= $last",
            {"files": stored.files, "symbol": symbol, "last": last[symbol]},
        ).fetchall()
        ids = sorted(one for (one,) in found)
        assert ids[0] <= first[symbol] + 1, f"{symbol} begins at {ids[0]}, after {first[symbol]}"
        made = set(range(ids[0], last[symbol] + 1)) - exchange.truth(symbol).void
        assert len(ids) == len(set(ids)), f"{symbol}: {len(ids) - len(set(ids))} ids twice"
        assert set(ids) == made, f"{symbol}: lost or invented {sorted(set(ids) ^ made)[:20]}"


def last_ids(exchange: OfflineExchange) -> dict[str, int]:
    """Return the last id of every symbol made by now."""
    return {symbol: exchange.truth(symbol).last_id for symbol in SYMBOLS}


class Clock:
    """The wall clock, some seconds behind, until it is set right."""

    def __init__(self, wall: Callable[[], float], behind_s: float) -> None:
        self._wall = wall
        self.behind_s = behind_s

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return self._wall() - self.behind_s

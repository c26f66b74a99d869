"""Trades and frames that are refused: alerts, gaps and dead letters say the same of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.live import CALM, SYMBOLS, last_ids, venue_of
from support.waiting import wait_until

from k2lib import K2
from k2lib.simulator import OfflineExchange
from k2lib.venues.base import BackfillPage, MissingTrades, ParsedFrames
from k2lib.venues.binance.backfill import missing_trades
from k2lib.venues.binance.rest import Reply, Rest
from k2lib.venues.binance.venue import BinanceRequests, BinanceVenue

pytestmark = pytest.mark.slow
SYMBOL = SYMBOLS[0]
TOO_MUCH = "99999999999.0"


@dataclass(frozen=True)
class LargeRest:
    """Answers as REST does, but that one trade has a quantity that fits no column."""

    rest: Rest
    large: list[int]

    def get(self, path: str, params: Mapping[str, Any], *, weight: int) -> Reply:
        reply = self.rest.get(path, params, weight=weight)
        rows = json.loads(reply.body)
        changed = [row | {"qty": TOO_MUCH} if row["id"] in self.large else row for row in rows]
        return Reply(json.dumps(changed).encode(), reply.host, reply.exchange)


@dataclass
class LargeRequests:
    """The requests of a venue, whose backfill is that of `LargeRest`."""

    inner: BinanceRequests
    large: list[int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def backfill(self, missing: MissingTrades) -> Iterator[BackfillPage]:
        rest = LargeRest(self.inner._rest, self.large)
        return missing_trades(rest, missing, stop=self.inner._stop)


@dataclass(frozen=True)
class LargeVenue(BinanceVenue):
    """A venue one of whose trades has a quantity that fits no column."""

    large: list[int] = field(default_factory=list)

    def open_requests(self, **options: Any) -> Any:
        return LargeRequests(super().open_requests(**options), self.large)

    def parse_frames(self, frames: Sequence[bytes], *more: Any, **options: Any) -> ParsedFrames:
        return super().parse_frames([self._enlarged(one) for one in frames], *more, **options)

    def _enlarged(self, frame: bytes) -> bytes:
        message = json.loads(frame)
        trade = message.get("data", {})
        if trade.get("s") == SYMBOL and trade.get("t") in self.large:
            trade["q"] = TOO_MUCH
        return json.dumps(message, separators=(",", ":")).encode()


def test_a_trade_refused_for_overflow_is_called_so_in_its_gap_and_in_the_alerts(
    tmp_path: Path,
) -> None:
    with OfflineExchange(SYMBOLS, rate=50.0) as exchange:
        plain = venue_of(exchange)
        venue = LargeVenue(plain.exchange, plain.stream_hosts, plain.request_hosts)
        with (
            K2.open(home=tmp_path / "home", commit_interval_s=0.2) as k2,
            k2.feed(SYMBOLS, venue=venue, options=CALM) as feed,
        ):
            wait_until(lambda: all(one.trades for one in feed.status().symbols))
            large = last_ids(exchange)[SYMBOL] + 100
            venue.large.append(large)
            wait_until(lambda: feed.status().symbols[0].gaps_closed)
            alerts = {one.name: one.summary for one in k2.watch.alerts.firing}
            k2.pipeline.settle()
            gaps = k2.sql("select from_id, to_id, state, note from gaps").rows()
            letters = k2.sql("select reason, count(*) from dead_letters group by all").rows()
    assert gaps == [(large, large, "lost", f"{large} in the dead letters (overflow)")]
    assert "they came and were refused (overflow)" in alerts["gap_unfillable"]
    assert alerts["dead_letters"].startswith("2 records refused (2 overflow)")
    assert letters == [("overflow", 2)]


def test_what_an_alert_counts_is_what_the_table_has(tmp_path: Path) -> None:
    with (
        OfflineExchange(SYMBOLS, rate=50.0) as exchange,
        K2.open(home=tmp_path / "home", commit_interval_s=0.2) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM) as feed,
    ):
        for garbled in (7, 14):
            exchange.fault("garbage", n=7)
            wait_until(lambda garbled=garbled: feed.status().dead_letters >= garbled)
        k2.pipeline.settle()
        [alert] = k2.watch.alerts.firing
        counts = k2.sql(
            "select reason, count(*) from dead_letters group by all order by all"
        ).rows()
    text = ", ".join(f"{count} {reason}" for reason, count in counts)
    assert alert.summary.startswith(f"{sum(count for _, count in counts)} records refused ({text})")

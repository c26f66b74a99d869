"""The table of faults: what the feed does of each, what it counts, who is told, nothing missing.

`pytest tests/feed/test_feed_faults.py -s` prints the table.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.live import CALM, SOON, SYMBOLS, assert_all_there, last_ids, venue_of, wait_for_lake
from support.recorded_events import AnEvent, events_of
from support.redis_server import RedisServer
from support.waiting import wait_until
from support.webhook_receiver import Receiver

from k2lib import K2
from k2lib.errors import TransientError
from k2lib.events import (
    BatchDone,
    BreakerChanged,
    ConnectionOpened,
    ConnectionRotated,
    Event,
    FeedLagMeasured,
    FeedPaused,
    FeedResumed,
    GapClosed,
    GapFillFailed,
    GapNoticed,
    SinkPaused,
    StateLost,
    StateRestored,
    StreamResumed,
    StreamStale,
)
from k2lib.feed.feed import Feed
from k2lib.feed.options import FeedOptions
from k2lib.simulator import OfflineExchange

pytestmark = pytest.mark.slow
HOSTS = ("first", "second")


@dataclass
class Live:
    """A feed of an exchange with two hosts, a receiver of its alerts, and what happened."""

    home: Path
    exchange: OfflineExchange
    receiver: Receiver
    k2: K2
    events: list[Event] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    feed: Feed | None = None

    def on_event(self, event: Event) -> None:
        """Keep the event, and wake who waits for it."""
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def named(self, kind: type[AnEvent]) -> list[AnEvent]:
        """Return the events of this class."""
        with self.changed:
            return events_of(self.events, kind)

    def wait_for(self, kind: type[Event], count: int = 1) -> None:
        """Wait until this has happened so often."""
        wait_until(lambda: len(self.named(kind)) >= count)

    def fault(self, name: str, **options: object) -> None:
        """Let the exchange do wrong."""
        self.exchange.fault(name, **options)

    def host(self, url: object) -> str:
        """Return the name of a host."""
        return HOSTS[[*self.exchange.ws_urls].index(str(url))]

    def metric(self, name: str, **labels: str) -> float:
        """Scrape one sample; 0 where it is not there yet."""
        text = httpx2.get(self.k2.watch.metrics_url or "", timeout=60).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    hosts: str
    breakers: str
    metric: str
    before: float
    after: float
    alerts: str
    ids: str


TABLE: list[Row] = []


@pytest.fixture(scope="module", autouse=True)
def printed_table() -> Iterator[None]:
    """Print what the tests found, as one table."""
    yield
    widths = [max(len(str(value)) for value in column) for column in zip(*_cells(), strict=True)]
    for cells in _cells():
        print("  ".join(str(one).ljust(width) for one, width in zip(cells, widths, strict=True)))


def _cells() -> list[list[object]]:
    return [list(Row.__annotations__), *([*vars(row).values()] for row in TABLE)]


@contextmanager
def watched(home: Path, **settings: str) -> Iterator[Live]:
    """Open exchange, receiver and K2; the feed is started by `start`."""
    listeners: list[Callable[[Event], None]] = []
    with (
        OfflineExchange(SYMBOLS, rate=100.0, hosts=2) as exchange,
        Receiver() as receiver,
        K2.open(
            home=home,
            commit_interval_s=0.3,
            metrics_port=0,
            alert_webhook_url=receiver.url,
            on_event=lambda event: [one(event) for one in listeners] and None,
            **settings,
        ) as k2,
    ):
        live = Live(home, exchange, receiver, k2)
        listeners.append(live.on_event)
        yield live


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Open all that a row of the table needs."""
    with watched(tmp_path / "home") as opened:
        yield opened


def start(live: Live, options: FeedOptions = CALM) -> dict[str, int]:
    """Start the feed and wait for its first trades; return the last ids made before them."""
    live.feed = live.k2.feed(SYMBOLS, venue=venue_of(live.exchange), options=options)
    first = last_ids(live.exchange)
    live.wait_for(BatchDone)
    return first


def finish(
    live: Live,
    first: dict[str, int],
    *,
    fault: str,
    metric: tuple[str, dict[str, str]],
    before: float,
    alerts: list[str],
) -> None:
    """Prove that nothing is missing, that each alert was told once each way, and note the row.

    Args:
        alerts: all but those of silent streams, of which there is one each time one was noticed.
    """
    last = wait_for_lake(live.k2, live.exchange)
    assert_all_there(live.home, live.exchange, first=first, last=last)
    wait_until(lambda: len(live.receiver.said()) >= 2 * len(_with_silent(live, alerts)))
    alerts = _with_silent(live, alerts)
    told = [(name, status) for name in alerts for status in ("firing", "resolved")]
    said = sorted((name, status) for name, _, status in live.receiver.said())
    assert said == sorted(told)
    opened = [live.host(event.host) for event in live.named(ConnectionOpened)]
    breakers = [f"{live.host(event.host)} {event.state}" for event in live.named(BreakerChanged)]
    name, labels = metric
    TABLE.append(
        Row(
            fault,
            " → ".join(opened),
            ", ".join(breakers) or "closed",
            name,
            before,
            live.metric(name, **labels),
            ", ".join(alerts) or "none",
            "contiguous",
        )
    )


def _with_silent(live: Live, alerts: list[str]) -> list[str]:
    return alerts + ["stream_stale"] * len(live.named(StreamStale))


def test_451_leaves_the_host_for_good(live: Live) -> None:
    live.fault("refuse", host=0, status=451, s=600)
    metric = ("k2_binance_connection_errors_total", {"kind": "http_451"})
    first = start(live)
    row = {"fault": "451 on the first host", "metric": metric, "before": 0.0}
    finish(live, first, **row, alerts=["host_banned"])
    assert TABLE[-1].hosts == "second" and TABLE[-1].after == 1


def test_three_refusals_open_the_breaker_and_two_successes_close_it(live: Live) -> None:
    first = start(live)
    metric = ("k2_binance_connection_errors_total", {"kind": "refused"})
    before = live.metric(*metric[:1], **metric[1])
    live.fault("refused", s=600, cut=True)
    wait_until(lambda: len(_opened_breakers(live)) == 2)
    live.fault("heal")
    wait_until(lambda: _closed(live) and not live.k2.watch.alerts.firing)
    alerts = ["breaker_open"] * 2
    finish(live, first, fault="three refusals", metric=metric, before=before, alerts=alerts)
    assert TABLE[-1].after >= before + 3


def _opened_breakers(live: Live) -> set[str]:
    changes = live.named(BreakerChanged)
    return {str(one.host) for one in changes if one.state == "open"}


def _closed(live: Live) -> list[BreakerChanged]:
    return [one for one in live.named(BreakerChanged) if one.state == "closed"]


def test_a_stall_moves_to_the_other_host(live: Live) -> None:
    first = start(live, SOON)
    metric = ("k2_binance_reconnects_total", {})
    before = live.metric(metric[0])
    live.fault("stall", host=0, s=30.0)
    live.wait_for(StreamResumed)
    finish(live, first, fault="stall", metric=metric, before=before, alerts=[])
    assert TABLE[-1].hosts.startswith("first → second")


def test_429_rests_the_host_as_long_as_it_asks(live: Live) -> None:
    first = start(live)
    metric = ("k2_binance_backfilled_trades_total", {})
    limited = {"status": 429, "s": 600, "retry_after_s": 1.0, "ws": False, "rest": True}
    live.fault("refuse", **limited)
    live.fault("skip", n=20, symbol="BTCUSDT")
    live.wait_for(GapFillFailed)
    assert "429" in str(live.named(GapFillFailed)[0].reason)
    live.fault("heal")
    live.wait_for(GapClosed)
    row = {"fault": "429 with Retry-After", "metric": metric, "before": 0.0}
    finish(live, first, **row, alerts=["gap_not_filled"])
    assert TABLE[-1].after >= 20


def test_a_gap_that_rest_cannot_fill_is_filled_when_it_can(live: Live) -> None:
    first = start(live)
    live.fault("rest_missing", s=600)
    live.fault("skip", n=20, symbol="ETHUSDT")
    live.wait_for(GapFillFailed)
    assert live.metric("k2_binance_gaps_open", symbol="ETHUSDT") == 1
    live.fault("heal")
    live.wait_for(GapClosed)
    metric = ("k2_binance_gaps_open", {"symbol": "ETHUSDT"})
    row = {"fault": "a gap that REST cannot fill", "metric": metric, "before": 1.0}
    finish(live, first, **row, alerts=["gap_not_filled"])
    assert TABLE[-1].after == 0


def test_a_shutdown_is_known_before_it_comes(live: Live) -> None:
    first = start(live)
    live.fault("shutdown", host=0, s=600)
    live.wait_for(ConnectionRotated)
    metric = ("k2_binance_reconnects_total", {})
    finish(live, first, fault="serverShutdown", metric=metric, before=0.0, alerts=[])
    assert not live.named(GapNoticed)


def test_a_locked_catalog_pauses_the_sink(live: Live) -> None:
    first = start(live)
    metric = ("k2_sink_paused", {"table": "trades_v2"})
    with closing(sqlite3.connect(live.home / "catalog.db")) as catalog:
        catalog.execute("begin exclusive")
        live.wait_for(SinkPaused)
        before = live.metric(metric[0], **metric[1])
    wait_until(lambda: live.metric(metric[0], **metric[1]) == 0)
    row = {"fault": "sink paused by a locked catalog", "metric": metric, "before": before}
    finish(live, first, **row, alerts=["sink_paused"])
    assert (before, TABLE[-1].after) == (1, 0)


def test_a_catalog_that_is_away_at_a_gap_pauses_the_feed(live: Live) -> None:
    first = start(live)
    metric = ("k2_binance_backfilled_trades_total", {})
    with closing(sqlite3.connect(live.home / "catalog.db")) as catalog:
        catalog.execute("begin exclusive")
        live.fault("skip", n=20, symbol="BTCUSDT")
        live.wait_for(FeedPaused)
    live.wait_for(FeedResumed)
    wait_until(lambda: not live.k2.watch.alerts.firing)
    paused = {one.table for one in live.named(SinkPaused)}
    # A feed that waits for the catalog for longer than ten seconds is behind by that.
    late = {one.symbol for one in live.named(FeedLagMeasured) if one.lag_s > 5.0}
    lagging = {subject for name, subject, _ in live.receiver.said() if name == "feed_lag"}
    assert lagging <= late
    alerts = ["feed_paused", *["sink_paused"] * len(paused), *["feed_lag"] * len(lagging)]
    row = {"fault": "catalog locked at a gap", "metric": metric, "before": 0.0}
    finish(live, first, **row, alerts=alerts)
    assert TABLE[-1].after >= 20


def test_redis_killed_and_back_changes_nothing(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as redis_server,
        watched(tmp_path / "home", redis_url=redis_server.url) as live,
    ):
        first = start(live)
        redis_server.kill()
        live.wait_for(StateLost)
        before = live.metric("k2_state_up")
        redis_server.start()
        live.wait_for(StateRestored)
        with redis_server.client() as client:
            wait_until(lambda: client.hgetall("k2:latest:BINANCE_SIM:BTCUSDT"))
        row = {"fault": "Redis killed and back", "metric": ("k2_state_up", {}), "before": before}
        finish(live, first, **row, alerts=["redis_gone"])
        assert (before, TABLE[-1].after) == (0, 1)


def test_trades_that_the_warehouse_does_not_take_are_an_error_at_the_end(tmp_path: Path) -> None:
    warehouse = "file:///dev/null/lake"
    with (
        pytest.raises(TransientError, match=r"file:///dev/null/lake: .*name another place"),
        OfflineExchange(SYMBOLS, rate=100.0) as exchange,
        K2.open(home=tmp_path / "home", warehouse=warehouse, timeout_s=0.3) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM) as feed,
    ):
        wait_until(lambda: all(one.trades for one in feed.status().symbols))

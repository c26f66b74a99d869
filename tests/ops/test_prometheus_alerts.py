"""Each alert fires and is resolved by a real fault, from K2 through Prometheus to the receiver."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml
from support.live import SOON, SYMBOLS, Clock, venue_of
from support.prometheus_server import Watching, watching
from support.redis_server import RedisServer
from support.waiting import wait_until

from k2lib import K2
from k2lib.api.server import ApiServer
from k2lib.events import to_all
from k2lib.feed.feed import Feed
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.ops.alerts import AlertLimits, Alerts, AlertsThread
from k2lib.ops.metrics import Metrics, MetricsServer
from k2lib.ops.prometheus.config import SOURCE
from k2lib.simulator import OfflineExchange

pytestmark = pytest.mark.slow
LIMITS = AlertLimits(lag_s=1.0, lag_for_s=0.2, gap_open_s=0.5, quiet_s=1.5)
FOR_GOOD = 600.0


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    """Start one Prometheus and one Alertmanager for all tests."""
    with watching(tmp_path_factory.mktemp("prometheus")) as one:
        yield one


@dataclass
class Stream:
    """A feed with sinks, its exchange with two hosts, and its Redis."""

    home: Path
    exchange: OfflineExchange
    clock: Clock
    redis: RedisServer
    k2: K2
    feed: Feed | None = None

    def start(self) -> None:
        """Start a feed, and wait for its first trades."""
        venue = venue_of(self.exchange)
        self.feed = feed = self.k2.feed(SYMBOLS, venue=venue, options=SOON)
        wait_until(lambda: all(one.trades for one in feed.status().symbols))


@pytest.fixture(scope="module")
def stream(watch: Watching, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    """Let Prometheus scrape a stream whose alerts have short limits."""
    home, clock, metrics = tmp_path_factory.mktemp("home"), Clock(time.time, 0.0), Metrics()
    alerts = Alerts(notify=[metrics.on_alert], limits=LIMITS)
    with (
        RedisServer(home) as redis,
        OfflineExchange(SYMBOLS, rate=50.0, hosts=2, clock=clock) as exchange,
        MetricsServer(metrics, port=0) as server,
        AlertsThread(alerts, interval_s=0.1),
        K2.open(
            home=home,
            commit_interval_s=0.3,
            commit_rows=200,
            redis_url=redis.url,
            on_event=to_all(metrics.on_event, alerts.on_event),
        ) as k2,
    ):
        live = Stream(home, exchange, clock, redis, k2)
        live.start()
        watch.targets({"stream": urlsplit(server.url).netloc})
        yield live


@contextmanager
def fires(watch: Watching, *names: str) -> Iterator[None]:
    """The fault before makes these fire, and the end of this block resolves them."""
    before = {name: len(watch.statuses(name)) for name in names}
    for name in names:
        wait_until(lambda name=name: "firing" in watch.statuses(name)[before[name] :])
    yield
    watch.wait_for(*names, status="resolved")


def test_a_locked_catalog_pauses_sink_and_feed_and_leaves_the_sink_behind(
    watch: Watching, stream: Stream
) -> None:
    # The first gap of a process asks the catalog for its table, so this comes before the others.
    with closing(sqlite3.connect(stream.home / "catalog.db")) as catalog:
        catalog.execute("begin exclusive")
        stream.exchange.fault("skip", n=20, symbol="BTCUSDT")
        paused = ExitStack()
        paused.enter_context(fires(watch, "sink_paused", "feed_paused"))
    with fires(watch, "sink_behind", "freshness_slow"):
        paused.close()


def test_silent_streams_are_stale_and_late(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("stall", s=FOR_GOOD, new=True)
    with fires(watch, "stream_stale", "feed_lag"):
        stream.exchange.fault("heal")


def test_hosts_that_refuse_open_their_breakers(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("refused", s=FOR_GOOD, cut=True)
    with fires(watch, "breaker_open"):
        stream.exchange.fault("heal")


def test_a_gap_that_is_given_merged_only_is_unfillable(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("market_data_only")
    stream.exchange.fault("skip", n=20, symbol="BTCUSDT")
    with fires(watch, "gap_unfillable"):
        stream.exchange.fault("heal")


def test_a_gap_that_rest_cannot_fill_is_not_filled(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("rest_missing", s=FOR_GOOD)
    stream.exchange.fault("skip", n=20, symbol="BTCUSDT")
    with fires(watch, "gap_not_filled"):
        stream.exchange.fault("heal")


def test_frames_that_cannot_be_read_are_dead_letters(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("garbage", n=7)
    with fires(watch, "dead_letters"):
        """It is over once none came for a while."""


def test_a_clock_that_is_behind_is_noticed(watch: Watching, stream: Stream) -> None:
    stream.clock.behind_s = -2.0
    with fires(watch, "clock_behind"):
        stream.clock.behind_s = 0.0


def test_redis_that_is_gone_is_noticed(watch: Watching, stream: Stream) -> None:
    stream.redis.kill()
    with fires(watch, "redis_gone"):
        stream.redis.start()


def test_a_host_that_refuses_for_good_is_banned(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("refuse", host=0, status=451, s=FOR_GOOD)
    stream.exchange.fault("refused", host=1, s=FOR_GOOD)
    stream.exchange.fault("cut")
    with fires(watch, "host_banned"):
        stream.exchange.fault("heal")


def test_a_feed_without_any_host_is_down(watch: Watching, stream: Stream) -> None:
    stream.exchange.fault("refuse", status=451, s=FOR_GOOD)
    stream.exchange.fault("cut")
    with fires(watch, "feed_down"):
        stream.exchange.fault("heal")
        stream.start()


def test_a_process_that_is_gone_is_noticed_until_it_answers_again(watch: Watching) -> None:
    with MetricsServer(Metrics(), port=0) as server:
        port = urlsplit(server.url).port
        assert port is not None
        watch.targets({"other": f"127.0.0.1:{port}"})
    with fires(watch, "process_down"):
        again = MetricsServer(Metrics(), port=port)
    again.close()
    assert watch.statuses("process_down")[:2] == ["firing", "resolved"]


@pytest.fixture(scope="module")
def api(watch: Watching, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Let Prometheus scrape the API of a home; give its catalog and address."""
    home = tmp_path_factory.mktemp("home")
    with K2.open(home=home) as k2, ApiServer(k2) as server:
        ensure_table(k2.catalog, TABLES["trades_v2"])
        watch.targets({"api": urlsplit(server.url).netloc})
        wait_until(lambda: _ready(server.url) == 200)
        yield home / "catalog.db", server.url


def _ready(url: str) -> int:
    return httpx2.get(f"{url}/ready", timeout=60).status_code


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Ask for the API's readiness again and again."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            _ready(url)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_catalog_that_cannot_be_read_is_an_error_of_the_api(
    watch: Watching, api: tuple[Path, str]
) -> None:
    catalog, url = api
    whole = catalog.read_bytes()
    with asking(url):
        catalog.write_bytes(b"no catalog" * 1000)
        with fires(watch, "api_errors"):
            catalog.write_bytes(whole)


def test_a_catalog_that_answers_late_makes_the_api_slow(
    watch: Watching, api: tuple[Path, str]
) -> None:
    catalog, url = api
    with asking(url), closing(sqlite3.connect(catalog, check_same_thread=False)) as slow:
        slow.execute("begin exclusive")
        threading.Timer(1.5, slow.rollback).start()
        with fires(watch, "api_slow"):
            """It is over once answers are fast again."""


def test_every_alert_was_delivered_firing_and_resolved(watch: Watching) -> None:
    """This comes last: it looks back at what the receiver was told."""
    groups = yaml.safe_load((SOURCE / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"]]
    told = {name: set(watch.statuses(name)) for name in names}
    assert told == {name: {"firing", "resolved"} for name in names}

"""Kafka killed under a live feed, and the feed's own process killed: nothing is missing after."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live import SOON, SYMBOLS, assert_all_there, last_ids, venue_of, wait_for_lake
from support.paths import CACHE
from support.waiting import wait_until

from k2lib import K2
from k2lib.events import Event, FeedPaused, FeedResumed
from k2lib.ops.services import Services, down, up
from k2lib.simulator import OfflineExchange

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture
def own_services(tmp_path: Path) -> Iterator[tuple[Path, Services]]:
    """Start a Kafka and a registry of this test alone; yield their home."""
    home = tmp_path / "home"
    try:
        yield home, up(home, kafka_port=0, registry_port=0, jar_cache=CACHE / "java")
    finally:
        down(home)


def test_a_kafka_killed_and_back_costs_no_trade(own_services: tuple[Path, Services]) -> None:
    home, services = own_services
    events: list[type[Event]] = []
    with (
        OfflineExchange(SYMBOLS, rate=100.0) as exchange,
        K2.open(
            home=home, commit_interval_s=0.5, on_event=lambda event: events.append(type(event))
        ) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON) as feed,
    ):
        first = last_ids(exchange)
        wait_for_lake(k2, exchange)
        os.kill(services.kafka_pid, signal.SIGKILL)
        exchange.fault("skip", n=30, symbol="ETHUSDT")
        wait_until(lambda: FeedPaused in events)
        up(home, kafka_port=0, registry_port=0, jar_cache=CACHE / "java")
        wait_until(lambda: FeedResumed in events)
        last = wait_for_lake(k2, exchange)
        assert_all_there(home, exchange, first=first, last=last)
        assert not feed.wait(0)

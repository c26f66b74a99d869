"""Whatever happens to the connection, every trade of the exchange is in the lake, once."""

import time
from pathlib import Path

import pytest
from support.live import SOON, SYMBOLS, assert_all_there, last_ids, venue_of, wait_for_lake
from support.waiting import wait_until

from k2lib import K2
from k2lib.simulator import OfflineExchange, chaos

SECONDS = 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_fault_loses_or_doubles_a_trade(
    seed: int, tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    script = chaos(seed, SECONDS, hosts=2)
    print(f"seed {seed}: {script}")  # shown where the test fails
    home = tmp_path / "home"
    with (
        OfflineExchange(SYMBOLS, rate=100.0, hosts=2) as exchange,
        K2.open(home=home, commit_interval_s=0.5, **kafka_settings) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON) as feed,
    ):
        first = last_ids(exchange)
        wait_until(lambda: all(one.trades for one in feed.status().symbols))
        began = time.monotonic()
        for at_s, name, options in script:
            feed.wait(began + at_s - time.monotonic())
            exchange.fault(name, **options)
        feed.wait(began + SECONDS - time.monotonic())
        exchange.fault("heal")
        wait_for_lake(k2, exchange)
        wait_until(lambda: k2.sql("select * from gaps where state = 'covered'").is_empty())
        last = wait_for_lake(k2, exchange)
        assert_all_there(home, exchange, first=first, last=last)

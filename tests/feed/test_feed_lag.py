"""A feed that gets nothing says so: its lag grows, the right alert fires, and no other."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.live import CALM, SOON, SYMBOLS, venue_of, wait_for_lake
from support.recorded_events import events_of
from support.waiting import wait_until

from k2lib import K2
from k2lib.events import Event, StreamStale, SymbolsHalted
from k2lib.feed.feed import Feed
from k2lib.simulator import OfflineExchange
from k2lib.venues.base import Instrument
from k2lib.venues.binance.venue import BinanceRequests, BinanceVenue

pytestmark = pytest.mark.slow
# A pause of the machine is shorter than that; the alert of a lag takes longer.
PATIENT = replace(SOON, limits=replace(SOON.limits, stale_s=8.0))
UNTRADED = "LUNUSDT"


def lags(feed: Feed) -> list[float]:
    return [one.lag_s or 0.0 for one in feed.status().symbols]


def trades(feed: Feed) -> list[int]:
    return [one.trades for one in feed.status().symbols]


def stale(events: Sequence[Event]) -> set[str]:
    return {one.symbol for one in events_of(events, StreamStale)}


def test_the_lag_grows_on_a_connection_that_brings_nothing_and_shrinks_after_it(
    tmp_path: Path,
) -> None:
    with (
        OfflineExchange(SYMBOLS, rate=50.0) as exchange,
        K2.open(home=tmp_path / "home") as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM) as feed,
    ):
        wait_until(lambda: all(trades(feed)))
        exchange.fault("stall", s=None)
        wait_until(lambda: min(lags(feed)) > 4.0)
        exchange.fault("heal")
        wait_until(lambda: max(lags(feed)) < 2.0)


def test_while_all_hosts_refuse_the_lag_and_the_hosts_are_told_and_no_stream_is_stale(
    tmp_path: Path,
) -> None:
    events: list[Event] = []
    with (
        OfflineExchange(SYMBOLS, rate=50.0, hosts=2) as exchange,
        K2.open(home=tmp_path / "home", on_event=events.append) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=PATIENT) as feed,
    ):
        wait_until(lambda: all(trades(feed)))
        exchange.fault("refused", s=None, cut=True)
        expected = {("feed_lag", symbol) for symbol in SYMBOLS}
        expected |= {("breaker_open", url) for url in exchange.ws_urls}
        wait_until(lambda: {(one.name, one.subject) for one in k2.watch.alerts.firing} == expected)
        lag = next(one for one in k2.watch.alerts.firing if one.name == "feed_lag")
        assert "No host is connected" in lag.summary
        assert min(lags(feed)) > 5.0 and not stale(events)
        exchange.fault("heal")
        wait_for_lake(k2, exchange)


class HaltedRequests(BinanceRequests):
    """Lists a symbol as halted: the exchange has it, and trades it again, or does not know it."""

    def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        listed = super().instruments([symbol for symbol in symbols if symbol != UNTRADED])
        found = {UNTRADED: Instrument(self.exchange, UNTRADED, "LUN", "USDT")} | listed
        halted = replace(found[symbols[-1]], halted="HALT")
        return {symbol: found[symbol] for symbol in symbols} | {halted.symbol: halted}


class HaltedVenue(BinanceVenue):
    """A venue whose last symbol is halted."""

    def open_requests(self, **options: Any) -> BinanceRequests:
        requests = super().open_requests(**options)
        return HaltedRequests(requests._rest, requests.exchange, requests._stop)


@pytest.mark.parametrize("symbols", [[*SYMBOLS, UNTRADED], SYMBOLS], ids=["halted", "back"])
def test_a_halted_symbol_refuses_no_other_and_is_missed_only_once_it_traded(
    tmp_path: Path, symbols: list[str]
) -> None:
    events: list[Event] = []
    with OfflineExchange(SYMBOLS, rate=50.0) as exchange:
        plain = venue_of(exchange)
        venue = HaltedVenue(plain.exchange, plain.stream_hosts, plain.request_hosts)
        with (
            K2.open(home=tmp_path / "home", on_event=events.append) as k2,
            k2.feed(symbols, venue=venue, options=SOON) as feed,
        ):
            wait_until(lambda: all(trades(feed)[:2]))
            exchange.fault("stall", s=None, new=True)
            wait_until(lambda: stale(events) == {*SYMBOLS})
    assert [one.symbols for one in events_of(events, SymbolsHalted)] == [(symbols[-1],)]
    assert stale(events) == {*SYMBOLS}

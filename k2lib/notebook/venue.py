"""The venue of a demo or a notebook: the real one where it can be reached, else the offline one.

A production feed never chooses like this: it takes the configured venue, or fails.
"""

from collections.abc import Sequence
from typing import Final

from k2lib.lifecycle import Closing
from k2lib.simulator import OfflineExchange
from k2lib.venues import live_venue
from k2lib.venues.base import LiveVenue, VenueUnavailableError

ANSWERS_WITHIN_S: Final = 3.0
OFFLINE: Final = "BINANCE_SIM"


class ChosenVenue(Closing):
    """A venue, the reason for it in one line, and the offline exchange if it is that one."""

    def __init__(
        self, venue: LiveVenue, reason: str, exchange: OfflineExchange | None = None
    ) -> None:
        self.venue = venue
        self.reason = reason
        self.exchange = exchange

    def __repr__(self) -> str:
        return f"{self.venue.exchange}: {self.reason}"

    def close(self) -> None:
        """End the offline exchange, if there is one."""
        if self.exchange is not None:
            self.exchange.close()


def reachable_venue(
    symbols: Sequence[str],
    *,
    rate: float = 50.0,
    offline: bool = False,
    venue: LiveVenue | None = None,
    within_s: float = ANSWERS_WITHIN_S,
) -> ChosenVenue:
    """Choose the real venue if it answers, else an offline exchange of these symbols.

    Args:
        rate: trades a second of each symbol, where the exchange is the offline one.
        offline: do not ask the real venue.
        venue: the real one; Binance without it.
        within_s: how long each of its hosts may take.
    """
    if offline:
        return _offline(symbols, rate, "the offline exchange, as requested")
    real = venue or live_venue("binance")
    refusals = []
    for url in real.request_hosts:
        refusal = _refusal(real, url, within_s)
        if refusal is None:
            return ChosenVenue(real, f"the real venue, which answers at {url}")
        refusals.append(f"{url}: {refusal}")
    reason = f"the offline exchange, as the real one is out of reach ({'; '.join(refusals)})"
    return _offline(symbols, rate, reason)


def offline_venue(exchange: OfflineExchange) -> LiveVenue:
    """Return an offline exchange as a venue: its addresses, under its own name."""
    return live_venue("binance").at(exchange.ws_urls, exchange.rest_urls).named(OFFLINE)


def _offline(symbols: Sequence[str], rate: float, reason: str) -> ChosenVenue:
    exchange = OfflineExchange(symbols, rate=rate)
    return ChosenVenue(offline_venue(exchange), reason, exchange)


def _refusal(venue: LiveVenue, url: str, within_s: float) -> str | None:
    """Return why a host does not answer; None where it does."""
    try:
        venue.ping(url, within_s=within_s)
    except VenueUnavailableError as exc:
        return str(exc)
    return None

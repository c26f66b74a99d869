"""Where a Binance venue is reached, and what its records are called."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from k2lib.errors import ConfigError

EXCHANGE_HEADER: Final = "X-K2-Exchange"
OF_OTHER_HOSTS: Final = {
    "binance.us": "BINANCEUS",
    "testnet.binance.vision": "BINANCE_TESTNET",
    "demo-stream.binance.com": "BINANCE_DEMO",
    "demo-api.binance.com": "BINANCE_DEMO",
}


@dataclass(frozen=True)
class Venue:
    """A venue's name and its hosts, the first ones preferred.

    All hosts of a venue give one and the same sequence of trades. `tls` verifies them; it is made
    from the system's certificates and never left out.
    """

    exchange: str
    ws_urls: tuple[str, ...]
    rest_urls: tuple[str, ...]
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context, compare=False)


def binance(
    ws_urls: Sequence[str] = (
        "wss://stream.binance.com:9443",
        "wss://stream.binance.com:443",
        "wss://data-stream.binance.vision:443",
    ),
    rest_urls: Sequence[str] = ("https://api.binance.com", "https://data-api.binance.vision"),
) -> Venue:
    """Return Binance, at its own hosts or at those given.

    Raises:
        ConfigError: an address that is none, or hosts of different venues.
    """
    ws = tuple(_checked(url, ("ws", "wss"), "K2_BINANCE_WS_URLS") for url in ws_urls)
    rest = tuple(_checked(url, ("http", "https"), "K2_BINANCE_REST_URLS") for url in rest_urls)
    if not ws or not rest:
        raise ConfigError("K2_BINANCE_WS_URLS and K2_BINANCE_REST_URLS need an address each")
    names = {exchange_of(url) for url in (*ws, *rest)}
    if len(names) > 1:
        raise ConfigError(f"these hosts are of different venues: {', '.join((*ws, *rest))}")
    return Venue(names.pop(), ws, rest)


def binance_us() -> Venue:
    """Return Binance.US: another venue, with its own symbols, ids and prices."""
    return binance(["wss://stream.binance.us:9443"], ["https://api.binance.us"])


def told_apart(venue: Venue, said: str | None) -> Venue:
    """Return the venue under the name that its host gives itself: an offline exchange does."""
    return venue if said is None else replace(venue, exchange=said)


def exchange_of(url: str, said: str | None = None) -> str:
    """Return whose host this is: what it says it is, else what its address tells."""
    if said is not None:
        return said
    host = urlsplit(url).hostname or ""
    return next(
        (
            name
            for part, name in OF_OTHER_HOSTS.items()
            if host == part or host.endswith(f".{part}")
        ),
        "BINANCE",
    )


def _checked(url: str, schemes: tuple[str, ...], setting: str) -> str:
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
        usable = usable and not (parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"{setting}={url!r}: give addresses like {schemes[1]}://host:port, joined by commas"
        )
    return url.strip().rstrip("/")

"""Addresses of Binance's hosts, and the exchange that each belongs to."""

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


def checked_address(url: str, schemes: tuple[str, ...], setting: str) -> str:
    """Return an address without blanks around it or a slash at its end.

    Args:
        schemes: those it may have, the safer one last.
        setting: where it stands, for the message.
    Raises:
        ConfigError: it is none.
    """
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

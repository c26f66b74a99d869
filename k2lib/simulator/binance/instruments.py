"""What each symbol is: its assets, about what it costs, and in which steps it trades."""

import hashlib
import math
import re
from dataclasses import dataclass

from k2lib.errors import ConfigError

QUOTE_ASSETS = ("USDT", "USDC", "FDUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
PLACES = 8
_SYMBOL = re.compile(r"[A-Z0-9]{5,20}")
_USUAL_NOTIONAL = 100.0


@dataclass(frozen=True)
class Instrument:
    """A symbol's assets, usual price and size, and the decimals of its tick and lot step."""

    symbol: str
    base: str
    quote: str
    price: float
    price_decimals: int
    quantity: float
    quantity_decimals: int

    @property
    def price_scale(self) -> int:
        """Units of 10^-8 in a tick."""
        return int(10 ** (PLACES - self.price_decimals))

    @property
    def quantity_scale(self) -> int:
        """Units of 10^-8 in a lot step."""
        return int(10 ** (PLACES - self.quantity_decimals))

    @property
    def amount_scale(self) -> int:
        """Units of 10^-8 in a tick times a lot step."""
        return int(10 ** (PLACES - self.price_decimals - self.quantity_decimals))


_KNOWN = {
    item.symbol: item
    for item in (
        Instrument("BTCUSDT", "BTC", "USDT", 65_000.0, 2, 0.002, 5),
        Instrument("ETHUSDT", "ETH", "USDT", 3_400.0, 2, 0.03, 4),
        Instrument("BNBUSDT", "BNB", "USDT", 600.0, 2, 0.15, 3),
        Instrument("SOLUSDT", "SOL", "USDT", 150.0, 2, 0.6, 3),
    )
}


def instrument(symbol: str) -> Instrument:
    """Return what the symbol is: the large ones by heart, others invented from the name.

    Raises:
        ConfigError: the name is not one that Binance could list.
    """
    return _KNOWN.get(symbol) or _invented(symbol)


def fraction_of(text: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the text."""
    return key_of(text) / 2**64


def key_of(text: str) -> int:
    """Return 64 bits that depend on nothing but the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _invented(symbol: str) -> Instrument:
    base, quote = _assets(symbol)
    price = 10 ** (4 * fraction_of(symbol) - 1)
    price_decimals = 4 - math.floor(math.log10(price))
    quantity = _USUAL_NOTIONAL / price
    decimals = min(max(0, 3 - math.floor(math.log10(quantity))), PLACES - price_decimals)
    return Instrument(symbol, base, quote, price, price_decimals, quantity, decimals)


def _assets(symbol: str) -> tuple[str, str]:
    for quote in QUOTE_ASSETS:
        if _SYMBOL.fullmatch(symbol) and symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote), quote
    raise ConfigError(
        f"{symbol!r} is not a symbol such as BTCUSDT: capitals and digits, ending in one of "
        + ", ".join(QUOTE_ASSETS)
    )

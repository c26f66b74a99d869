"""Instruments of the exchange: assets, usual price and size, tick and lot step."""

import hashlib
import math
import re
from dataclasses import dataclass

from k2lib.errors import ConfigError
from k2lib.simulator.binance.columns import AggTradeColumns, TradeColumns, decimals

QUOTE_ASSETS = ("USDT", "USDC", "FDUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
DECIMALS = 8
_SYMBOL = re.compile(r"[A-Z0-9]{5,20}")
_USUAL_NOTIONAL = 100.0


@dataclass(frozen=True)
class SimulatedInstrument:
    """A symbol's assets, usual price and size, and the decimals of its tick and lot step."""

    symbol: str
    base: str
    quote: str
    price: float
    price_decimals: int
    quantity: float
    quantity_decimals: int

    @classmethod
    def in_units(cls, symbol: str) -> "SimulatedInstrument":
        """Return an instrument whose tick and lot step are both 10^-8."""
        return cls(symbol, "", "", 0.0, DECIMALS, 0.0, DECIMALS)

    @property
    def price_scale(self) -> int:
        """Units of 10^-8 in a tick."""
        return int(10 ** (DECIMALS - self.price_decimals))

    @property
    def quantity_scale(self) -> int:
        """Units of 10^-8 in a lot step."""
        return int(10 ** (DECIMALS - self.quantity_decimals))

    @property
    def amount_scale(self) -> int:
        """Units of 10^-8 in a tick times a lot step."""
        return int(10 ** (DECIMALS - self.price_decimals - self.quantity_decimals))


_LISTED = {
    item.symbol: item
    for item in (
        SimulatedInstrument("BTCUSDT", "BTC", "USDT", 65_000.0, 2, 0.002, 5),
        SimulatedInstrument("ETHUSDT", "ETH", "USDT", 3_400.0, 2, 0.03, 4),
        SimulatedInstrument("BNBUSDT", "BNB", "USDT", 600.0, 2, 0.15, 3),
        SimulatedInstrument("SOLUSDT", "SOL", "USDT", 150.0, 2, 0.6, 3),
    )
}


def instrument(symbol: str) -> SimulatedInstrument:
    """Return the instrument of a symbol: a listed one, or one invented from the name.

    Raises:
        ConfigError: Binance could not list a symbol of that form.
    """
    return _LISTED.get(symbol) or _invented(symbol)


def price_and_quantity(
    rows: TradeColumns | AggTradeColumns, item: SimulatedInstrument
) -> tuple[list[int], ...]:
    """Return price and quantity, each as whole numbers and units of 10^-8."""
    return (
        *decimals(rows.ticks * item.price_scale),
        *decimals(rows.steps * item.quantity_scale),
    )


def fraction_of(text: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the text."""
    return key_of(text) / 2**64


def key_of(text: str) -> int:
    """Return 64 bits that depend on nothing but the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _invented(symbol: str) -> SimulatedInstrument:
    base, quote = _assets(symbol)
    price = 10 ** (4 * fraction_of(symbol) - 1)
    price_decimals = 4 - math.floor(math.log10(price))
    quantity = _USUAL_NOTIONAL / price
    decimals = min(max(0, 3 - math.floor(math.log10(quantity))), DECIMALS - price_decimals)
    return SimulatedInstrument(symbol, base, quote, price, price_decimals, quantity, decimals)


def _assets(symbol: str) -> tuple[str, str]:
    for quote in QUOTE_ASSETS:
        if _SYMBOL.fullmatch(symbol) and symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote), quote
    raise ConfigError(
        f"{symbol!r} is not a symbol such as BTCUSDT: capitals and digits, ending in one of "
        + ", ".join(QUOTE_ASSETS)
    )

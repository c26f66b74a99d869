"""Instruments of Binance: base and quote asset as the venue lists them, never guessed."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from k2lib.errors import ConfigError, RecordError
from k2lib.venues.base import Instrument

NEAREST: Final = 3
TRADING: Final = "TRADING"


class _Symbol(msgspec.Struct):
    symbol: str
    status: str
    baseAsset: str
    quoteAsset: str


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


_PAIRS: Final = (
    *("BTC/USDT", "ETH/USDT", "BNB/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "DOGE/USDT"),
    *("TRX/USDT", "LTC/USDT", "BCH/USDT", "LINK/USDT", "DOT/USDT", "AVAX/USDT", "XLM/USDT"),
    *("ETC/USDT", "ATOM/USDT", "UNI/USDT", "NEAR/USDT", "FIL/USDT", "AAVE/USDT", "SHIB/USDT"),
    *("PEPE/USDT", "SUI/USDT", "USDC/USDT", "BTC/USDC", "ETH/USDC", "BTC/EUR", "ETH/EUR"),
    *("EUR/USDT", "ETH/BTC", "BNB/BTC", "SOL/BTC", "XRP/BTC", "LTC/BTC", "BTC/USD", "ETH/USD"),
)
SHIPPED: Final = {
    base + quote: (base, quote) for base, quote in (pair.split("/") for pair in _PAIRS)
}


def read_exchange_info(
    body: bytes, symbols: Sequence[str], *, exchange: str = "BINANCE"
) -> dict[str, Instrument]:
    """Read the instruments that `symbols` name from a reply of `/api/v3/exchangeInfo`.

    Args:
        exchange: whose reply it is.
    Raises:
        ConfigError: a symbol is unknown, and which ones are near; or none of them is trading.
        RecordError: the body is no such reply.
    """
    listed = {one.symbol: one for one in _decode(body).symbols}
    _check_known(symbols, listed)
    found = {name: _instrument(exchange, listed[name]) for name in symbols}
    if found and all(one.halted for one in found.values()):
        names = ", ".join(f"{name} is {one.halted}" for name, one in found.items())
        raise ConfigError(f"not trading now: {names}; try again later, or name another symbol")
    return found


def shipped_instruments(
    symbols: Sequence[str], *, exchange: str = "BINANCE"
) -> dict[str, Instrument]:
    """Return the instruments from the table shipped with k2lib: some big pairs.

    Raises:
        ConfigError: a symbol is not in it; its assets are not guessed from its name.
    """
    missing = [name for name in symbols if name not in SHIPPED]
    if missing:
        raise ConfigError(
            f"base and quote asset of {', '.join(missing)} are not known without Binance's "
            f"exchangeInfo; known are {', '.join(SHIPPED)}"
        )
    return {name: Instrument(exchange, name, *SHIPPED[name], listed=False) for name in symbols}


def read_assets(texts: Sequence[str]) -> dict[str, Instrument]:
    """Read instruments that a person gives as `BASE/QUOTE`, for example `WIF/USDT`.

    Raises:
        ConfigError: a text is not two assets.
    """
    instruments = [_pair(text) for text in texts]
    return {instrument.symbol: instrument for instrument in instruments}


def _pair(text: str) -> Instrument:
    base, _, quote = text.strip().upper().partition("/")
    if not (base.isalnum() and quote.isalnum()):
        raise ConfigError(f"{text!r} is no pair of assets: give it as BASE/QUOTE, like BTC/USDT")
    return Instrument("BINANCE", base + quote, base, quote)


def _instrument(exchange: str, one: _Symbol) -> Instrument:
    halted = "" if one.status == TRADING else one.status
    return Instrument(exchange, one.symbol, one.baseAsset, one.quoteAsset, halted=halted)


def _decode(body: bytes) -> _ExchangeInfo:
    try:
        return msgspec.json.decode(body, type=_ExchangeInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise RecordError(f"no exchangeInfo: {exc}; it begins {body[:100]!r}") from exc


def _check_known(symbols: Sequence[str], listed: Mapping[str, object]) -> None:
    unknown = [name for name in symbols if name not in listed]
    if not unknown:
        return
    names = []
    for name in unknown:
        near = get_close_matches(name.upper(), listed, n=NEAREST)
        names.append(f"{name} (near: {', '.join(near)})" if near else name)
    raise ConfigError(f"Binance has no symbol {', '.join(names)}")

"""A REST request and its parameters, checked as Binance checks them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from k2lib.simulator.binance.faults import FaultOptions
from k2lib.simulator.binance.market import Market, TradeTape
from k2lib.simulator.binance.trade_summary import SummaryCache, TradeHistory

DEFAULT_LIMIT, MAX_LIMIT = 500, 1000
STATUSES = ("TRADING", "HALT", "BREAK")
# A time with more digits than this is in µs already.
_LARGEST_MS = 10**14
_DIGITS = re.compile(r"[0-9]{1,20}")
_SYMBOL = re.compile(r"[A-Z0-9._-]{1,20}")
_LEGAL_SYMBOL = "[A-Z0-9-_.]{1,20}"
_ZONE = re.compile(r"([+-]?)([0-9]{1,2})(?::([0-5][0-9]))?")
_EARLIEST_ZONE, _LATEST_ZONE = -12 * 60, 14 * 60
_MINUTE_US = 60 * 1_000_000


class RestError(Exception):
    """A request that is answered by an error body."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.body = {"code": code, "msg": message}
        self.status = status


@dataclass(frozen=True)
class RowWindow:
    """Requested rows: from an id, or between two times (µs, both inclusive)."""

    limit: int
    from_id: int | None
    start_us: int | None
    end_us: int | None


@dataclass(frozen=True)
class RestRequest:
    """A request to one host, and what that host makes of it."""

    market: Market
    params: Mapping[str, str]
    now_us: int
    micros: bool
    weight_per_minute: int
    summaries: SummaryCache
    missing: FaultOptions | None = None
    market_data_only: bool = False

    @property
    def server_time(self) -> int:
        """The time in the requested unit."""
        return self.time(self.now_us)

    def tape(self, symbol: str) -> TradeTape:
        """Return the trades of a symbol.

        Raises:
            RestError: -1121, Binance does not list it.
        """
        tape = self.market.tape(symbol, self.now_us)
        if tape is None:
            raise RestError(-1121, "Invalid symbol.")
        return tape

    def history(self, symbol: str) -> TradeHistory:
        """Return summaries of a symbol's trades up to now.

        Raises:
            RestError: -1121, Binance does not list it.
        """
        return TradeHistory(self.tape(symbol).snapshot(), self.summaries)

    def requested_symbols(self) -> Sequence[str]:
        """Return the symbols that `symbol`, `symbols` and `symbolStatus` let through."""
        symbols = several_symbols(self.params)
        if not trades_now(self.params):
            return []
        return list(self.market.instruments) if symbols is None else symbols

    def time(self, time_us: int) -> int:
        """Return a time in the requested unit."""
        return time_us if self.micros else time_us // 1000


def check_names(params: Iterable[str], *, expected: frozenset[str]) -> None:
    """Refuse parameters that are there twice, or that the endpoint does not read."""
    names = list(params)
    if len(set(names)) < len(names):
        raise RestError(-1101, "Duplicate values for a parameter detected.")
    n_read = sum(name in expected for name in names)
    if n_read < len(names):
        message = f"read '{n_read}' parameter(s) but was sent '{len(names)}'."
        raise RestError(-1104, f"Not all sent parameters were read; {message}")


def mandatory(params: Mapping[str, str], name: str) -> str:
    """Return a parameter that must be there."""
    text = params.get(name, "")
    if not text:
        message = "was not sent, was empty/null, or malformed."
        raise RestError(-1102, f"Mandatory parameter '{name}' {message}")
    return text


def optional(params: Mapping[str, str], name: str) -> str | None:
    """Return a parameter that may be left out, but not left empty."""
    text = params.get(name)
    if text == "":
        raise RestError(-1105, f"Parameter '{name}' was empty.")
    return text


def one_symbol(params: Mapping[str, str]) -> str:
    """Return the symbol, which must be there."""
    symbol = mandatory(params, "symbol")
    if not _SYMBOL.fullmatch(symbol):
        raise illegal("symbol", f"^{_LEGAL_SYMBOL}$")
    return symbol


def several_symbols(params: Mapping[str, str]) -> list[str] | None:
    """Return what `symbol` or `symbols` names, None where neither is there."""
    if "symbol" in params and "symbols" in params:
        raise RestError(-1128, "Combination of optional parameters invalid.")
    if "symbol" in params:
        return [one_symbol(params)]
    text = optional(params, "symbols")
    return None if text is None else _listed(text)


def _listed(text: str) -> list[str]:
    try:
        symbols = json.loads(text)
    except json.JSONDecodeError:
        symbols = None
    if not isinstance(symbols, list) or not all(_is_symbol(name) for name in symbols):
        legal = f'^\\[("{_LEGAL_SYMBOL}"(,"{_LEGAL_SYMBOL}"){{0,}}){{0,1}}\\]$'
        raise illegal("symbols", legal)
    if len(set(symbols)) < len(symbols):
        raise RestError(-1151, "Symbol is present multiple times in the list.")
    return symbols


def _is_symbol(name: object) -> bool:
    return isinstance(name, str) and _SYMBOL.fullmatch(name) is not None


def trades_now(params: Mapping[str, str]) -> bool:
    """Return whether `symbolStatus` lets symbols through that trade, as all here do."""
    status = optional(params, "symbolStatus") or "TRADING"
    if status not in STATUSES:
        raise RestError(-1122, "Invalid symbolStatus.")
    if status != "TRADING" and "symbol" in params:
        message = "The symbol's status does not match the requested symbolStatus."
        raise RestError(-1220, message)
    return status == "TRADING"


def row_window(params: Mapping[str, str]) -> RowWindow:
    """Return which rows are requested."""
    from_id = _number(params, "fromId")
    start, end = _number(params, "startTime"), _number(params, "endTime")
    timed = start is not None or end is not None
    if (from_id is not None and timed) or (start or 0) > (start or 0 if end is None else end):
        raise RestError(-1128, "Combination of optional parameters invalid.")
    return RowWindow(row_limit(params), from_id, _us(start, last=False), _us(end, last=True))


def row_limit(
    params: Mapping[str, str], *, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT
) -> int:
    """Return how many rows are requested, at most."""
    limit = _number(params, "limit")
    if limit == 0:
        raise RestError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(most, default if limit is None else limit)


def zone_offset_us(params: Mapping[str, str]) -> int:
    """Return how far east of UTC `timeZone` is, in µs."""
    text = optional(params, "timeZone") or "0"
    match = _ZONE.fullmatch(text)
    if match is None:
        raise illegal("timeZone", "^[+-]?[0-9]{1,2}(:[0-5][0-9])?$")
    sign, hours, minutes = match.groups()
    offset = (int(hours) * 60 + int(minutes or 0)) * (-1 if sign == "-" else 1)
    if not _EARLIEST_ZONE <= offset <= _LATEST_ZONE:
        raise RestError(-1130, "Data sent for parameter 'timeZone' is not valid.")
    return offset * _MINUTE_US


def _number(params: Mapping[str, str], name: str) -> int | None:
    text = optional(params, name)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text):
        raise illegal(name, "^[0-9]{1,20}$")
    if int(text) >= 2**63:
        raise RestError(-1130, f"Data sent for parameter '{name}' is not valid.")
    return int(text)


def _us(time: int | None, *, last: bool) -> int | None:
    if time is None or time >= _LARGEST_MS:
        return time
    return time * 1000 + (999 if last else 0)


def illegal(name: str, legal: str) -> RestError:
    """Return the error of a parameter with characters that it cannot have."""
    message = f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    return RestError(-1100, message)

"""The parameters of a REST request, checked as Binance checks them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from k2lib.simulator.binance.market import Book, Market

DEFAULT_LIMIT, MAX_LIMIT = 500, 1000
# A time with more digits than this is in µs already.
_LARGEST_MS = 10**14
_DIGITS = re.compile(r"[0-9]{1,20}")
_SYMBOL = re.compile(r"[A-Z0-9._-]{1,20}")


class RestError(Exception):
    """A request that is answered by an error body."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.body = {"code": code, "msg": message}
        self.status = status


@dataclass(frozen=True)
class Window:
    """Which rows are asked for: from an id, or between two times (µs, both inclusive)."""

    limit: int
    from_id: int | None
    start_us: int | None
    end_us: int | None


def check_names(params: Iterable[str], *, known: frozenset[str]) -> None:
    """Refuse parameters that are given twice or that nobody reads."""
    names = list(params)
    if len(set(names)) < len(names):
        raise RestError(-1101, "Duplicate values for a parameter detected.")
    read = sum(name in known for name in names)
    if read < len(names):
        message = f"read '{read}' parameter(s) but was sent '{len(names)}'."
        raise RestError(-1104, f"Not all sent parameters were read; {message}")


def book_of(market: Market, params: Mapping[str, str]) -> Book:
    """Return the book of the mandatory parameter `symbol`."""
    symbol = params.get("symbol", "")
    if not symbol:
        message = "was not sent, was empty/null, or malformed."
        raise RestError(-1102, f"Mandatory parameter 'symbol' {message}")
    if not _SYMBOL.fullmatch(symbol):
        raise _illegal("symbol", "^[A-Z0-9-_.]{1,20}$")
    if symbol not in market.books:
        raise RestError(-1121, "Invalid symbol.")
    return market.books[symbol]


def window_of(params: Mapping[str, str]) -> Window:
    """Return which rows are asked for."""
    from_id = _number(params, "fromId")
    start, end = _number(params, "startTime"), _number(params, "endTime")
    timed = start is not None or end is not None
    if (from_id is not None and timed) or (start or 0) > (start or 0 if end is None else end):
        raise RestError(-1128, "Combination of optional parameters invalid.")
    return Window(limit_of(params), from_id, _us(start, last=False), _us(end, last=True))


def limit_of(
    params: Mapping[str, str], *, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT
) -> int:
    """Return how many rows are asked for, at most as many as there may be."""
    limit = _number(params, "limit")
    if limit == 0:
        raise RestError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(most, default if limit is None else limit)


def _number(params: Mapping[str, str], name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    if not text:
        raise RestError(-1105, f"Parameter '{name}' was empty.")
    if not _DIGITS.fullmatch(text):
        raise _illegal(name, "^[0-9]{1,20}$")
    if int(text) >= 2**63:
        raise RestError(-1130, f"Data sent for parameter '{name}' is not valid.")
    return int(text)


def _us(time: int | None, *, last: bool) -> int | None:
    if time is None or time >= _LARGEST_MS:
        return time
    return time * 1000 + (999 if last else 0)


def _illegal(name: str, legal: str) -> RestError:
    message = f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    return RestError(-1100, message)

"""Streams of klines, tickers and average prices: which there are, and their events each second."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, Final

from k2lib.simulator.binance.bars import BarWindow, bars
from k2lib.simulator.binance.frames import FrameFormat, text_frame
from k2lib.simulator.binance.klines import INTERVALS, bar_length, kline_event
from k2lib.simulator.binance.market import Market
from k2lib.simulator.binance.tickers import (
    ROLLING_WINDOWS,
    average_price_event,
    average_window,
    day_ticker_event,
    day_window,
    mini_ticker_event,
    rolling_ticker_event,
    rolling_window,
)
from k2lib.simulator.binance.trade_generator import US
from k2lib.simulator.binance.trade_summary import (
    SummaryCache,
    TooManyTradesError,
    TradeHistory,
    WindowStatistics,
)

EAST_8: Final = "@+08:00"
_EAST_8_US: Final = 8 * 3600 * US
KLINES: Final = {f"kline_{name}": (name, 0) for name in INTERVALS} | {
    f"kline_{name}{EAST_8}": (name, _EAST_8_US) for name in INTERVALS
}
_ROLLING: Final = {f"ticker_{name}": name for name in ROLLING_WINDOWS}
STATISTICS_KINDS: Final = frozenset({*KLINES, *_ROLLING, "ticker", "miniTicker", "avgPrice"})
# A stream of all symbols has no symbol of its own.
ALL: Final = ""
ALL_MINI_TICKERS: Final = "!miniTicker@arr"
# Klines are sent every other second, but those of a second.
_SLOW_S: Final = 2
_MOST_CLOSED: Final = 60
# By symbol, kinds of streams that somebody follows.
Followed = Mapping[str, Iterable[str]]
_Event = Callable[[bool], Any]


class StatisticsUpdate:
    """The events of one symbol's streams at one moment, or of all symbols in one list."""

    def __init__(self, symbol: str, events: Iterable[tuple[str, _Event]]) -> None:
        self._symbol = symbol
        self._events = list(events)

    @property
    def symbol(self) -> str:
        """Symbol of the events, `ALL` for a list of them."""
        return self._symbol

    def frames(self, kind: str, form: FrameFormat) -> bytes:
        """Return the frames of a kind of stream in one format."""
        events = [event(form.micros) for name, event in self._events if name == kind]
        return b"".join(
            text_frame(one if form.stream is None else {"stream": form.stream, "data": one})
            for one in events
        )


class StatisticsPublisher:
    """Makes the events of each second, in a thread that is no one else's meanwhile."""

    def __init__(self, market: Market, cache: SummaryCache) -> None:
        self._market = market
        self._cache = cache
        # Up to when each followed kline was sent.
        self._sent_to_us: dict[tuple[str, str], int] = {}
        self._traded_to: dict[str, int] = {}

    def updates(self, followed: Followed, *, now_us: int) -> list[StatisticsUpdate]:
        """Return what is to be sent now, by symbol; nothing of what has too many trades."""
        self._forget(followed)
        by_symbol = {symbol: kinds for symbol, kinds in followed.items() if symbol != ALL}
        made = [
            StatisticsUpdate(symbol, self._events(symbol, kinds, now_us))
            for symbol, kinds in by_symbol.items()
        ]
        if ALL_MINI_TICKERS in followed.get(ALL, ()):
            made.append(self._all_mini_tickers(now_us))
        return made

    def _forget(self, followed: Followed) -> None:
        pairs = {(symbol, kind) for symbol, kinds in followed.items() for kind in kinds}
        self._sent_to_us = {
            pair: sent_us for pair, sent_us in self._sent_to_us.items() if pair in pairs
        }

    def _events(
        self, symbol: str, kinds: Iterable[str], now_us: int
    ) -> Iterator[tuple[str, _Event]]:
        moment = self._moment(symbol, now_us)
        if moment is None:
            return
        for kind in kinds:
            try:
                if kind in KLINES:
                    yield from self._klines(moment, kind)
                else:
                    yield kind, moment.event(kind)
            except TooManyTradesError:
                continue

    def _klines(self, moment: "_Moment", kind: str) -> Iterator[tuple[str, _Event]]:
        name, offset_us = KLINES[kind]
        if name != "1s" and moment.now_us // US % _SLOW_S:
            return
        length = bar_length(name, offset_us=offset_us)
        until_us = moment.history.tape.complete_to(moment.now_us)
        since_us = self._sent_to_us.get((moment.symbol, kind), until_us)
        self._sent_to_us[moment.symbol, kind] = until_us
        starts = list(islice(length.starts_back(until_us), _MOST_CLOSED))
        count = sum(length.end_of(start) > since_us for start in starts)
        for bar in bars(moment.history, length, BarWindow(max(1, count), None, until_us)):
            closed = bar.end_us <= until_us
            yield kind, _kline(moment, name, bar, closed)

    def _all_mini_tickers(self, now_us: int) -> StatisticsUpdate:
        traded = {symbol: tape.next_id for symbol, tape in list(self._market.tapes.items())}
        changed = [symbol for symbol, end in traded.items() if self._traded_to.get(symbol) != end]
        self._traded_to = traded
        moments = [self._moment(symbol, now_us) for symbol in changed]
        events = [one.event("miniTicker") for one in moments if one is not None]
        listed = [(ALL_MINI_TICKERS, lambda micros: [event(micros) for event in events])]
        return StatisticsUpdate(ALL, listed if events else [])

    def _moment(self, symbol: str, now_us: int) -> "_Moment | None":
        tape = self._market.tape(symbol, now_us)
        return None if tape is None else _Moment(TradeHistory(tape.snapshot(), self._cache), now_us)


class _Moment:
    """One symbol's trades at a moment; what several streams need is added up once."""

    def __init__(self, history: TradeHistory, now_us: int) -> None:
        self.history = history
        self.now_us = now_us
        self.item = history.tape.instrument
        self.symbol = self.item.symbol

    @cached_property
    def _day(self) -> WindowStatistics:
        return day_window(self.history, now_us=self.now_us)

    def event(self, kind: str) -> _Event:
        """Return the event of a stream other than a kline's, by whether its times are µs."""
        if kind == "ticker":
            day, quote = self._day, self.history.tape.quote(self.now_us)
            return lambda micros: day_ticker_event(day, self.item, quote=quote, micros=micros)
        if kind == "miniTicker":
            day = self._day
            return lambda micros: mini_ticker_event(day, self.item, micros=micros)
        if kind == "avgPrice":
            average = average_window(self.history, now_us=self.now_us)
            return lambda micros: average_price_event(average, self.item, micros=micros)
        name = _ROLLING[kind]
        rolling = rolling_window(self.history, name, now_us=self.now_us)
        return lambda micros: rolling_ticker_event(rolling, self.item, name, micros=micros)


def _kline(moment: _Moment, name: str, bar: Any, closed: bool) -> _Event:
    return lambda micros: kline_event(
        bar, moment.item, name, at_us=moment.now_us, closed=closed, micros=micros
    )

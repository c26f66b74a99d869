"""Which instruments a POST means: each symbol at one venue, or it is said where it is held."""

from collections.abc import Sequence

from k2lib.errors import NotFoundError
from k2lib.query.engine import Engine
from k2lib.query.request import InstrumentFilter, TimeBound, instrument_filter, pick_exchange
from k2lib.query.table_state import TableView


def wanted_of(
    engine: Engine,
    seen: TableView,
    *,
    symbols: Sequence[str],
    exchange: str | None,
    start: TimeBound | None,
    end: TimeBound | None,
) -> list[InstrumentFilter]:
    """Return each symbol at its venue, with the span by that venue's clock.

    Raises:
        NotFoundError: a symbol is not held, or not at that venue.
        QueryError: a symbol is held at several venues and none is given.
    """
    return [
        instrument_filter(symbol, _exchange(engine, seen, symbol, exchange), start=start, end=end)
        for symbol in dict.fromkeys(symbols)
    ]


def _exchange(engine: Engine, seen: TableView, symbol: str, exchange: str | None) -> str:
    venues = engine.venues(seen, symbol)
    if not venues:
        table = seen.complete_to.table
        raise NotFoundError(f"{symbol} is not in {table}: /v1/symbols lists what is")
    return pick_exchange(symbol, exchange, venues=venues)

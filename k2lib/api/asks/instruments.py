"""Which instruments a POST means: each symbol at one venue, or it is said where it is held."""

from collections.abc import Mapping, Sequence

from k2lib.api.asks.conditions import of_names
from k2lib.errors import NotFoundError
from k2lib.query.engine import Engine
from k2lib.query.instruments import Wanted, When, pick_exchange, want
from k2lib.query.selection import Rows


def wanted_of(
    engine: Engine,
    rows: Rows,
    *,
    symbols: Sequence[str],
    exchange: str | None,
    start: When | None,
    end: When | None,
) -> list[Wanted]:
    """Return each symbol at its venue, with the span by that venue's clock.

    Raises:
        NotFoundError: a symbol is not held, or not at that venue.
        QueryError: a symbol is held at several venues and none is given.
    """
    held = _venues(engine, rows, symbols)
    return [
        want(symbol, _exchange(symbol, exchange, rows, held), start=start, end=end)
        for symbol in dict.fromkeys(symbols)
    ]


def _exchange(symbol: str, exchange: str | None, rows: Rows, held: Mapping[str, list[str]]) -> str:
    if symbol not in held:
        table = rows.complete_to.table
        raise NotFoundError(f"{symbol} is not in {table}: /v1/symbols lists what is")
    return pick_exchange(symbol, exchange, held_at=held[symbol])


def _venues(engine: Engine, rows: Rows, symbols: Sequence[str]) -> dict[str, list[str]]:
    named = of_names(list(dict.fromkeys(symbols)), None)
    found = engine.fetch(
        f"SELECT DISTINCT symbol, exchange FROM ({rows.sql}) WHERE {named.sql} ORDER BY ALL",
        rows,
        params=named.params,
    )
    held: dict[str, list[str]] = {}
    for symbol, exchange in found.rows():
        held.setdefault(symbol, []).append(exchange)
    return held

"""Replays of whatever symbols, with the arguments that `K2.replay` takes."""

from collections.abc import Sequence
from typing import Any

from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest, instrument_names
from k2lib.replay.player import Replay, replay

OF_ALL = ("kinds", "speed", "clock", "sleep", "async_sleep")


def requests_of(symbols: str | Sequence[str], **options: Any) -> list[ReadRequest]:
    """Return a request for each symbol, without the tail unless it is asked for."""
    exchange = options.pop("exchange", None)
    return [
        ReadRequest(symbol, venue or exchange, **{"tail": False, **options})
        for venue, symbol in instrument_names(symbols)
    ]


def replay_of(engine: Engine, symbols: str | Sequence[str], **options: Any) -> Replay:
    """Return a replay of some symbols."""
    of_all = {name: options.pop(name) for name in OF_ALL if name in options}
    return replay(engine, requests_of(symbols, **options), **of_all)

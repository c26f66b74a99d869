"""The context of every request: the platform, its query engine, and the options."""

from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Annotated, Final

from fastapi import Depends, Request

from k2lib.api.options import ApiOptions
from k2lib.client import K2
from k2lib.query.engine import Engine

# Each holds up to a million rows while it merges what it reads.
MAX_REPLAYS: Final = 4


@dataclass(frozen=True)
class AppContext:
    """What the routes share."""

    k2: K2
    engine: Engine
    options: ApiOptions
    replay_slots: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(MAX_REPLAYS))


async def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]

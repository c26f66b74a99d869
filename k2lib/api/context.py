"""The context of every request: the platform, its query engine, and the options."""

from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import Depends, Request

from k2lib.api.options import ApiOptions
from k2lib.client import K2
from k2lib.query.engine import Engine


@dataclass(frozen=True)
class AppContext:
    """What the routes share."""

    k2: K2
    engine: Engine
    options: ApiOptions
    replay_slots: BoundedSemaphore


async def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]

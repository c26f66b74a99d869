"""What the handlers of requests share: the platform, an engine of their own, and the limits."""

from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Annotated, Final

from fastapi import Depends, Request

from k2lib.api.options import ApiOptions
from k2lib.client import K2
from k2lib.query.engine import Engine

# Each holds up to a million rows while it merges what it reads.
REPLAYS_AT_ONCE: Final = 4


@dataclass(frozen=True)
class Desk:
    """Where a request is worked on."""

    k2: K2
    engine: Engine
    options: ApiOptions
    replays: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(REPLAYS_AT_ONCE))


async def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(_desk)]

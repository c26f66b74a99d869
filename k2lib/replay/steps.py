"""A generator that takes its time, for an event loop that has none."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

T = TypeVar("T")


async def in_thread(steps: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Yield what a generator yields, each step done in a thread; it is closed in the end."""
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, steps, None))
            try:
                found = await asyncio.shield(step)
            except asyncio.CancelledError:
                # A generator cannot be closed while a thread is in it.
                await asyncio.wait([step])
                step.exception()
                raise
            if found is None:
                return
            yield found
    finally:
        steps.close()

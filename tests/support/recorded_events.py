"""Events that a test recorded, by class."""

from collections.abc import Iterable
from typing import TypeVar

from k2lib.events import Event

AnEvent = TypeVar("AnEvent", bound=Event)


def events_of(events: Iterable[Event], kind: type[AnEvent]) -> list[AnEvent]:
    """Return the events of a class, in order."""
    return [event for event in events if isinstance(event, kind)]

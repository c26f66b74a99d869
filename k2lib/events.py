"""What happened, told to a listener: log lines, metrics and progress bars are listeners."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One thing that happened: a `noun_verb` name and its fields."""

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def log_event(event: Event) -> None:
    """Write the event to the log `k2lib`; the listener where none is given."""
    logging.getLogger("k2lib").debug("%s %s", event.name, dict(event.fields))

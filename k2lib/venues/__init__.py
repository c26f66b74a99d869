"""Venues, found by name: each is an entry point of the group `k2lib.venues` in `pyproject.toml`.

A new one implements `base.LiveVenue` or `base.FileVenue`, and is listed there.
"""

from importlib.metadata import entry_points
from typing import Final

from k2lib.errors import ConfigError
from k2lib.venues.base import FileVenue, LiveVenue

GROUP: Final = "k2lib.venues"


def venue_names() -> list[str]:
    """Return the names of the installed venues, in alphabetical order."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def live_venue(name: str) -> LiveVenue:
    """Return a venue that can be streamed, at its own hosts.

    Raises:
        ConfigError: there is no such venue, or it has no stream.
    """
    found = _venue(name)
    if not isinstance(found, LiveVenue):
        raise ConfigError(f"venue {name} has no live stream")
    return found


def file_venue(name: str) -> FileVenue:
    """Return a venue whose history can be loaded from files.

    Raises:
        ConfigError: there is no such venue, or it has no files.
    """
    found = _venue(name)
    if not isinstance(found, FileVenue):
        raise ConfigError(f"venue {name} has no files to load")
    return found


def _venue(name: str) -> object:
    for point in entry_points(group=GROUP, name=name):
        return point.load()()
    raise ConfigError(
        f"no venue {name}; installed are {', '.join(venue_names()) or 'none'}. "
        "After an update of k2lib, install it again"
    )

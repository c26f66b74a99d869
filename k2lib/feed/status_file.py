"""The status of a home's feed in a file, so that another process can show it."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from k2lib.feed.status import FeedStatus
from k2lib.locks import make_private


@dataclass(frozen=True)
class StatusFile:
    """A feed's process, and where the feed stood when it last told."""

    pid: int
    status: FeedStatus


def status_path(home: Path) -> Path:
    """Return the file in which the feed of a home tells where it stands."""
    return home / "run" / "feed.json"


def write_status(path: Path, status: FeedStatus) -> None:
    """Write where the feed stands; readers see the old file or the new one, never a part.

    A full disk stops no feed: readers see by its age that what they read is old.
    """
    written = path.with_suffix(".new")
    with suppress(OSError):
        make_private(path.parent)
        written.write_bytes(msgspec.json.encode(StatusFile(os.getpid(), status)))
        written.replace(path)


def read_status(path: Path) -> StatusFile | None:
    """Return what was told last; None where no feed ever told, or an older version did."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=StatusFile)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None

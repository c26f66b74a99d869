"""K2 Notebooks: market data through Kafka into Iceberg, exactly once, and back out of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2lib.client import K2

__all__ = ["K2"]


def __getattr__(name: str) -> object:
    """Import `K2` when it is asked for, so that the command line starts at once."""
    if name != "K2":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from k2lib.client import K2

    return K2

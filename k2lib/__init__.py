"""K2 Notebooks: market data through Kafka into Iceberg, exactly once, and back out of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2lib.client import K2

    __version__: str

__all__ = ["K2", "__version__"]


def __getattr__(name: str) -> object:
    """Import `K2` and read the version when they are used, so that the command line starts fast."""
    if name == "K2":
        from k2lib.client import K2

        return K2
    if name == "__version__":
        from importlib.metadata import version

        return version("k2lib")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]

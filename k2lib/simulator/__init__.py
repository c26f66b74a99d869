"""Venues without a network: an offline exchange that speaks as Binance does, and ASX files.

Everything that other packages use of it is here; a name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2lib.simulator.asx.files import ASX_SIM, FileSummary, SampleSummary, write_samples
    from k2lib.simulator.binance.app import BINANCE_SIM
    from k2lib.simulator.binance.archive import write_archive
    from k2lib.simulator.binance.chaos import chaos
    from k2lib.simulator.binance.faults import FAULTS, FaultScript
    from k2lib.simulator.binance.limits import ExchangeLimits
    from k2lib.simulator.binance.market import GroundTruth
    from k2lib.simulator.binance.offline import OfflineExchange

__all__ = [
    "ASX_SIM",
    "BINANCE_SIM",
    "FAULTS",
    "ExchangeLimits",
    "FaultScript",
    "FileSummary",
    "GroundTruth",
    "OfflineExchange",
    "SampleSummary",
    "chaos",
    "write_archive",
    "write_samples",
]

_MODULES = {
    "ASX_SIM": "asx.files",
    "BINANCE_SIM": "binance.app",
    "FAULTS": "binance.faults",
    "ExchangeLimits": "binance.limits",
    "FaultScript": "binance.faults",
    "FileSummary": "asx.files",
    "GroundTruth": "binance.market",
    "OfflineExchange": "binance.offline",
    "SampleSummary": "asx.files",
    "chaos": "binance.chaos",
    "write_archive": "binance.archive",
    "write_samples": "asx.files",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

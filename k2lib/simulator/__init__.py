"""Venues without a network: an offline exchange that speaks as Binance does, and ASX files.

Other packages use only the names below; a name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2lib.simulator.asx.files import ASX_SIM, FileSummary, SampleSummary, write_samples
    from k2lib.simulator.binance.app import BINANCE_SIM
    from k2lib.simulator.binance.archive import write_archive
    from k2lib.simulator.binance.columns import TradeColumns
    from k2lib.simulator.binance.exchange import OfflineExchange
    from k2lib.simulator.binance.exchange_info import EXCHANGE_INFO_PARAMS, exchange_info
    from k2lib.simulator.binance.faults import FAULTS, FaultScript, chaos
    from k2lib.simulator.binance.frames import FrameFormat, quote_frame, trade_frames
    from k2lib.simulator.binance.instruments import SimulatedInstrument
    from k2lib.simulator.binance.limits import ExchangeLimits
    from k2lib.simulator.binance.market import GroundTruth
    from k2lib.simulator.binance.rest_request import (
        RestError,
        RowWindow,
        check_names,
        one_symbol,
        row_window,
    )
    from k2lib.simulator.binance.stream_server import StreamServer, check_host, stream_routes

__all__ = [
    "ASX_SIM",
    "BINANCE_SIM",
    "EXCHANGE_INFO_PARAMS",
    "FAULTS",
    "ExchangeLimits",
    "FaultScript",
    "FileSummary",
    "FrameFormat",
    "GroundTruth",
    "OfflineExchange",
    "RestError",
    "RowWindow",
    "SampleSummary",
    "SimulatedInstrument",
    "StreamServer",
    "TradeColumns",
    "chaos",
    "check_host",
    "check_names",
    "exchange_info",
    "one_symbol",
    "quote_frame",
    "row_window",
    "stream_routes",
    "trade_frames",
    "write_archive",
    "write_samples",
]

_MODULES = {
    "ASX_SIM": "asx.files",
    "FileSummary": "asx.files",
    "SampleSummary": "asx.files",
    "write_samples": "asx.files",
    "BINANCE_SIM": "binance.app",
    "write_archive": "binance.archive",
    "TradeColumns": "binance.columns",
    "OfflineExchange": "binance.exchange",
    "EXCHANGE_INFO_PARAMS": "binance.exchange_info",
    "exchange_info": "binance.exchange_info",
    "FAULTS": "binance.faults",
    "FaultScript": "binance.faults",
    "chaos": "binance.faults",
    "FrameFormat": "binance.frames",
    "quote_frame": "binance.frames",
    "trade_frames": "binance.frames",
    "SimulatedInstrument": "binance.instruments",
    "ExchangeLimits": "binance.limits",
    "GroundTruth": "binance.market",
    "RestError": "binance.rest_request",
    "RowWindow": "binance.rest_request",
    "check_names": "binance.rest_request",
    "one_symbol": "binance.rest_request",
    "row_window": "binance.rest_request",
    "StreamServer": "binance.stream_server",
    "check_host": "binance.stream_server",
    "stream_routes": "binance.stream_server",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""A Binance look-alike without a network: invented trades, served the way Binance does."""

from k2lib.simulator.binance.archive import write_archive
from k2lib.simulator.binance.market import Truth
from k2lib.simulator.binance.offline import OfflineExchange
from k2lib.simulator.binance.sequence import Sequence

__all__ = ["OfflineExchange", "Sequence", "Truth", "write_archive"]

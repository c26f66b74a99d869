"""A Binance look-alike without a network: invented trades, served the way Binance does."""

from k2lib.exchange.archive import write_archive
from k2lib.exchange.market import Truth
from k2lib.exchange.offline import OfflineExchange
from k2lib.exchange.sequence import Sequence

__all__ = ["OfflineExchange", "Sequence", "Truth", "write_archive"]

"""Loading files: ASX's CSVs and Binance's archive, a report line for every file."""

from k2lib.load.asx import load_asx
from k2lib.load.binance import load_binance_archive
from k2lib.load.report import FileReport, LoadReport

__all__ = ["FileReport", "LoadReport", "load_asx", "load_binance_archive"]

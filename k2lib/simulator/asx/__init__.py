"""ASX-shaped files of invented companies, with every trap of the real ones in like proportion."""

from k2lib.simulator.asx.files import FileSummary, SampleSummary, write_samples

__all__ = ["FileSummary", "SampleSummary", "write_samples"]

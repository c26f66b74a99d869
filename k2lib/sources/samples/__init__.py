"""ASX-shaped files of invented companies, with every trap of the real ones in like proportion."""

from k2lib.sources.samples.files import FileSummary, SampleSummary, write_samples

__all__ = ["FileSummary", "SampleSummary", "write_samples"]

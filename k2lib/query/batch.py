"""Rows of a log with their offsets, and how far a partition was read."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.query.standing import EPOCH

LONG_AGO_US: Final = -(2**63)


@dataclass(frozen=True)
class Batch:
    """Rows as they were read, and where each stood: the number of its place, and its offset."""

    rows: pa.Table
    places: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def where(self, keep: npt.NDArray[np.bool_]) -> "Batch":
        """Return the rows to keep."""
        if keep.all():
            return self
        return Batch(self.rows.filter(pa.array(keep)), self.places[keep], self.offsets[keep])

    @classmethod
    def of(cls, parts: Iterable["Batch"], empty: pa.Table) -> "Batch":
        """Return all parts as one."""
        some = list(parts)
        none = np.empty(0, np.int64)
        return cls(
            # One chunk: who reads many of them waits at each one for Python's threads.
            pa.concat_tables([empty, *(part.rows for part in some)]).combine_chunks(),
            np.concatenate([none, *(part.places for part in some)]),
            np.concatenate([none, *(part.offsets for part in some)]),
        )


@dataclass
class Reach:
    """A partition as far as it was read: held from `start`, to be read next at `end`."""

    log: str
    start: int
    end: int
    newest_us: int = LONG_AGO_US

    @property
    def newest(self) -> datetime | None:
        """The newest event time read; None where nothing was."""
        if self.newest_us == LONG_AGO_US:
            return None
        return EPOCH + timedelta(microseconds=self.newest_us)

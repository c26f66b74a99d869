"""A Prometheus histogram for a value a row: it takes a batch of values at a time."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class BatchHistogram(Collector):
    """A histogram that takes a batch of values at a time, for a value a row."""

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.asarray(buckets, dtype=np.float64)
        self._counts = np.zeros(len(buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: float | Sequence[float]) -> None:
        """Count one value, or all values of a sequence."""
        batch = np.atleast_1d(np.asarray(values, dtype=np.float64))
        places = np.searchsorted(self._bounds, batch, side="left")
        counts = np.bincount(places, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(batch.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as it stands."""
        with self._lock:
            up_to, total = self._counts.cumsum().tolist(), self._sum
        bounds = [*(str(bound) for bound in self._bounds.tolist()), "+Inf"]
        buckets = list(zip(bounds, up_to, strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets, total)

"""The feed's metrics under the names that they had when Binance was the only venue."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

FEED: Final = "k2_feed_"
BINANCE: Final = "k2_binance_"


class BinanceMetrics(Collector):
    """Every metric `k2_feed_…` of a Binance venue as `k2_binance_…`, without the label `venue`.

    Args:
        feed_metrics: metrics of all feeds; samples of other venues are left out.
    """

    def __init__(self, feed_metrics: Iterable[Collector]) -> None:
        self._feed_metrics = tuple(feed_metrics)

    def collect(self) -> Iterator[Metric]:
        """Yield the renamed metrics."""
        for collector in self._feed_metrics:
            for family in collector.collect():
                yield _renamed(family)


def _renamed(family: Metric) -> Metric:
    """Of a metric that two Binance venues have, counters are added up; else the last one counts."""
    renamed = Metric(family.name.replace(FEED, BINANCE), family.documentation, family.type)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        if labels.pop("venue").startswith("BINANCE"):
            key = sample.name.replace(FEED, BINANCE), tuple(labels.items())
            before = values.get(key, 0.0) if sample.name.endswith("_total") else 0.0
            values[key] = before + sample.value
    for (name, key_labels), value in values.items():
        renamed.add_sample(name, dict(key_labels), value)
    return renamed

"""Prometheus metrics of the HTTP API."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")


class ApiMetrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "k2_api_requests",
            "Requests by path and status",
            ["method", "path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "k2_api_request_seconds",
            "From a request to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "k2_api_in_flight", "Requests and streams that are open", registry=registry
        )
        self.rejected = Counter(
            "k2_api_rejected", "Requests refused, by reason", ["reason"], registry=registry
        )
        self.stream_clients = Gauge(
            "k2_api_stream_clients", "Connections of the live stream", registry=registry
        )
        self.stream_records = Counter(
            "k2_api_stream_records", "Records read for the live stream", registry=registry
        )
        self.stream_cut = Counter(
            "k2_api_stream_cut", "Connections cut, being too slow", registry=registry
        )

    def count_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        label = method if method in METHODS else "other"
        self.requests.labels(label, path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

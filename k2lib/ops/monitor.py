"""Metrics and alerts of one process, and where they go."""

from contextlib import ExitStack

from prometheus_client import ProcessCollector

from k2lib.events import Event
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import Alerts, AlertsThread
from k2lib.ops.firing_alerts import log_alert
from k2lib.ops.host_metrics import HostCollector
from k2lib.ops.metrics import Metrics, MetricsServer
from k2lib.ops.webhook import Webhook
from k2lib.settings import Settings
from k2lib.venues.base import VenueMetrics


class Monitor(Closing):
    """A listener of all events of a process; alerts go to the log, and to a webhook if set.

    Raises:
        ConfigError: the port for metrics is in use, or the webhook's URL is invalid.
    """

    def __init__(self, settings: Settings) -> None:
        self._parts = ExitStack()
        self._venues: set[type] = set()
        self.metrics_url: str | None = None
        self.metrics = Metrics()
        ProcessCollector(registry=self.metrics.registry)
        self.metrics.registry.register(HostCollector(settings.home))
        notify = [log_alert, self.metrics.on_alert]
        try:
            if settings.alert_webhook_url is not None:
                url = settings.alert_webhook_url.get_secret_value()
                notify.append(self._parts.enter_context(Webhook(url)))
            if settings.metrics_port is not None:
                server = MetricsServer(
                    self.metrics, port=settings.metrics_port, host=settings.metrics_host
                )
                self.metrics_url = self._parts.enter_context(server).url
            self.alerts = Alerts(notify=notify)
            self._parts.enter_context(AlertsThread(self.alerts))
        except BaseException:
            self._parts.close()
            raise

    def on_event(self, event: Event) -> None:
        """Count the event, and see whether an alert fires or is resolved."""
        self.metrics.on_event(event)
        self.alerts.on_event(event)

    def add_venue(self, venue: object) -> None:
        """Serve the venue's own metrics too, if it has any; a second call does nothing."""
        kind = type(venue)
        if isinstance(venue, VenueMetrics) and kind not in self._venues:
            self._venues.add(kind)
            self.metrics.registry.register(venue.metrics(self.metrics.of_feeds))

    def close(self) -> None:
        """Check a last time, deliver the rest, and end."""
        self._parts.close()

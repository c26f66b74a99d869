"""What watches over one process: its metrics, its alerts, and who is told of them."""

from contextlib import ExitStack

from k2lib.events import Event
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import Alerts, AlertsThread, log_alert
from k2lib.ops.metrics import Metrics, MetricsServer
from k2lib.ops.webhook import Webhook
from k2lib.settings import Settings


class Watch(Closing):
    """Listens to all events of a process; alerts go to the log, and to a webhook where one is set.

    Raises:
        ConfigError: the port for metrics is in use, or the webhook's address is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._parts = ExitStack()
        self.metrics_url: str | None = None
        self.metrics = Metrics()
        notify = [log_alert, self.metrics.alerted]
        try:
            if settings.alert_webhook_url is not None:
                url = settings.alert_webhook_url.get_secret_value()
                notify.append(self._parts.enter_context(Webhook(url)))
            if settings.metrics_port is not None:
                server = MetricsServer(self.metrics, port=settings.metrics_port)
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

    def close(self) -> None:
        """Check a last time, send what is left, and end."""
        self._parts.close()

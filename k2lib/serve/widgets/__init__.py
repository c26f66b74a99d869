"""Views for JupyterLab: a feed and its faults, how old answers are, snapshots by a slider."""

from k2lib.errors import ConfigError

try:
    from k2lib.serve.widgets.buttons import fault_buttons
    from k2lib.serve.widgets.freshness import FreshnessView
    from k2lib.serve.widgets.snapshots import SnapshotsView
    from k2lib.serve.widgets.view import LiveView
except ModuleNotFoundError as exc:
    raise ConfigError(f"no {exc.name}: widgets need pip install 'k2lib[notebooks]'") from exc

__all__ = ["FreshnessView", "LiveView", "SnapshotsView", "fault_buttons"]

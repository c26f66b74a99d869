"""Views for JupyterLab: a feed and its faults, how old answers are, snapshots by a slider."""

from k2lib.errors import ConfigError

try:
    from k2lib.notebook.widgets.fault_buttons import fault_buttons
    from k2lib.notebook.widgets.freshness_view import FreshnessView
    from k2lib.notebook.widgets.live_view import LiveView
    from k2lib.notebook.widgets.snapshots_view import SnapshotsView
except ModuleNotFoundError as exc:
    raise ConfigError(f"no {exc.name}: widgets need pip install 'k2lib[notebooks]'") from exc

__all__ = ["FreshnessView", "LiveView", "SnapshotsView", "fault_buttons"]

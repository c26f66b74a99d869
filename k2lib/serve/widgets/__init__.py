"""Live views for JupyterLab: what a feed brings, how it fares, and buttons to disturb it."""

from k2lib.errors import ConfigError

try:
    from k2lib.serve.widgets.buttons import fault_buttons
    from k2lib.serve.widgets.view import LiveView
except ModuleNotFoundError as exc:
    raise ConfigError(f"no {exc.name}: widgets need pip install 'k2lib[notebooks]'") from exc

__all__ = ["LiveView", "fault_buttons"]

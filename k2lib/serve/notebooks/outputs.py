"""Outputs of notebooks as they are kept in the tree: plots as PNG, no paths, no times."""

import base64
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any, Final

import nbformat
from nbformat import NotebookNode

from k2lib.errors import ConfigError

FIGURE: Final = "application/vnd.plotly.v1+json"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
PNG_SIZE: Final = {"width": 960, "height": 480}
METADATA: Final = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def check_png() -> None:
    """Look whether plots can be drawn as PNG.

    Raises:
        ConfigError: kaleido or Chromium is missing; the message says how to get it.
    """
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError("no kaleido: plots as PNG need pip install 'k2lib[dev]'")
    if not os.environ.get("BROWSER_PATH") and not any(map(shutil.which, BROWSERS)):
        raise ConfigError(
            "no Chromium: plots as PNG need it (Debian: apt-get install chromium), "
            "or BROWSER_PATH=<its path>"
        )


def rewrite(source: Path, executed: Path) -> None:
    """Give a notebook the outputs of its run; nothing else in it changes."""
    before = nbformat.read(source, as_version=4)
    after = nbformat.read(executed, as_version=4)
    for cell, ran in zip(before.cells, after.cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count = ran.execution_count
            cell.outputs = [_kept(output) for output in ran.outputs]
    before.metadata = nbformat.from_dict(METADATA)
    nbformat.write(before, source)


def figures(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the outputs that are plots."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [output for output in outputs if FIGURE in output.get("data", {})]


def _kept(output: NotebookNode) -> NotebookNode:
    if FIGURE in output.get("data", {}):
        output.data = NotebookNode({"image/png": _png(output.data[FIGURE])})
    return output


def _png(figure: dict[str, Any]) -> str:
    import plotly.io  # type: ignore[import-untyped]

    size = {name: figure["layout"].get(name, usual) for name, usual in PNG_SIZE.items()}
    drawn = {"data": figure["data"], "layout": figure["layout"]}
    png = plotly.io.to_image(drawn, format="png", validate=False, **size)
    return base64.b64encode(png).decode()

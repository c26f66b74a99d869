"""HTML pages of executed notebooks: readable without a network, with interactive plots."""

import base64
import importlib.util
import os
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import nbformat
import plotly
import plotly.io
from nbconvert import HTMLExporter
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
    """Check that plots can be drawn as PNG.

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
            cell.outputs = [_with_png(output) for output in ran.outputs]
    before.metadata = nbformat.from_dict(METADATA)
    nbformat.write(before, source)


def figures(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the outputs that are plots."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [output for output in outputs if FIGURE in output.get("data", {})]


def _with_png(output: NotebookNode) -> NotebookNode:
    if FIGURE in output.get("data", {}):
        output.data = NotebookNode({"image/png": _png(output.data[FIGURE])})
    return output


def _png(figure: dict[str, Any]) -> str:
    size = {name: figure["layout"].get(name, default) for name, default in PNG_SIZE.items()}
    plot = {"data": figure["data"], "layout": figure["layout"]}
    png = plotly.io.to_image(plot, format="png", validate=False, **size)
    return base64.b64encode(png).decode()


PLOTLY_JS: Final = "plotly.js"
TEMPLATE: Final = """
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}<script src="plotly.js"></script>{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
main { max-width: 1040px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
.k2-back { font: 14px system-ui, sans-serif; }
</style>
{%- endblock -%}
{%- block body_header -%}
{{ super() }}<p class="k2-back"><a href="index.html">← all notebooks</a></p>
{%- endblock -%}
"""
INDEX: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>K2 Notebooks</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #777; --bad: #c0392b; }}
body {{ font: 17px/1.5 system-ui, sans-serif; }}
body {{ max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.9rem; margin: 0; }}
header p, small {{ color: var(--soft); }}
ol {{ list-style: none; padding: 0; }}
li {{ border-top: 1px solid var(--line); padding: 1.1rem 0; }}
li a {{ font-size: 1.15rem; font-weight: 600; text-decoration: none; }}
li p {{ margin: .3rem 0; }}
.failed {{ color: var(--bad); font-weight: 600; }}
</style>
</head>
<body>
<header>
<h1>K2 Notebooks</h1>
<p>Market data through Kafka into Iceberg, and back out of it. Each page is a notebook as it ran
on this machine; its last cell checks the figures that it shows.</p>
</header>
<ol>
{items}
</ol>
</body>
</html>
"""
ITEM: Final = """<li><a href="{name}.html">{title}</a>
<p>{claim}</p>
<small><span class="{state}">{state}</span>, {seconds:.0f} s · <a href="{name}.ipynb"
 style="font: inherit">notebook</a></small></li>"""


@dataclass(frozen=True)
class IndexEntry:
    """One line of the index page."""

    name: str
    title: str
    claim: str
    seconds: float
    failed: bool


def write_page(executed: Path) -> Path:
    """Write the page of an executed notebook beside it, and plotly.js once."""
    script = executed.with_name(PLOTLY_JS)
    if not script.exists():
        shutil.copyfile(Path(plotly.__file__).parent / "package_data/plotly.min.js", script)
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata["title"] = _entry(executed, notebook).title
    for output in figures(notebook):
        page_part = plotly.io.to_html(
            output.data[FIGURE], include_plotlyjs=False, full_html=False, validate=False
        )
        # Only the plot: a page would show the widget instead, which needs a kernel.
        output.data = NotebookNode({"text/html": page_part})
    text, _ = HTMLExporter(raw_template=TEMPLATE).from_notebook_node(notebook)
    page = executed.with_suffix(".html")
    page.write_text(text, encoding="utf-8")
    return page


def write_index(folder: Path) -> Path:
    """Write `index.html`, a line for every executed notebook of the folder."""
    notebooks = {path: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}
    items = "\n".join(_item(_entry(path, notebook)) for path, notebook in notebooks.items())
    index = folder / "index.html"
    index.write_text(INDEX.format(items=items), encoding="utf-8")
    return index


def _entry(path: Path, notebook: NotebookNode) -> IndexEntry:
    heading = next(cell.source for cell in notebook.cells if cell.source.startswith("# "))
    title, _, rest = heading.partition("\n")
    run = notebook.metadata.get("papermill", {})
    return IndexEntry(
        name=path.stem,
        title=title.removeprefix("# ").strip(),
        claim=rest.strip().partition("\n\n")[0].replace("`", "").replace("**", ""),
        seconds=run.get("duration") or 0.0,
        failed=bool(run.get("exception")),
    )


def _item(entry: IndexEntry) -> str:
    return ITEM.format(
        name=entry.name,
        title=escape(entry.title),
        claim=escape(entry.claim),
        state="failed" if entry.failed else "passed",
        seconds=entry.seconds,
    )

"""The notebooks as they are kept, and the runner on small ones made here."""

import ast
import contextlib
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from support.pages import FROM_THE_NET, KEPT
from typer.testing import CliRunner

from k2lib.cli import app
from k2lib.errors import ConfigError, K2Error
from k2lib.notebook.runner import (
    known_parameters,
    parse_parameters,
    run_notebooks,
)

MOST_BYTES = 500_000
NOT_IN_A_CELL = (ast.FunctionDef, ast.ClassDef, ast.Try, ast.While, ast.For)

each = pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)


def _read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in _code(notebook) for output in cell.outputs]


def _lines(cell: NotebookNode) -> int:
    """Count lines of code; a bracket on a line of its own is the formatter's."""
    return sum(any(map(str.isalnum, line)) for line in cell.source.splitlines())


def _nodes(notebook: NotebookNode) -> list[ast.AST]:
    return [node for cell in _code(notebook) for node in ast.walk(ast.parse(cell.source))]


def _library_modules(node: ast.AST) -> set[str]:
    """Return the modules of k2lib that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "k2lib":
        names = [
            f"k2lib.{alias.name}" if find_spec(f"k2lib.{alias.name}") else "k2lib"
            for alias in node.names
        ]
    else:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return {name for name in names if name.partition(".")[0] == "k2lib"}


def _assigned(notebook: NotebookNode) -> Counter[str]:
    statements = [node for cell in _code(notebook) for node in ast.parse(cell.source).body]
    targets = [t for node in statements if isinstance(node, ast.Assign) for t in node.targets]
    names = [node.id for t in targets for node in ast.walk(t) if isinstance(node, ast.Name)]
    return Counter(name for name in names if name != "_")


def _notebook(path: Path, *code: str, parameters: str = 'home = "build/homes/x"') -> Path:
    cells = [nbformat.v4.new_markdown_cell(f"# About {path.stem}\n\nIt holds & is so.\n\nMore.")]
    cells += [nbformat.v4.new_code_cell(source) for source in (parameters, *code)]
    cells[1].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@each
def test_the_first_cell_says_what_it_claims_needs_and_takes(path: Path) -> None:
    first = _read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "**Needs**" in first.source and "**Takes**" in first.source


@each
def test_parameters_come_first_and_checks_last(path: Path) -> None:
    notebook = _read(path)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    assert tags[1] == ["parameters"] and tags[-1] == ["checks"]
    assert not any(tags[2:-1]) and "assert " in notebook.cells[-1].source


@each
def test_parameters_are_scalars_with_a_comment_each(path: Path) -> None:
    lines = _read(path).cells[1].source.splitlines()
    assert all("  # " in line for line in lines) and len(known_parameters(path)) == len(lines)
    assert all(isinstance(v, str | int | float | bool) for v in known_parameters(path).values())


@each
def test_a_notebook_works_in_a_home_of_its_own(path: Path) -> None:
    assert known_parameters(path).get("home") in (None, f"build/homes/{path.stem}")


@each
def test_cells_are_short_and_explained(path: Path) -> None:
    notebook = _read(path)
    lines = sorted(map(_lines, _code(notebook)))
    assert lines[len(lines) // 2] <= 4 and lines[-1] <= 20 and sum(lines) <= 120
    assert len(notebook.cells) >= 2 * len(lines)


@each
def test_the_work_is_done_by_the_library(path: Path) -> None:
    nodes = _nodes(_read(path))
    assert not [node for node in nodes if isinstance(node, NOT_IN_A_CELL)]
    assert not {"print", "subprocess"} & {node.id for node in nodes if isinstance(node, ast.Name)}


@each
def test_a_notebook_imports_three_modules_of_the_library_at_most(path: Path) -> None:
    modules = {module for node in _nodes(_read(path)) for module in _library_modules(node)}
    assert modules <= {"k2lib", "k2lib.analytics", "k2lib.notebook"}


@each
def test_names_are_assigned_once(path: Path) -> None:
    assert not {name for name, times in _assigned(_read(path)).items() if times > 1}


@each
def test_kept_outputs_are_those_of_one_clean_run(path: Path) -> None:
    notebook = _read(path)
    counts = [cell.execution_count for cell in _code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert {output.output_type for output in _outputs(notebook)} <= {
        "execute_result",
        "display_data",
    }


@each
def test_kept_outputs_are_small_and_say_nothing_of_their_run(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    assert set(_read(path).metadata) == {"kernelspec", "language_info"}
    assert "papermill" not in path.read_text()


@each
def test_kept_plots_are_png(path: Path) -> None:
    kinds = {kind for output in _outputs(_read(path)) for kind in output.data}
    assert kinds <= {"text/plain", "text/html", "image/png"}


def test_parameters_are_read_as_json_scalars_else_as_text() -> None:
    parsed = parse_parameters(["symbol=BHP", "rows=500", "share=0.5", "tail=true", 'code="7078"'])
    assert parsed == {"symbol": "BHP", "rows": 500, "share": 0.5, "tail": True, "code": "7078"}


@pytest.mark.parametrize("text", ["rows", "=5", "two words=5", "rows=[1]", 'rows={"a": 1}'])
def test_a_parameter_that_is_no_scalar_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(text))):
        parse_parameters([text])


def test_an_unknown_parameter_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no parameter row; 01_schema_v2 has asx, rows"):
        run_notebooks(["01"], parameters={"row": 5}, output=tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("rows", "many", "must be a whole number, like 10000"),
        ("rows", True, "must be a whole number, like 10000"),
        ("rows", 0.5, "must be a whole number, like 10000"),
        ("asx", 7078, """must be text, like '': write asx='"7078"'"""),
    ],
)
def test_a_value_of_another_type_is_refused(
    name: str, value: Any, wanted: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"parameter {name}={value!r} {wanted}")):
        run_notebooks(["01"], parameters={name: value}, output=tmp_path)


def test_an_unknown_notebook_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no notebook is called 99…; there are 01_schema_v2, "):
        run_notebooks(["99"], parameters={}, output=tmp_path)


def test_committed_outputs_take_no_parameters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out rows, or --in-place"):
        run_notebooks(["01"], parameters={"rows": 5}, output=tmp_path, in_place=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[tuple[str, int, int]]]:
    """Run a notebook that fails, then one that does not: output folder, error, progress."""
    folder = tmp_path_factory.mktemp("runner")
    _notebook(folder / "a.ipynb", "kept = 41", "assert kept == 42, 'no answer'", "never = 1")
    _notebook(folder / "b.ipynb", "import pathlib, sys\nsys.executable, home, pathlib.Path.cwd()")
    (folder / "homes" / "b" / "warehouse").mkdir(parents=True)
    told: list[tuple[str, int, int]] = []
    with contextlib.chdir(folder), pytest.raises(K2Error) as failed:
        run_notebooks(
            [],
            parameters={},
            output=folder / "out",
            homes=folder / "homes",
            folder=folder,
            on_progress=lambda *step: told.append(step),
        )
    return folder, str(failed.value), told


@pytest.mark.slow
def test_a_failure_names_notebook_cell_and_message(ran: tuple[Path, str, Any]) -> None:
    assert ran[1].startswith("1 of 2 notebooks failed; see ")
    assert ran[1].endswith("\n  a, cell [4]: AssertionError: no answer")


@pytest.mark.slow
def test_a_failed_notebook_is_kept_as_far_as_it_came(ran: tuple[Path, str, Any]) -> None:
    kept = _read(ran[0] / "out" / "a.ipynb")
    assert [cell.execution_count for cell in _code(kept)][-2:] == [4, None]
    assert "no answer" in (ran[0] / "out" / "a.html").read_text()


@pytest.mark.slow
def test_the_others_run_in_this_python_here_and_in_an_empty_home(
    ran: tuple[Path, str, Any],
) -> None:
    folder = ran[0]
    told = _outputs(_read(folder / "out" / "b.ipynb"))[0].data["text/plain"]
    assert all(repr(str(part)) in told for part in (sys.executable, folder / "homes" / "b"))
    assert str(folder) in told and not (folder / "homes" / "b").exists()


@pytest.mark.slow
def test_progress_is_told_cell_by_cell(ran: tuple[Path, str, list[tuple[str, int, int]]]) -> None:
    assert [step for step in ran[2] if step[0] == "b"] == [("b", 2, 4), ("b", 3, 4), ("b", 4, 4)]


@pytest.mark.slow
def test_the_index_lists_title_claim_and_outcome(ran: tuple[Path, str, Any]) -> None:
    index = (ran[0] / "out" / "index.html").read_text()
    assert index.count("It holds &amp; is so.") == 2 and "More." not in index
    assert re.findall(r'<a href="(\w)\.html">About \w</a>', index) == ["a", "b"]
    assert re.findall(r'class="(failed|passed)"', index) == ["failed", "passed"]


@pytest.mark.slow
def test_nothing_is_left_beside_the_pages(ran: tuple[Path, str, Any]) -> None:
    names = {path.name for path in (ran[0] / "out").iterdir()}
    assert names == {"a.html", "a.ipynb", "b.html", "b.ipynb", "index.html", "plotly.js"}


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a notebook with a plot in place, and return its path."""
    folder = tmp_path_factory.mktemp("plotted")
    code = "import plotly.express as px\npx.bar(x=[1], y=[2], title='Two')", "assert home"
    kept = _notebook(folder / "kept" / "c.ipynb", *code, parameters='home = "build/homes/c"')
    with contextlib.chdir(folder):
        run_notebooks([], parameters={}, folder=kept.parent, in_place=True)
    return kept


@pytest.mark.slow
def test_in_place_keeps_plots_as_png_and_counts_without_holes(plotted: Path) -> None:
    notebook = _read(plotted)
    assert [list(output.data) for output in _outputs(notebook)] == [["image/png"]]
    assert [cell.execution_count for cell in _code(notebook)] == [1, 2, 3]


@pytest.mark.slow
def test_in_place_keeps_nothing_of_its_run(plotted: Path) -> None:
    assert "papermill" not in plotted.read_text()
    assert str(plotted.parents[1]) not in plotted.read_text()


@pytest.mark.slow
def test_pages_with_plots_open_without_a_network(plotted: Path) -> None:
    page = (plotted.parents[1] / "build/notebooks/c.html").read_text()
    assert "Plotly.newPlot(" in page and '<script src="plotly.js">' in page
    assert not FROM_THE_NET.search(page)


@pytest.mark.slow
def test_the_command_takes_parameters_and_its_own_sample(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        done = CliRunner().invoke(app, ["notebooks", "01", "-p", "rows=300"])
    assert (done.exit_code, done.stdout) == (0, "open build/notebooks/index.html\n"), done.exception
    ran = _read(tmp_path / "build/notebooks/01_schema_v2.ipynb")
    assert ran.metadata.papermill.parameters == {"rows": 300}

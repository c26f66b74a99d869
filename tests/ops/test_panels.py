"""Panels: complete, the same in Grafana's files, and answered by a Prometheus that scrapes K2."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from support.documents import OPERATIONS_DOC, ROOT, quoted, rows, section
from support.live import SOON, SYMBOLS, venue_of
from support.prometheus_server import Watching, watching
from support.waiting import wait_until

from dashboards.generate import UNITS, to_json
from k2lib import K2
from k2lib.api.server import ApiServer
from k2lib.ops.alerts import ALERT_NAMES
from k2lib.ops.host_metrics import HostCollector
from k2lib.ops.panels import BOARDS, Board, Panel
from k2lib.simulator import OfflineExchange

PANELS = [panel for board in BOARDS for panel in board.panels]
a_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


@a_board
def test_a_dashboard_is_the_one_that_its_panels_make(board: Board) -> None:
    file = ROOT / "dashboards" / f"{board.name}.json"
    assert file.read_text(encoding="utf-8") == to_json(board), (
        "make it again: python -m dashboards.generate"
    )


def test_there_is_a_file_a_board_and_no_other() -> None:
    files = {file.name for file in (ROOT / "dashboards").glob("*.json")}
    assert files == {f"{board.name}.json" for board in BOARDS}


@a_board
def test_each_panel_in_grafana_has_query_unit_description_and_thresholds(board: Board) -> None:
    panels = json.loads(to_json(board))["panels"]
    assert [one["title"] for one in panels] == [panel.title for panel in board.panels]
    for made, panel in zip(panels, board.panels, strict=True):
        shown: dict[str, Any] = made["fieldConfig"]["defaults"]
        assert made["description"] == panel.description and panel.description.endswith(".")
        assert [one["expr"] for one in made["targets"]] == [panel.query]
        assert shown["unit"] == UNITS[panel.unit]
        values = [step["value"] for step in shown["thresholds"]["steps"]]
        assert values == [None, *(one.value for one in panel.thresholds)] and values[1:]
        assert values[1:] == sorted(values[1:])


def test_what_is_too_little_is_red_below_and_what_is_too_much_above() -> None:
    colors = {
        panel["title"]: [step["color"] for step in steps["steps"]]
        for board in BOARDS
        for panel in json.loads(to_json(board))["panels"]
        if (steps := panel["fieldConfig"]["defaults"]["thresholds"])
    }
    assert colors["Disk of the home"] == ["red", "orange", "green"]
    assert colors["Freshness, 99th percentile"] == ["green", "orange", "red"]
    assert colors["Sinks that are paused"] == ["green", "red"]


def test_titles_are_unique() -> None:
    assert len({panel.title for panel in PANELS}) == len(PANELS)


def test_the_document_has_the_metrics_of_the_machine(tmp_path: Path) -> None:
    named = [name for row in rows(section(OPERATIONS_DOC, "Dashboards")) for name in quoted(row[0])]
    assert named == [family.name for family in HostCollector(tmp_path / "not" / "yet").collect()]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    """Run stream, sinks and API with some faults, under Prometheus."""
    home = tmp_path_factory.mktemp("home") / "home"
    with (
        watching(tmp_path_factory.mktemp("prometheus")) as watch,
        OfflineExchange(SYMBOLS, rate=100.0, hosts=2) as exchange,
        K2.open(home=home, commit_interval_s=0.3, metrics_port=0) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON),
        ApiServer(k2) as api,
    ):
        metrics_url = k2.watch.metrics_url
        assert metrics_url is not None
        watch.targets({"stream": urlsplit(metrics_url).netloc, "api": urlsplit(api.url).netloc})
        wait_until(lambda: httpx2.get(f"{api.url}/ready", timeout=60).status_code == 200)
        exchange.fault("skip", n=20, symbol="BTCUSDT")
        exchange.fault("garbage", n=7)
        wait_until(lambda: watch.query("k2_dead_letters_total"))
        exchange.fault("refused", s=1.0, cut=True)

        def request() -> bool:
            for host in ("127.0.0.1", "example.org"):
                httpx2.get(f"{api.url}/ready", headers={"Host": host}, timeout=60)
            return all(watch.query(panel.query) for panel in PANELS)

        try:
            wait_until(request, 100)
        except AssertionError:
            """The tests name the panels that have no data."""
        yield watch


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_query_returns_data_of_a_running_k2(scraped: Watching) -> None:
    found = {panel.title: scraped.query(panel.query) for panel in PANELS}
    assert [title for title, series in found.items() if not series] == []


@pytest.mark.slow
def test_the_legend_tells_series_apart(scraped: Watching) -> None:
    def doubled(panel: Panel) -> bool:
        series = scraped.query(panel.query)
        legends = [tuple(one["metric"].get(label) for label in panel.legend) for one in series]
        return len(set(legends)) < len(legends) or any(None in legend for legend in legends)

    assert [panel.title for panel in PANELS if doubled(panel)] == []


@pytest.mark.slow
def test_a_running_k2_shows_every_alert_of_its_own(scraped: Watching) -> None:
    assert {one["metric"]["alert"] for one in scraped.query("k2_alerts_firing")} == {*ALERT_NAMES}

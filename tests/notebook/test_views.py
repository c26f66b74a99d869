"""Views of reading: freshness of answers, snapshots by a slider, bars, flow, replays."""

import asyncio
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import nbformat
import polars as pl
import pytest
from support.fake_clock import FakeClock
from support.lake_rows import NOON, append, at, catalog_in, rows_table, trade
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import NotFoundError, QueryError
from k2lib.notebook.freshness import (
    HYBRID,
    LAKE,
    FreshnessHistory,
    FreshnessSample,
    FreshnessView,
    measure_freshness,
)
from k2lib.notebook.live_figure import PLOTLY, plotly_output
from k2lib.notebook.market_plots import Panel, draw_bars, draw_flow, flow
from k2lib.notebook.measurements import arrival_times, plan_scans, replay_speed
from k2lib.notebook.pages import write_page
from k2lib.notebook.snapshots import SnapshotsView, read_instrument
from k2lib.notebook.venue import OFFLINE, offline_venue
from k2lib.query.answer import CompleteTo
from k2lib.schema.calendar import zone
from k2lib.simulator import OfflineExchange


def _sample(at_s: float, answer: str = HYBRID, *, age_ms: float | None = 20.0) -> FreshnessSample:
    return FreshnessSample(
        at_s, answer, 5.0, 10, 1, 10, True, age_ms, CompleteTo("trades_v2", time=NOON)
    )


def _counted(*ids: int) -> list[dict[str, object]]:
    return [trade(number, source_sequence=one) for number, one in enumerate(ids)]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[K2]:
    """Open a home with BHP in both of its snapshots and MWR in the second."""
    catalog = catalog_in(tmp_path)
    append(catalog, [trade(0), trade(61)])
    append(catalog, [trade(122), trade(200, symbol="MWR", price=Decimal("0.5"))])
    with K2.open(home=tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("ids", "contiguous"),
    [([7, 8, 9], True), ([7, 9], False), ([7, 8, 8], False), ([7, 7, 9], False)],
)
def test_an_answer_is_contiguous_if_no_id_is_missing_or_twice(
    tmp_path: Path, ids: list[int], contiguous: bool
) -> None:
    append(catalog_in(tmp_path), _counted(*ids))
    with K2.open(home=tmp_path) as k2:
        found = measure_freshness(k2.engine, "BHP", exchange="ASX", answer=LAKE)
    assert (found.trades, found.contiguous) == (len(ids), contiguous)


def test_the_age_is_that_of_the_newest_trade_once_the_answer_is_there(lake: K2) -> None:
    clock = FakeClock(at(125).timestamp())
    found = measure_freshness(lake.engine, "BHP", exchange="ASX", answer=LAKE, clock=clock)
    assert found.age_ms == pytest.approx(3_000) and found.took_ms == 0
    assert found.complete_to.time == at(200)


def test_an_answer_without_a_trade_has_no_age(lake: K2) -> None:
    found = measure_freshness(lake.engine, "XYZ", exchange="ASX", answer=LAKE)
    assert (found.trades, found.age_ms, found.first_id) == (0, None, None)


def test_samples_are_kept_in_a_fixed_length_and_counted_from_the_first() -> None:
    history = FreshnessHistory(length=2)
    for n in range(5):
        history.add(_sample(100.0 + n, age_ms=n))
    assert history.ages(HYBRID) == ([3.0, 4.0], [3, 4]) and history.ages(LAKE) == ([], [])
    assert history.until_s() == 4.0 and history.frame().height == 2


def test_samples_are_summed_up_by_answer() -> None:
    history = FreshnessHistory(length=9)
    for n, age_ms in enumerate([None, 1_000.0, 2_000.0, 6_000.0]):
        history.add(_sample(n, age_ms=20.0))
        history.add(_sample(n, LAKE, age_ms=age_ms))
    shown = history.table().select(
        "answer", "answers", "contiguous", "age_median_ms", "age_most_ms"
    )
    assert sorted(shown.rows()) == [(LAKE, 4, 4, 2_000.0, 6_000.0), (HYBRID, 4, 4, 20.0, 20.0)]


def test_a_frame_moves_both_lines_and_the_window(lake: K2) -> None:
    view = FreshnessView(lake.engine, "BHP", exchange="ASX", window_s=10, clock=lambda: 0.0)
    for n in range(30):
        view.history.add(_sample(float(n)))
        view.history.add(_sample(n + 0.5, LAKE, age_ms=None))
    view.draw()
    shown = plotly_output(view.figure)[PLOTLY]
    assert [trace["name"] for trace in shown["data"]] == [HYBRID, LAKE]
    assert shown["layout"]["xaxis"]["range"] == [19.5, 29.5]


def test_a_view_ends_by_itself_and_leaves_a_table(lake: K2) -> None:
    view = FreshnessView(lake.engine, "BHP", exchange="ASX", frame_s=0.01)
    asyncio.run(view.run(0.2))
    shown = view.table()
    assert set(shown["answer"]) == {HYBRID, LAKE} and shown["answers"].min() >= 1
    assert shown["contiguous"].sum() == 0, "without ids nothing is shown to be whole"


def test_a_snapshot_has_the_bars_and_the_newest_trade_of_its_time(lake: K2) -> None:
    older = lake.snapshots().row(-1, named=True)
    found = read_instrument(lake, older, "BHP", exchange="ASX")
    assert (found.newest, found.trades, found.currency) == (at(61), 2, "AUD")
    assert found.bars is not None and found.bars.height == 2
    assert read_instrument(lake, older, "MWR", exchange="ASX").row()["bars"] == 0


def test_a_snapshot_that_is_not_kept_is_an_error_and_not_an_empty_instrument(lake: K2) -> None:
    with pytest.raises(NotFoundError, match="keeps no such snapshot"):
        read_instrument(lake, {"snapshot_id": 1}, "BHP", exchange="ASX")


def test_an_instrument_can_be_read_of_one_day(lake: K2) -> None:
    newest = lake.snapshots().row(0, named=True)
    another = read_instrument(lake, newest, "BHP", exchange="ASX", day=date(2014, 3, 11))
    assert another.trades == 0 and another.newest == at(122)


def test_the_slider_moves_bars_and_text(lake: K2) -> None:
    view = SnapshotsView(lake, "BHP", exchange="ASX")
    assert len(view.figure.data[0].close) == 3 and "4 rows in the table" in view.text.value
    view.slider.value = 0
    assert len(view.figure.data[0].close) == 2 and "2 rows in the table" in view.text.value
    assert view.figure.layout.yaxis.title.text == "price, AUD"


def test_the_slider_empties_the_figure_where_the_instrument_was_not_there(lake: K2) -> None:
    view = SnapshotsView(lake, "MWR", exchange="ASX")
    view.slider.value = 0
    assert not len(view.figure.data[0].close) and "0 trades in the bars" in view.text.value


def test_the_table_of_the_slider_has_every_snapshot_the_oldest_first(lake: K2) -> None:
    shown = SnapshotsView(lake, "BHP", exchange="ASX").table()
    assert shown.select("rows_total", "trades", "bars").rows() == [(2, 2, 2), (4, 3, 3)]
    assert shown["snapshot_id"].to_list() == lake.snapshots()["snapshot_id"].to_list()[::-1]


def test_the_slider_needs_trades(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as empty, pytest.raises(QueryError, match="trades_v2 is empty"):
        SnapshotsView(empty, "BHP", exchange="ASX")


def test_a_plotly_output_is_plain_json(lake: K2) -> None:
    shown = plotly_output(SnapshotsView(lake, "BHP", exchange="ASX").figure)
    assert json.loads(json.dumps(shown)) == shown


def test_a_page_shows_the_plot_of_what_is_a_widget_too(tmp_path: Path, lake: K2) -> None:
    shown = plotly_output(SnapshotsView(lake, "BHP", exchange="ASX").figure)
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1", "version_major": 2}}
    output = nbformat.v4.new_output("display_data", {**widget, **shown})
    cells = [nbformat.v4.new_markdown_cell("# Page"), nbformat.v4.new_code_cell(outputs=[output])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "page.ipynb")
    page = write_page(tmp_path / "page.ipynb").read_text()
    assert "Plotly.newPlot(" in page and "widget-view" not in page


def test_a_plan_counts_the_files_that_a_question_needs(lake: K2) -> None:
    table = lake.table("trades_v2")
    shown = plan_scans(table, {"all": None, "few": "symbol = 'MWR'", "none": "symbol = 'ZZZ'"})
    assert shown.select("question", "files", "rows").rows() == [
        ("all", 2, 4),
        ("few", 1, 2),
        ("none", 0, 0),
    ]


def test_bars_are_drawn_side_by_side_in_the_time_of_each_venue(lake: K2) -> None:
    bars = lake.bars("BHP", exchange="ASX")
    coin = bars.with_columns(exchange=pl.lit("BINANCE"))
    panels = [Panel(bars, "a", price="AUD", volume="x"), Panel(coin, "b", price="USDT", volume="y")]
    drawn = draw_bars("Both", *panels)
    starts = [str(trace.x[0])[:16] for trace in drawn.data]
    assert starts == 2 * ["2014-03-10T12:00"] + 2 * ["2014-03-10T01:00"]
    assert drawn.layout.yaxis2.title.text == "price, USDT"


def test_flow_counts_signed_trades_by_interval_and_means_spreads_that_there_are() -> None:
    rows = rows_table([trade(n) for n in (0, 1, 2, 61)])
    signed = pl.DataFrame(rows).with_columns(
        spread_bps=pl.Series([2.0, None, 4.0, None]),
        sign=pl.Series([1, -1, None, 1], dtype=pl.Int8),
    )
    flows = flow(signed, "1m")
    noon = at(0).astimezone(zone("ASX")).replace(tzinfo=None)
    assert flows.rows() == [(noon, 3, 3.0, 0.5), (noon + timedelta(minutes=1), 1, None, 1.0)]
    assert len(draw_flow(flows, "Flow").data) == 2


@dataclass
class Event:
    """An event of a replay with the one field that `arrival_times` reads."""

    timestamp: datetime


def test_arrivals_have_both_clocks_from_the_first_event_on() -> None:
    clock = FakeClock()

    def events() -> Iterator[Event]:
        for seconds in (0, 60, 600):
            clock.now = 1000.0 + seconds / 600
            yield Event(at(seconds))

    arrivals = arrival_times(events(), clock=clock)
    assert (
        arrivals["event_s"].to_list() == [0, 60, 600]
        and arrivals["kind"].unique().item() == "event"
    )
    assert (
        arrivals["wall_s"].to_list() == pytest.approx([0, 0.1, 1]) and replay_speed(arrivals) == 600
    )


def test_a_replay_of_nothing_has_no_arrival_times() -> None:
    assert arrival_times([]).is_empty() and arrival_times([]).columns[-1] == "wall_s"


@pytest.mark.slow
def test_answers_with_the_tail_are_whole_and_younger_than_the_lakes(tmp_path: Path) -> None:
    with (
        OfflineExchange(["BTCUSDT"], rate=100) as exchange,
        K2.open(home=tmp_path / "home", commit_interval_s=2.0) as k2,
    ):
        k2.feed(["BTCUSDT"], venue=offline_venue(exchange))
        wait_until(
            lambda: measure_freshness(k2.engine, "BTCUSDT", exchange=OFFLINE, answer=LAKE).trades
        )
        view = FreshnessView(k2.engine, "BTCUSDT", exchange=OFFLINE, frame_s=0.1)
        asyncio.run(view.run(5.0))
        # The machine may pause during some answers, not during most.
        wait_until(lambda: view.sample() or median_age_ms(view, HYBRID) < median_age_ms(view, LAKE))
        hybrid = view.history.frame().filter(answer=HYBRID)
    assert hybrid["contiguous"].all() and hybrid["trades"].is_sorted()


def median_age_ms(view: FreshnessView, answer: str) -> float:
    _, ages = view.history.ages(answer)
    return statistics.median(one for one in ages if one is not None)

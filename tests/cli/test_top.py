"""`k2 top`: what its screen shows at any size, and how it ends, in a real terminal."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console
from support.live import streams
from support.terminal import Terminal
from support.waiting import first, wait_until

from k2lib import K2
from k2lib.cli.top_state import TableHealth, TopReader, TopState, Trend
from k2lib.cli.top_view import TopView, sparkline
from k2lib.feed.status import FeedStatus, HostStatus, SymbolStatus, TapeRow
from k2lib.ops.services import Services

AT = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
TAPE = tuple(
    TapeRow(AT - timedelta(seconds=number), Decimal("65012.31"), Decimal("0.5"), "BUY")
    for number in range(50)
)
FEED = FeedStatus(
    at=AT,
    exchange="BINANCE",
    state="live",
    host="wss://a",
    reason="",
    delay_s=0.0,
    reconnects=3,
    queue_depth=17,
    queue_limit=100_000,
    queue_waited_s=0.5,
    dead_letters=4,
    symbols=(
        SymbolStatus("BTCUSDT", lag_s=0.0124, last_price=Decimal("65012.31"), tape=TAPE),
        SymbolStatus("ETHUSDT", gaps_open=2, gaps_closed=1),
    ),
    hosts=(
        HostStatus("wss://stream.binance.com:9443/a/very/long/path" * 4, "half_open", True),
        HostStatus("wss://b", "open", False, "HTTP 451"),
    ),
    alerts=("feed_lag: BTCUSDT is 9.0 s behind", "breaker_open: wss://b failed repeatedly"),
    clock_behind_s=0.25,
)
STATE = TopState(
    at=AT,
    home="/srv/a/folder/with/a/long/name" * 6,
    mode="Kafka embedded",
    writer_pid=4711,
    feed=FEED,
    feed_over=None,
    tables=(
        TableHealth("trades_v2", 1_234_567, 12, 5_000_000, 480.2, 77, 1.5, AT, 4711),
        TableHealth("quotes_v2", problem="table quotes_v2: its metadata is damaged " * 9),
        TableHealth("gaps", sink_pid=4711, lag=0, freshness_s=0.0),
    ),
    services=(),
    trend=Trend((0.0, 240.0, 480.0), (7.0, 77.0), (0.5, 1.5)),
)


def drawn(state: TopState, *, width: int = 80, height: int | None = None) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width).print(TopView(state, height=height))
    return [line.rstrip() for line in written.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 80, 129, 130, 160, 250])
@pytest.mark.parametrize("height", [1, 5, 10, 24, 48, 200])
def test_no_line_is_longer_than_the_screen_and_no_screen_higher(width: int, height: int) -> None:
    lines = drawn(STATE, width=width, height=height)
    assert len(lines) <= height and max(map(len, lines)) <= width


def test_a_screen_of_80_by_24_has_symbols_hosts_alerts_and_tables() -> None:
    text = "\n".join(drawn(STATE, height=24))
    for said in ("BTCUSDT", "half_open", "HTTP 451", "● feed_lag", "● breaker_open", "trades_v2"):
        assert said in text
    assert "clock offset -0.250 s" in text and "3 reconnects, 4 dead letters" in text
    (row,) = [line for line in drawn(STATE) if line.startswith("trades_v2")]
    assert " ".join(row.split()) == "trades_v2 1,234,567 480.2 77 1.5 s 0 s ago 12 5.0 MB"


def test_the_tape_takes_the_lines_that_are_left() -> None:
    rows = [
        sum("65,012.31" in line and "BUY" in line for line in drawn(STATE, width=160, height=one))
        for one in (24, 48)
    ]
    assert rows[1] - rows[0] == 24


def test_a_home_in_which_nothing_runs_is_told_so() -> None:
    ended = replace(STATE, feed_over="stopped at 15:09", writer_pid=None, tables=())
    text = "\n".join(drawn(ended, height=24))
    assert "NOTHING RUNS in this home; the stream: stopped at 15:09" in text
    assert "`k2 stream binance` starts a stream" in text and "no table yet" in text
    never = replace(ended, feed=None, feed_over="none ever did")
    assert "NOTHING RUNS in this home; no stream ever ran" in "\n".join(drawn(never))
    assert "NOTHING RUNS" not in "\n".join(drawn(STATE))


def test_a_sparkline_has_a_block_a_value() -> None:
    assert sparkline([0.0, 50.0, 100.0]) == "▁▅█" and sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a stream with its sinks in another process; its home."""
    home = tmp_path_factory.mktemp("top") / "home"
    arguments = ["-m", "k2lib", "stream", "binance", "--offline", "--rate", "40"]
    with subprocess.Popen(
        [sys.executable, *arguments],
        env={"PATH": "/usr/bin:/bin", "K2_HOME": str(home), "K2_COMMIT_INTERVAL_S": "0.5"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: streams(home))
            yield home
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "lines", "key"), [(80, 24, "q"), (160, 48, "\x03")])
def test_the_screen_of_a_terminal_shows_the_stream_until_a_key_ends_it(
    streaming: Path, columns: int, lines: int, key: str
) -> None:
    env = {"K2_HOME": str(streaming)}
    with Terminal(["top"], columns=columns, lines=lines, env=env) as terminal:
        wait_until(lambda: "trades_v2 " in terminal.text() and "rows/s" in terminal.text())
        rows = terminal.rows()
        assert f"home {streaming}"[:36] in rows[0]
        assert "BINANCE_SIM" in rows[2] and any("BTCUSDT" in row for row in rows)
        assert ("─ tape" in terminal.text()) and "breaker" in terminal.text()
        before = terminal.text()
        wait_until(lambda: terminal.text() != before)
        terminal.press(key)
        assert terminal.wait_until_ended() == 0
        wait_until(terminal.is_restored)


@pytest.mark.slow
def test_watch_shows_the_feed_alone_on_a_terminal(streaming: Path) -> None:
    env = {"K2_HOME": str(streaming)}
    with Terminal(["watch"], columns=80, lines=24, env=env) as terminal:
        wait_until(lambda: "─ tape" in terminal.text())
        assert "BTCUSDT" in terminal.text() and "sinks and tables" not in terminal.text()
        terminal.press("q")
        assert terminal.wait_until_ended() == 0
        wait_until(terminal.is_restored)


@pytest.mark.slow
def test_json_has_the_state_of_a_home_that_another_process_writes(streaming: Path) -> None:
    def asked() -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "k2lib", "top", "--json"],
            env={"PATH": "/usr/bin:/bin", "K2_HOME": str(streaming)},
            capture_output=True,
            check=True,
        )
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def trades(state: dict[str, object]) -> dict[str, object]:
        tables = state["tables"]
        assert isinstance(tables, list)
        return next((one for one in tables if one["name"] == "trades_v2"), {})

    state = first(asked, lambda one: trades(one).get("rows"))
    assert state["runs"] is True and state["problems"] == []
    assert trades(state)["lag"] is not None and trades(state)["sink_pid"] is not None


@pytest.mark.slow
def test_once_prints_one_screen_of_a_home_in_which_nothing_runs(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2:
        k2.pipeline.settle()
    done = subprocess.run(
        [sys.executable, "-m", "k2lib", "top", "--once"],
        env={"PATH": "/usr/bin:/bin", "K2_HOME": str(tmp_path), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "NOTHING RUNS in this home; no stream ever ran" in done.stdout


@pytest.mark.stack
def test_lag_of_tables_is_read_from_the_local_services(
    services: Services, services_home: Path
) -> None:
    with K2.open(home=services_home) as k2:
        state = TopReader(k2).read()
    assert state.mode == f"Kafka local services at {services.bootstrap}" and state.problems == ()

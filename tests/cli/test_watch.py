"""What is shown of a feed: the view on a terminal, the line elsewhere, and when it is over."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from k2lib.cli.stream_view import (
    StreamPrinter,
    poll_status_file,
    refresh_s,
    show_statuses,
    status_line,
    status_view,
    why_ended,
)
from k2lib.events import ConnectionLost, FramesRepeated
from k2lib.feed.status import FeedStatus, HostStatus, StatusBoard, SymbolStatus
from k2lib.feed.status_file import StatusFile, read_status, status_path, write_status

AT = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
HOST = "wss://stream.binance.com:9443"
BTC = SymbolStatus(
    "BTCUSDT",
    trades=12_345,
    trades_per_s=48.2,
    lag_s=0.0124,
    last_price=Decimal("65012.31000000"),
    last_side="SELL",
    gaps_open=1,
    gaps_closed=2,
    backfilled=77,
)
STATUS = FeedStatus(
    at=AT,
    exchange="BINANCE",
    state="live",
    host=HOST,
    reason="",
    delay_s=0.0,
    reconnects=3,
    queue_depth=17,
    queue_limit=100_000,
    queue_waited_s=0.5,
    dead_letters=4,
    symbols=(BTC, SymbolStatus("ETHUSDT", is_stale=True)),
    hosts=(HostStatus(HOST, "half_open", True), HostStatus("wss://b", "open", False, "HTTP 451")),
    alerts=("feed_lag: BTCUSDT is 9.0 s behind", "breaker_open: wss://b failed repeatedly"),
)


def drawn(status: FeedStatus, *, now: datetime = AT, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(status_view(status, now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, first: str) -> list[str]:
    """Return the words of the row that begins so."""
    (found,) = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    return found


def test_the_view_shows_price_rate_lag_and_gaps_of_every_symbol_in_80_columns() -> None:
    text = drawn(STATUS)
    assert row(text, "BTCUSDT")[1:] == ["65,012.31", "48.2", "0.012", "s", "12,345", "77", "1", "2"]
    assert row(text, "ETHUSDT")[1:4] == ["stale", "no", "price"]
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_the_view_shows_connection_breakers_and_who_is_refused() -> None:
    text = drawn(STATUS)
    assert row(text, HOST)[1:] == ["open", "half_open"]
    assert row(text, "wss://b")[1:] == ["-", "open", "HTTP", "451"]
    assert "3 reconnects, 4 dead letters" in text and "queue 17 of 100,000" in text


def test_the_view_shows_the_alerts_that_fire() -> None:
    assert "alert feed_lag: BTCUSDT is 9.0 s behind\n" in drawn(STATUS)
    assert "no alert fires" in drawn(replace(STATUS, alerts=()))


def test_quotes_are_shown_where_there_are_some() -> None:
    with_quotes = replace(STATUS, symbols=(replace(BTC, quotes=55),))
    assert "quotes" not in drawn(STATUS)
    assert "quotes" in drawn(with_quotes) and "55" in row(drawn(with_quotes), "BTCUSDT")


def test_a_feed_that_waits_says_for_what_and_how_long() -> None:
    waiting = replace(STATUS, state="waiting", host=None, reason="every host failed", delay_s=4.2)
    head = drawn(waiting, width=200).splitlines()[0]
    assert head.startswith(
        "BINANCE waiting (every host failed), next attempt after 4.2 s, 3 reconnects"
    )


def test_a_feed_that_has_not_told_for_long_is_shown_so() -> None:
    late = AT + timedelta(seconds=34)
    assert "status 34 s old" in drawn(STATUS, now=late)
    assert "s old" not in drawn(STATUS, now=AT + timedelta(seconds=2))


def test_the_line_says_the_same_in_short() -> None:
    assert status_line(STATUS, AT) == (
        f"15:09:26 BINANCE live at {HOST}, 3 reconnects, 4 dead letters; "
        "BTCUSDT 65,012.31, 48.2 trades/s, lag 0.012 s, 12,345 trades, gaps 1 open 2 closed; "
        "ETHUSDT stale no price yet, 0.0 trades/s, lag ?, 0 trades, gaps 0 open 0 closed; "
        "2 alerts: breaker_open, feed_lag"
    )


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    failed = replace(STATUS, state="failed", reason="[red]no[/red]", hosts=())
    assert "[red]no[/red]" in drawn(failed, width=200)


@pytest.mark.parametrize(("terminal", "lines"), [(False, 2), (True, 0)])
def test_looks_are_lines_but_on_a_terminal_where_the_view_goes_at_the_end(
    terminal: bool, lines: int
) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=200)
    show_statuses([STATUS, STATUS], console=console, now=lambda: AT)
    text = written.getvalue()
    assert sum(line.startswith("15:09:26 BINANCE live") for line in text.splitlines()) == lines
    assert ("queue 17 of 100,000" in text) == terminal
    assert refresh_s(console) == (0.5 if terminal else 10.0)


def gone() -> int:
    """Return the pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (None, "none ever did"),
        (StatusFile(os.getpid(), STATUS), None),
        (
            StatusFile(os.getpid(), replace(STATUS, state="failed", reason="HTTP 451")),
            "failed at 2026-03-14 15:09:26 UTC (HTTP 451)",
        ),
    ],
)
def test_a_feed_is_over_when_it_says_so(told: StatusFile | None, why: str | None) -> None:
    assert why_ended(told) == why


def test_a_feed_is_over_when_its_process_is_gone() -> None:
    pid = gone()
    assert (
        why_ended(StatusFile(pid, STATUS)) == f"process {pid} is gone since 2026-03-14 15:09:26 UTC"
    )


def test_a_feed_of_another_process_is_looked_at_until_it_is_over(tmp_path: Path) -> None:
    path = status_path(tmp_path)
    write_status(path, STATUS)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            write_status(path, replace(STATUS, state="stopped"))

    assert list(poll_status_file(path, every_s=0.5, wait=wait)) == [STATUS, STATUS]
    assert waited == [0.5, 0.5]


def test_looking_ends_in_time(tmp_path: Path) -> None:
    write_status(status_path(tmp_path), STATUS)
    waited: list[float] = []
    looked = list(
        poll_status_file(status_path(tmp_path), every_s=9.0, seconds=0.05, wait=waited.append)
    )
    assert looked and all(0 < wait_s <= 0.05 for wait_s in waited)


def test_alerts_are_told_along_with_where_a_feed_stands(tmp_path: Path) -> None:
    board = StatusBoard(
        "BINANCE", ["BTCUSDT"], [HOST], alerts=lambda: ["redis_gone: Redis is gone"]
    )
    write_status(status_path(tmp_path), board.look())
    told = read_status(status_path(tmp_path))
    assert told is not None and told.status.alerts == ("redis_gone: Redis is gone",)


def test_nothing_is_told_before_a_stream_has_begun() -> None:
    written = io.StringIO()
    lost = ConnectionLost("BINANCE", HOST, "cut")
    with StreamPrinter(Console(file=written, width=200)) as printer:
        printer.on_event(lost)
        assert written.getvalue() == ""
        printer.begin("feed of BTCUSDT", lambda: [])
        printer.on_event(lost)
        printer.on_event(FramesRepeated("BINANCE", "BTCUSDT", 1))
    first, second = written.getvalue().splitlines()
    assert first.endswith(" feed of BTCUSDT")
    assert second.endswith(f" connection_lost: host {HOST}, reason cut")

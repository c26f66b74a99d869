"""What a feed tells in a file is what another process reads."""

import os
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from support.lake_rows import rows_table, trade

from k2lib.events import ConnectionOpened
from k2lib.feed.status import TAPE, StatusBoard, TapeRow
from k2lib.feed.status_file import read_status, status_path, write_status


def board() -> StatusBoard:
    made = StatusBoard("BINANCE", ["BTCUSDT"], ["wss://one"])
    made.on_event(ConnectionOpened("BINANCE", "wss://one"))
    return made


def test_what_was_told_is_read_with_the_pid(tmp_path: Path) -> None:
    status = board().look()
    write_status(status_path(tmp_path), status)
    told = read_status(status_path(tmp_path))
    assert told is not None
    assert (told.pid, told.status) == (os.getpid(), status)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["feed.json"]


def test_prices_and_times_come_back_as_they_were(tmp_path: Path) -> None:
    made, kept = board(), trade(1, symbol="BTCUSDT", price=Decimal("1.50000000"))
    made.show("BTCUSDT", rows_table([kept]))
    write_status(status_path(tmp_path), made.look())
    told = read_status(status_path(tmp_path))
    assert told is not None and told.status.symbols[0].tape == (
        TapeRow(**{n: kept[n] for n in TAPE}),
    )


@pytest.mark.parametrize("text", [None, "", "{}", '{"pid": 1, "status": {}}', "\xff"])
def test_what_no_feed_told_is_none(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "feed.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    assert read_status(path) is None


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, status, stop = status_path(tmp_path), board().look(), threading.Event()
    write_status(path, status)

    def tell() -> None:
        while not stop.is_set():
            write_status(path, status)

    teller = threading.Thread(target=tell)
    teller.start()
    seen = [read_status(path) for _ in range(300)]
    stop.set()
    teller.join()
    assert all(told is not None and told.status == status for told in seen)

"""Sinks as threads: what ends all of them, and what ends one alone."""

import threading
from typing import Any

import pytest
from support.waiting import wait_until

from k2lib.errors import LossError, TableError
from k2lib.iceberg.sink_threads import SinkThreads
from k2lib.iceberg.tables import TABLES, TableSpec


class ASink:
    """A sink that ends with an error, or runs until it is stopped."""

    def __init__(self, table: str, error: Exception | None = None) -> None:
        self.spec: TableSpec = TABLES[table]
        self.error = error

    def run(self, stop: threading.Event) -> None:
        """Run as a sink does."""
        if self.error is not None:
            raise self.error
        stop.wait()


def started(*sinks: Any) -> SinkThreads:
    threads = SinkThreads(list(sinks))
    threads.start()
    return threads


def raises(threads: SinkThreads, kind: type[Exception], table: str) -> bool:
    try:
        threads.check(tables={table})
    except kind:
        return True
    return False


def test_a_table_error_is_raised_only_for_its_table() -> None:
    refused = ASink("quotes_v2", TableError("quotes_v2 has delete files"))
    threads = started(refused, ASink("trades_v2"))
    wait_until(lambda: raises(threads, TableError, "quotes_v2"))
    threads.check(tables={"trades_v2"})
    assert threads.alive
    threads.stop()


def test_another_error_is_raised_for_every_table() -> None:
    threads = started(ASink("quotes_v2", LossError("records are gone")), ASink("trades_v2"))
    wait_until(lambda: raises(threads, LossError, "trades_v2"))
    threads.stop()


def test_threads_whose_sinks_have_ended_are_not_alive() -> None:
    threads = started(ASink("quotes_v2", TableError("it has delete files")))
    wait_until(lambda: not threads.alive)
    with pytest.raises(TableError):
        threads.check()

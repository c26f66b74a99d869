"""The feed of k2lib as a process, from the socket until Kafka has acknowledged everything.

Run: python -m bench.live_feed WS REST FRAMES, with K2_HOME where Kafka runs.
"""

import sys
import threading

from bench.measure import SYMBOLS, Figure, measured, print_figures, wait_for_go
from k2lib.client import K2
from k2lib.events import Event, FramesReceived
from k2lib.settings import read_settings
from k2lib.venues.binance.venue import binance


class Count:
    """Counts the trades that the feed reports; `enough` is set at so many."""

    def __init__(self, frames: int) -> None:
        self.received = 0
        self.first = threading.Event()
        self.enough = threading.Event()
        self._frames = frames

    def on_event(self, event: Event) -> None:
        """Count the trades of an event."""
        if isinstance(event, FramesReceived):
            self.received += event.count
            self.first.set()
            if self.received >= self._frames:
                self.enough.set()


def stream(ws: str, rest: str, frames: int) -> Figure:
    """Stream at least so many trades into Kafka."""
    count = Count(frames)
    with K2(read_settings(), with_sinks=False, on_event=count.on_event) as k2:
        feed = k2.feed(SYMBOLS, venue=binance([ws], [rest]))
        count.first.wait()
        wait_for_go()
        with measured("k2lib: framed Avro v2, acknowledged") as figure:
            before = count.received
            while not count.enough.wait(1.0) and not feed.wait(0):
                continue
            feed.close()
            figure.rows = count.received - before
    return figure


if __name__ == "__main__":
    print_figures(stream(sys.argv[1], sys.argv[2], int(sys.argv[3])))

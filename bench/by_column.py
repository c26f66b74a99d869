"""The way of k2lib, as two processes: files to Kafka, and Kafka to the lake.

Run: python -m bench.by_column load FOLDER | python -m bench.by_column sink ROWS
"""

import sys
import threading
from contextlib import closing

from bench.measure import Figure, measured, peak_mb, print_figures
from k2lib.client import K2
from k2lib.events import BatchDone, Event
from k2lib.iceberg.sink_threads import make_sinks
from k2lib.iceberg.tables import TABLES
from k2lib.kafka.connect import RemoteKafka
from k2lib.settings import read_settings


def load(folder: str) -> Figure:
    """Load a folder's trades into Kafka alone."""
    with K2(read_settings(), with_sinks=False) as k2, measured("files → Kafka") as figure:
        report = k2.load_asx(f"{folder}/trades")
        figure.rows = sum(file.rows for file in report.files if file.kind == "trades")
    return figure


def sink(rows: int) -> Figure:
    """Feed the table until so many rows were read."""
    stop, rows_read = threading.Event(), 0

    def count(event: Event) -> None:
        nonlocal rows_read
        if isinstance(event, BatchDone):
            rows_read += event.added + event.duplicates
            if rows_read >= rows:
                stop.set()

    with K2(read_settings()) as k2:
        assert k2.kafka.cluster is not None
        with closing(RemoteKafka(k2.kafka.cluster, k2.kafka.registry_url)) as kafka:
            trades = [TABLES["trades_v2"]]
            (one,) = make_sinks(trades, k2.catalog, kafka, k2.settings, on_event=count)
            with measured("Kafka → lake", rows) as figure:
                one.run(stop)
    figure.name += f" (peak {peak_mb():.0f} MB)"
    return figure


if __name__ == "__main__":
    print_figures(load(sys.argv[2]) if sys.argv[1] == "load" else sink(int(sys.argv[2])))

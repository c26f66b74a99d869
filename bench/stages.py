"""Every stage alone, on the same rows: what the whole way would cost if joining them were free.

Run: python -m bench.stages FOLDER
"""

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.measure import Figure, measured, print_figures
from k2lib.client import choose_kafka
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.kafka import consumer, producer
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.topics import create_topics
from k2lib.schema.codec import decode, encode
from k2lib.schema.records import TRADE
from k2lib.settings import Settings, read_settings
from k2lib.venues.asx.files import find_files, read_file
from k2lib.venues.asx.reference import read_reference

TOPIC = "market.equities.trades.stages"


def stages(folder: str) -> list[Figure]:
    """Measure csv, encode, produce, consume, decode, write and commit, one after the other."""
    kafka = choose_kafka(read_settings())
    assert kafka.cluster is not None
    figures = [_csv(folder)]
    rows = pa.concat_tables(_rows(folder))
    with measured("encode by column", rows.num_rows) as figure:
        batches = rows.to_batches(max_chunksize=producer.SLICE_ROWS)
        values = [value for batch in batches for value in encode(batch, TRADE, schema_id=1)]
    figures.append(figure)
    keys = rows["symbol"].cast(pa.binary()).to_pylist()
    figures.append(_produce(kafka.cluster, keys, values))
    figures.append(_consume(kafka.cluster, len(values)))
    with measured("decode by column", len(values)) as figure:
        for begin in range(0, len(values), consumer.MAX_RECORDS):
            decode(values[begin : begin + consumer.MAX_RECORDS], TRADE, writer=lambda _: TRADE.text)
    return [*figures, figure, *_write(rows)]


def _rows(folder: str) -> list[pa.Table]:
    reference = read_reference(Path(folder) / "reference-data")
    stamp = datetime.now(UTC)
    return [
        batch.rows
        for file in find_files([Path(folder) / "trades"])
        for batch in read_file(file, reference.instrument(file.company_id), ingested=stamp)
    ]


def _csv(folder: str) -> Figure:
    with measured("CSV → v2 rows") as figure:
        figure.rows = sum(rows.num_rows for rows in _rows(folder))
    return figure


def _produce(cluster: Cluster, keys: list[bytes], values: list[bytes]) -> Figure:
    create_topics(cluster.admin(), [TOPIC])
    client = Producer(cluster.client() | producer.OPTIONS)
    with measured("raw produce of the same bytes", len(values)) as figure:
        for key, value in zip(keys, values, strict=True):
            while len(client) > producer.QUEUE_MESSAGES:
                client.poll(0.05)
            client.produce(TOPIC, value, key)
        client.flush()
    return figure


def _consume(cluster: Cluster, rows: int) -> Figure:
    client = Consumer(cluster.client() | consumer.OPTIONS)
    client.assign([TopicPartition(TOPIC, number, 0) for number in range(4)])
    consumed = 0
    with measured("raw consume", rows) as figure:
        while consumed < rows:
            consumed += len([one.value() for one in client.consume(consumer.MAX_RECORDS, 1.0)])
    client.close()
    return figure


def _write(rows: pa.Table) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="k2-bench-") as name:
        folder = Path(name)
        with measured("pyarrow Parquet write, zstd", rows.num_rows) as written:
            pq.write_table(rows, folder / "rows.parquet", compression="zstd")
        table = ensure_table(open_catalog(Settings(home=folder)), TABLES["trades_v2"])
        with measured("bare commits, one each 2 s", rows.num_rows) as committed:
            for _ in range(_commits(rows.num_rows)):
                transaction: Any = table.transaction()
                with transaction.update_snapshot().fast_append():
                    pass
                transaction.commit_transaction()
    return [written, committed]


def _commits(rows: int) -> int:
    """As many as the sink makes: one for every 400,000 rows."""
    return -(-rows // Settings().commit_rows)


if __name__ == "__main__":
    print_figures(*stages(sys.argv[1]))

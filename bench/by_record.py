"""The documented way, a dict per row: confluent's serializers, and Arrow from a list of dicts.

This is what a reader of the clients' documentation writes: csv, Decimal, uuid5, AvroSerializer,
produce, poll, AvroDeserializer, `pa.Table.from_pylist`, `table.append`.
Run: python -m bench.by_record load FOLDER ROWS | python -m bench.by_record sink ROWS
"""

import csv
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bench.measure import Figure, measured, print_figures
from k2lib.client import choose_kafka
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.kafka.topics import create_topics
from k2lib.schema.records import TRADE
from k2lib.settings import read_settings

TOPIC = "market.equities.trades.by_record"
BATCH = 50_000
WAIT_S = 30.0
SYDNEY = ZoneInfo("Australia/Sydney")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")


def trades(folder: str) -> Iterator[dict[str, Any]]:
    """Read the trades files of a folder, a dict a row."""
    with (Path(folder) / "reference-data" / "company_info.csv").open(newline="") as lines:
        companies = {line["company_id"]: line for line in csv.DictReader(lines)}
    for path in sorted((Path(folder) / "trades").glob("*.csv")):
        company = companies[path.stem]
        copies: Counter[str] = Counter()
        rows_at: Counter[datetime] = Counter()
        with path.open(newline="") as lines:
            for line in csv.reader(lines):
                yield trade(line, company, copies, rows_at)


def trade(
    line: list[str], company: dict[str, str], copies: Counter[str], rows_at: Counter[datetime]
) -> dict[str, Any]:
    """Turn one line into a v2 trade."""
    naive = datetime.strptime(f"{line[0]} {line[1]}", "%m/%d/%Y %H:%M:%S.%f")  # noqa: DTZ007
    local = naive.replace(tzinfo=SYDNEY)
    timestamp = local.astimezone(UTC)
    price, quantity = Decimal(line[2]), Decimal(line[3])
    parts = ["ASX_SIM", company["symbol"], f"{local:%Y-%m-%d}", line[1]]
    parts += [str(int(price * 10**8)), str(int(quantity * 10**8)), *line[4:]]
    text = "|".join(parts)
    message_id = str(uuid.uuid5(NAMESPACE, f"{text}|{copies[text]}"))
    row = {
        "message_id": message_id,
        "trade_id": f"ASX_SIM-{message_id}",
        "symbol": company["symbol"],
        "exchange": "ASX_SIM",
        "asset_class": "equities",
        "timestamp": timestamp,
        "price": price,
        "quantity": quantity,
        "currency": "AUD",
        "side": "UNKNOWN",
        "trade_conditions": [line[4]] if line[4] else [],
        "source_sequence": None,
        "ingestion_timestamp": datetime.now(UTC),
        "platform_sequence": rows_at[timestamp],
        "vendor_data": vendor_data(line, company),
    }
    copies[text] += 1
    rows_at[timestamp] += 1
    return row


def vendor_data(line: list[str], company: dict[str, str]) -> dict[str, str]:
    """Return the fields only this venue has, those that are empty left out."""
    fields = {
        "buyer_id": line[6],
        "company_id": company["company_id"],
        "isin": company["ISIN"],
        "qualifiers": line[4],
        "venue": line[5],
    }
    return {name: text for name, text in fields.items() if text}


def load(folder: str, rows: int) -> Figure:
    """Produce so many rows, one by one."""
    kafka = choose_kafka(read_settings())
    assert kafka.cluster is not None
    serialize = AvroSerializer(SchemaRegistryClient({"url": kafka.registry_url}), TRADE.text)
    producer = Producer(
        kafka.cluster.client()
        | {"enable.idempotence": True, "linger.ms": 20, "compression.type": "lz4"}
    )
    context = SerializationContext(TOPIC, MessageField.VALUE)
    create_topics(kafka.cluster.admin(), [TOPIC])
    with measured("dict way: files → Kafka", rows) as figure:
        for row in islice(trades(folder), rows):
            producer.produce(TOPIC, key=row["symbol"], value=serialize(row, context))
            producer.poll(0)
        producer.flush()
    return figure


def sink(rows: int) -> Figure:
    """Consume so many rows, one by one, and append them in batches."""
    settings = read_settings()
    kafka = choose_kafka(settings)
    assert kafka.cluster is not None
    deserialize = AvroDeserializer(SchemaRegistryClient({"url": kafka.registry_url}))
    consumer = Consumer(
        kafka.cluster.client()
        | {"group.id": "dict-way", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(4)])
    context = SerializationContext(TOPIC, MessageField.VALUE)
    table = ensure_table(open_catalog(settings), TABLES["trades_v2"])
    batch: list[dict[str, Any]] = []
    with measured("dict way: Kafka → lake", rows) as figure:
        for number in range(1, rows + 1):
            message = consumer.poll(WAIT_S)
            if message is None or message.error() is not None:
                raise RuntimeError(f"{TOPIC}: no message {number} of {rows}")
            batch.append(deserialize(message.value(), context))
            if len(batch) == BATCH or number == rows:
                table.append(pa.Table.from_pylist(batch, schema=TRADE.arrow))
                batch = []
    consumer.close()
    return figure


if __name__ == "__main__":
    if sys.argv[1] == "load":
        print_figures(load(sys.argv[2], int(sys.argv[3])))
    else:
        print_figures(sink(int(sys.argv[2])))

"""A replay back into Kafka."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog import Catalog
from support.kafkas import opened
from support.lake_rows import append, at, catalog_in, quote, rows_table, trade
from support.replaying import replay_of
from support.waiting import wait_until

from k2lib.errors import QueryError
from k2lib.kafka.connect import Kafka
from k2lib.kafka.consumer import TopicConsumer
from k2lib.kafka.producer import BatchProducer
from k2lib.kafka.topics import topic_kind
from k2lib.query.engine import Engine
from k2lib.replay import Replay
from k2lib.replay.topic import replay_to_topic
from k2lib.schema.codec import decode
from k2lib.schema.records import GAP, QUOTE, TRADE, RecordSchema

SYMBOLS = ("BHP", "CBA", "MWR")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as made:
        yield made


def of(engine: Engine, *symbols: str, **options: Any) -> Replay:
    return replay_of(engine, symbols or SYMBOLS, start=at(-100), end=at(100_000), **options)


def producer_of(kafka: Kafka) -> BatchProducer:
    return BatchProducer(kafka.cluster, kafka.registry, client=kafka.client)


def read_back(
    kafka: Kafka, topic: str, schema: RecordSchema, count: int
) -> list[tuple[str, dict[str, Any]]]:
    """Return the key and the record of each message of a topic."""
    found: list[tuple[str, dict[str, Any]]] = []
    with TopicConsumer(kafka.cluster) as reader:
        reader.assign({place: 0 for place in reader.partitions(topic)})

        def all_read() -> bool:
            messages = reader.read(0.2)
            rows, refused = decode(messages.values, schema, writer=kafka.registry.text)
            assert refused == []
            keys = [str(message.key(), "utf-8") for message in messages.raw]
            found.extend(zip(keys, rows.to_pylist(), strict=True))
            return len(found) >= count

        wait_until(all_read)
    return found


@pytest.mark.slow
def test_topics_hold_the_rows_of_the_lake(
    catalog: Catalog, engine: Engine, kafka_settings: dict[str, str], tmp_path: Path
) -> None:
    trades = [trade(n, symbol=SYMBOLS[n % 3], vendor_data={"n": str(n)}) for n in range(3_000)]
    quotes = [quote(n, symbol=SYMBOLS[n % 3]) for n in range(0, 3_000, 7)]
    append(catalog, trades)
    append(catalog, quotes, "quotes_v2")
    with opened(kafka_settings, tmp_path) as kafka:
        counts = replay_to_topic(of(engine), producer_of(kafka), topic="replay.test")
        assert counts == {"replay.test.trades": 3_000, "replay.test.quotes": len(quotes)}
        for kind, schema, rows in (("trades", TRADE, trades), ("quotes", QUOTE, quotes)):
            found = read_back(kafka, f"replay.test.{kind}", schema, len(rows))
            expected = rows_table(rows, f"{kind}_v2").to_pylist()
            assert sorted((one for _, one in found), key=lambda one: one["message_id"]) == expected
            assert all(key == one["symbol"] for key, one in found)
            for symbol in SYMBOLS:
                times = [one["timestamp"] for key, one in found if key == symbol]
                assert times == sorted(times)


def test_gaps_have_a_topic_of_their_own(catalog: Catalog, engine: Engine, tmp_path: Path) -> None:
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT"}
    append(catalog, [trade(n, source_sequence=n, **known) for n in (1, 2, 6)])
    with opened({}, tmp_path) as kafka:
        counts = replay_to_topic(of(engine, "BTCUSDT"), producer_of(kafka), topic="replay.g")
        [(key, told)] = read_back(kafka, "replay.g.gaps", GAP, 1)
    assert counts == {"replay.g.trades": 3, "replay.g.gaps": 1}
    assert (key, told["from_id"], told["to_id"], told["state"]) == ("BTCUSDT", 3, 5, "noticed")


@pytest.mark.parametrize("topic", ["market.crypto.trades.binance", "replay.", "other"])
def test_other_topics_are_refused(catalog: Catalog, engine: Engine, topic: str) -> None:
    append(catalog, [trade(1, symbol=symbol) for symbol in SYMBOLS])
    with pytest.raises(QueryError, match=f"topic={topic}: give a name that begins replay"):
        replay_to_topic(of(engine), None, topic=topic)


def test_no_sink_reads_such_a_topic() -> None:
    assert topic_kind("replay.crypto.trades.binance") is None
    assert topic_kind("replay.trades") is None

"""The tail holds what the lake has not, lets go of what it has, and never holds up an answer."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from pyiceberg.catalog import Catalog
from support.feeding import open_session, produce, produce_raw, read_messages, settings_in
from support.kafkas import delete_topics, opened
from support.lake_rows import append, rows_table, trade
from support.log_rows import TRADES_TOPIC, many_trades
from support.waiting import first, wait_until

from k2lib.errors import LossError
from k2lib.iceberg.offsets import render
from k2lib.iceberg.tables import TABLES, ensure_table, load_table, open_catalog
from k2lib.kafka.cluster import KafkaSource
from k2lib.kafka.connect import Kafka
from k2lib.kafka.consumer import HighWatermarks, TopicPartition
from k2lib.kafka.topics import create_topics
from k2lib.query.table_state import NewestTimes, TableState, TableView, step
from k2lib.query.tail import FULL, Tail
from k2lib.query.tail_buffer import TailBuffer
from k2lib.schema.codec import encode
from k2lib.schema.records import TRADE

SPEC = TABLES["trades_v2"]
PLACE = TopicPartition(TRADES_TOPIC, 0)
OTHER_TOPIC = "market.crypto.trades.binance"
PATIENCE_S = 60.0


class Reading:
    """A home with its Kafka, and tails of its trades."""

    def __init__(self, folder: Path, kafka: Kafka, stack: ExitStack) -> None:
        self.settings = settings_in(folder)
        self.catalog = open_catalog(self.settings)
        self.kafka = kafka
        self._stack = stack

    def tail(self, *, options: Mapping[str, Any] | None = None, **limits: Any) -> Tail:
        cluster = replace(self.kafka.cluster, options=options or {})
        source = KafkaSource(cluster, self.kafka.registry.text)
        tail = Tail(
            SPEC,
            source,
            lambda: load_table(self.catalog, "trades_v2"),
            times=NewestTimes(),
            **{"wait_s": PATIENCE_S, **limits},
        )
        return self._stack.enter_context(tail)

    def commit(self, count: int) -> None:
        with open_session(self.kafka, self.settings) as session:
            read_messages(session, count)
            session.commit()


@pytest.fixture
def reading(kafka_settings: dict[str, str], tmp_path: Path) -> Iterator[Reading]:
    with opened(kafka_settings, tmp_path / "home") as kafka, ExitStack() as stack:
        yield Reading(tmp_path, kafka, stack)


@pytest.fixture
def on_services(empty_kafka: dict[str, str], tmp_path: Path) -> Iterator[Reading]:
    with opened(empty_kafka, tmp_path / "home") as kafka, ExitStack() as stack:
        yield Reading(tmp_path, kafka, stack)


def numbers(rows: pa.Table) -> list[int]:
    return sorted(int(one[1:]) for one in rows["message_id"].to_pylist())


def asked(tail: Tail) -> TableView:
    """Ask, until Kafka says where it ends: no answer waits longer than a second for that."""
    return first(tail.view, lambda seen: seen.complete_to.behind is not None)


def complete(seen: TableView) -> bool:
    told = seen.complete_to
    return (told.log, told.behind, told.reason) == (True, 0, None)


def test_rows_leave_the_tail_as_the_lake_takes_them(reading: Reading) -> None:
    produce(reading.kafka, many_trades(10))
    tail = reading.tail()
    assert numbers(asked(tail).rows) == list(range(10))
    reading.commit(10)
    produce(reading.kafka, many_trades(2, first=10))
    seen = asked(tail)
    assert numbers(seen.rows) == [10, 11] and complete(seen)


def test_a_topic_made_later_is_in_the_next_answer(reading: Reading) -> None:
    tail = reading.tail()
    assert complete(asked(tail))
    produce(reading.kafka, many_trades(3), OTHER_TOPIC)
    seen = asked(tail)
    assert numbers(seen.rows) == [0, 1, 2] and complete(seen)


def test_records_that_cannot_be_decoded_are_passed_over(reading: Reading) -> None:
    produce(reading.kafka, many_trades(1))
    produce_raw(reading.kafka, b"broken", b"")
    seen = asked(reading.tail())
    assert numbers(seen.rows) == [0] and complete(seen)


def test_more_than_fits_is_not_held_but_said(reading: Reading) -> None:
    produce(reading.kafka, many_trades(30_000))
    tail = reading.tail(limit_bytes=100_000)
    seen = asked(tail)
    held = seen.rows.num_rows
    assert 0 < held < 30_000
    assert (seen.complete_to.behind, seen.complete_to.reason) == (30_000 - held, FULL)


@pytest.mark.slow
def test_bytes_fetched_do_not_grow_with_the_topic_or_the_answers(reading: Reading) -> None:
    fetched: dict[str, int] = {}

    def told(text: str) -> None:
        statistics = json.loads(text)
        if statistics["type"] == "consumer":
            fetched[statistics["name"]] = statistics["rxmsg_bytes"]

    options = {"statistics.interval.ms": 50, "stats_cb": told}
    sizes = []
    first = 0
    for stored in (100, 20_000):
        produce(reading.kafka, many_trades(stored, first=first))
        reading.commit(stored)
        produce(reading.kafka, many_trades(50, first=first + stored))
        first += stored + 50
        tail = reading.tail(options=options)
        assert asked(tail).rows.num_rows == 50
        wait_until(lambda: fetched)
        assert all(tail.view().rows.num_rows == 50 for _ in range(20))
        fetched.clear()
        wait_until(lambda: fetched)
        sizes.append(max(fetched.values()))
        tail.close()
        fetched.clear()
        reading.commit(50)
    assert 0 < sizes[1] <= sizes[0] * 1.2


def test_a_table_that_went_back_is_followed_there(reading: Reading) -> None:
    produce(reading.kafka, many_trades(4))
    reading.commit(4)
    first = ensure_table(reading.catalog, SPEC).metadata.current_snapshot_id
    produce(reading.kafka, many_trades(4, first=4))
    reading.commit(4)
    produce(reading.kafka, many_trades(1, first=8))
    tail = reading.tail()
    assert numbers(asked(tail).rows) == [8]
    assert first is not None
    table = ensure_table(reading.catalog, SPEC)
    table.manage_snapshots().rollback_to_snapshot(first).commit()
    seen = asked(tail)
    assert numbers(seen.rows) == [4, 5, 6, 7, 8] and seen.snapshot_id == first


def test_an_error_of_the_registry_is_told_and_the_lake_answered(reading: Reading) -> None:
    append(reading.catalog, [trade(1)])
    source = KafkaSource(reading.kafka.cluster, lambda schema_id: json.loads("no schema"))
    produce(reading.kafka, many_trades(1))
    with Tail(
        SPEC,
        source,
        lambda: load_table(reading.catalog, "trades_v2"),
        times=NewestTimes(),
    ) as tail:
        seen = first(tail.view, lambda seen: "Expecting value" in str(seen.complete_to.reason))
        told = seen.complete_to
    assert not told.log and told.time == trade(1)["timestamp"]


def test_a_closed_tail_answers_of_the_lake(reading: Reading) -> None:
    tail = reading.tail()
    tail.close()
    assert not tail.runs
    assert tail.view().complete_to.reason == "the log is no longer read"


@pytest.mark.stack
def test_what_a_deleted_topic_took_is_named_until_the_lake_goes_on(on_services: Reading) -> None:
    produce(on_services.kafka, many_trades(10, symbols=("AAA",)))
    on_services.commit(10)
    produce(on_services.kafka, many_trades(5, first=10, symbols=("AAA",)))
    tail = on_services.tail()
    assert numbers(asked(tail).rows) == list(range(10, 15))
    delete_topics(on_services.kafka.cluster.bootstrap)
    produce(on_services.kafka, many_trades(3, first=20, symbols=("AAA",)))
    seen = first(tail.view, lambda seen: numbers(seen.rows) == [20, 21, 22])
    assert "10 to 14 went with the deleted topic" in str(seen.complete_to.reason)
    on_services.commit(3)
    assert first(tail.view, complete).complete_to.snapshot_id


@pytest.mark.stack
def test_a_topic_deleted_and_made_again_is_read_from_its_beginning(on_services: Reading) -> None:
    produce(on_services.kafka, many_trades(5))
    tail = on_services.tail()
    assert numbers(asked(tail).rows) == [0, 1, 2, 3, 4]
    admin = AdminClient({"bootstrap.servers": on_services.kafka.cluster.bootstrap})
    admin.delete_topics([TRADES_TOPIC])[TRADES_TOPIC].result()
    wait_until(lambda: TRADES_TOPIC not in admin.list_topics(timeout=10).topics)
    create_topics(admin, [TRADES_TOPIC])
    produce(on_services.kafka, many_trades(2, first=10))
    wait_until(lambda: numbers(tail.view().rows) == [10, 11])


@pytest.mark.stack
def test_offsets_that_are_no_records_hold_up_no_answer(on_services: Reading) -> None:
    create_topics(on_services.kafka.cluster.admin(), [TRADES_TOPIC])
    schema_id = on_services.kafka.registry.register(TRADES_TOPIC, TRADE)
    batch = rows_table([trade(1)]).to_batches()[0]
    client = Producer(on_services.kafka.cluster.client() | {"transactional.id": "of a test"})
    client.init_transactions()
    client.begin_transaction()
    client.produce(TRADES_TOPIC, encode(batch, TRADE, schema_id=schema_id)[0], partition=0)
    client.commit_transaction()
    # The broker ends a transaction after it said so.
    marks = HighWatermarks(on_services.kafka.cluster, timeout_s=PATIENCE_S)
    wait_until(lambda: 2 in marks.read(lambda topic: True).values())
    seen = asked(on_services.tail())
    assert numbers(seen.rows) == [1] and complete(seen)


def standing(catalog: Catalog, end: int, *numbers: int) -> TableState:
    """Commit rows of one partition, read up to `end`, as a sink does."""
    offsets = render({"log": {PLACE: (0, end)}})
    table = ensure_table(catalog, SPEC)
    rows = rows_table([trade(number) for number in numbers])
    table.append(rows, snapshot_properties={"k2.offsets": offsets})
    return TableState.of(table)


def hold(held: TailBuffer, *numbers: int, first: int) -> None:
    rows = rows_table([trade(number) for number in numbers])
    at = [(PLACE, first + index) for index in range(len(numbers))]
    held.append(rows, at, {PLACE: first + len(numbers)})


def test_rows_known_by_an_earlier_load_are_not_held(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    with TailBuffer(SPEC, standing(catalog, 2, 1, 5)) as held:
        held.follow(PLACE, "log", 0, 9)
        hold(held, 5, 3, 6, first=2)
        assert numbers(held.rows()) == [3, 6]


def test_what_another_writer_adds_is_looked_for(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    with TailBuffer(SPEC, standing(catalog, 0, 1)) as held:
        held.follow(PLACE, "log", 0, 9)
        hold(held, 2, 3, first=0)
        assert held.advance(TableState.of(append(catalog, [trade(3)])))
        assert numbers(held.rows()) == [2]


def test_what_the_sink_moved_makes_its_doubles_known(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    with TailBuffer(SPEC, standing(catalog, 0, 1)) as held:
        held.follow(PLACE, "log", 0, 9)
        hold(held, 2, 3, 2, first=0)
        assert held.advance(standing(catalog, 1, 2))
        assert numbers(held.rows()) == [3]


def test_what_the_sink_moved_past_the_reading_is_looked_up(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    with TailBuffer(SPEC, standing(catalog, 0, 1)) as held:
        held.follow(PLACE, "log", 0, 9)
        hold(held, 2, first=0)
        assert held.advance(standing(catalog, 3, 2, 3, 7))
        hold(held, 3, 7, 7, 8, first=1)
        assert numbers(held.rows()) == [8]


def test_records_gone_before_the_lake_had_them_are_told(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    with TailBuffer(SPEC, standing(catalog, 2, 1)) as held:
        held.follow(PLACE, "log", 5, 9)
        assert (
            held.lost() == f"{TRADES_TOPIC} partition 0: 2 to 4 left the log before the "
            "lake had them"
        )


def test_a_log_that_was_cut_is_refused(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    with (
        TailBuffer(SPEC, standing(catalog, 7, 1)) as held,
        pytest.raises(LossError, match="ends at 5, but trades_v2 has read up to 7"),
    ):
        held.follow(PLACE, "log", 0, 5)


def test_steps_between_snapshots_tell_who_made_them(tmp_path: Path) -> None:
    catalog = open_catalog(settings_in(tmp_path))
    nothing = TableState.of(None)
    first = standing(catalog, 1, 1)
    second = standing(catalog, 2, 2)
    third = TableState.of(append(catalog, [trade(3)]))
    assert step(nothing, nothing) == step(first, first) == "same"
    assert step(nothing, second) == step(first, second) == "sinks"
    assert step(first, third) == "others"
    assert step(second, first) == step(second, nothing) == "elsewhere"

"""The sink: every record once in its table, and a stop or a dead letter where it cannot be."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from support.feeding import (
    open_session,
    produce,
    produce_raw,
    read_messages,
    running_sink,
    watermarks,
)
from support.kafkas import opened
from support.lake_audit import Audit, audit
from support.log_rows import TRADES_TOPIC, many_trades, message_ids
from support.waiting import wait_until

from k2lib.errors import ConfigError, LossError, SchemaError
from k2lib.events import BatchDone, DeadLettersSent, SinkPaused
from k2lib.iceberg.sink import due_since
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.kafka.connect import Kafka
from k2lib.kafka.topics import DEAD_LETTERS, topic_name
from k2lib.schema.codec import header
from k2lib.schema.records import TRADE
from k2lib.settings import Settings

ONE = ("AAA",)
BINANCE_TOPIC = topic_name("crypto", "trades", "BINANCE_SIM")
NO_RECORD = b"no record at all"


@pytest.fixture
def real_kafka(empty_kafka: dict[str, str], settings: Settings) -> Iterator[Kafka]:
    with opened(empty_kafka, settings.home) as one:
        yield one


def seen(settings: Settings, table: str = "trades_v2") -> Audit:
    found = audit(settings.home, table)
    assert found is not None
    return found


def commit_one(kafka: Kafka, settings: Settings, count: int, **options: Any) -> None:
    """Read so many messages and commit them."""
    with open_session(kafka, settings, **options) as session:
        read_messages(session, count)
        session.commit()


def cut_log(kafka: Kafka, before: int, *, topic: str = TRADES_TOPIC) -> int:
    """Delete the records before an offset from the one partition that has any; return which."""
    partition = [high > 0 for _, high in watermarks(kafka, topic)].index(True)
    admin = kafka.cluster.admin()
    admin.delete_records([TopicPartition(topic, partition, before)])
    wait_until(lambda: watermarks(kafka, topic)[partition][0] == before)
    return partition


def make_anew(kafka: Kafka, count: int, *, first: int) -> None:
    """Delete the topic and fill it again."""
    admin = kafka.cluster.admin()
    admin.delete_topics([TRADES_TOPIC])[TRADES_TOPIC].result()
    wait_until(lambda: TRADES_TOPIC not in admin.list_topics(timeout=10).topics)
    produce(kafka, many_trades(count, first=first))


def test_rows_land_once_and_offsets_end_at_the_watermarks(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(3_000))
    with running_sink(kafka, settings) as running:
        running.wait(lambda: running.added() == 3_000)
    assert seen(settings).column() == message_ids(3_000)
    highs = [high for _, high in watermarks(kafka)]
    assert sorted(seen(settings).ends().values()) == sorted(high for high in highs if high)
    seen(settings).assert_contiguous()


def test_a_steady_flow_is_committed_once_an_interval_however_long_a_commit_takes() -> None:
    assert due_since(11.5, 10.0, interval_s=2.0) == 10.0
    assert due_since(12.0, 10.0, interval_s=2.0) == 12.0
    assert due_since(5.0, float("-inf"), interval_s=2.0) == 5.0


def test_a_commit_holds_no_more_than_its_rows(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(2_100))
    with running_sink(kafka, settings, interval_s=600, max_rows=700) as running:
        running.wait(lambda: running.added() == 2_100)
    assert [batch.added for batch in running.named(BatchDone)] == [700, 700, 700]


def test_a_commit_waits_no_longer_than_its_interval(kafka: Kafka, settings: Settings) -> None:
    with running_sink(kafka, settings, interval_s=0.2) as running:
        for number in range(2):
            produce(kafka, many_trades(10, first=number * 10))
            running.sink.discover.set()
            running.wait(lambda wanted=number * 10 + 10: running.added() == wanted)
    assert len(running.named(BatchDone)) >= 2


@pytest.mark.slow
def test_topics_of_several_venues_and_a_later_one_feed_one_table(
    kafka: Kafka, settings: Settings
) -> None:
    produce(kafka, many_trades(100))
    with running_sink(kafka, settings) as running:
        running.wait(lambda: running.added() == 100)
        produce(kafka, many_trades(50, first=100, exchange="BINANCE_SIM"), BINANCE_TOPIC)
        running.sink.discover.set()
        running.wait(lambda: running.added() == 150)
    exchanges = seen(settings).column("exchange")
    assert (exchanges.count("ASX_SIM"), exchanges.count("BINANCE_SIM")) == (100, 50)
    assert {tp[1] for tp in seen(settings).ends()} == {TRADES_TOPIC, BINANCE_TOPIC}


def test_a_second_sink_begins_where_the_first_ended(kafka: Kafka, settings: Settings) -> None:
    for number in range(3):
        produce(kafka, many_trades(100, first=100 * number))
        commit_one(kafka, settings, 100)
    assert seen(settings).column() == message_ids(300)
    seen(settings).assert_contiguous()


def test_the_same_records_again_add_nothing(kafka: Kafka, settings: Settings) -> None:
    for _ in range(2):
        produce(kafka, many_trades(100))
        commit_one(kafka, settings, 100)
    assert seen(settings).column() == message_ids(100)


def test_what_cannot_be_decoded_is_a_dead_letter_and_its_neighbours_land(
    kafka: Kafka, settings: Settings
) -> None:
    produce(kafka, many_trades(100))
    schema_id = kafka.registry.register(TRADES_TOPIC, TRADE)
    kafka.registry.patience_s = 0.0
    produce_raw(kafka, NO_RECORD, header(schema_id) + b"\x02", header(987_654) + b"\x02")
    commit_one(kafka, settings, 103)
    assert seen(settings).column() == message_ids(100)
    commit_one(kafka, settings, 3, table="dead_letters")
    letters = seen(settings, "dead_letters")
    assert NO_RECORD in letters.column("raw")
    assert letters.column("source") == [TRADES_TOPIC] * 3
    assert letters.column("reason") == ["undecodable"] * 3


def test_a_dead_letter_is_acknowledged_before_its_sink_commits(
    kafka: Kafka, settings: Settings
) -> None:
    produce(kafka, many_trades(10))
    produce_raw(kafka, NO_RECORD)
    letters_then: list[int] = []

    def count_letters(event: object) -> None:
        if getattr(event, "name", "") == "files_written":
            letters_then.append(sum(high for _, high in watermarks(kafka, DEAD_LETTERS)))

    commit_one(kafka, settings, 11, on_event=count_letters)
    assert letters_then == [1]


@pytest.mark.slow
def test_a_dead_letter_found_again_is_one_row(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(10))
    produce_raw(kafka, NO_RECORD)
    with (
        open_session(kafka, settings) as first,
        open_session(kafka, settings) as second,
    ):
        read_messages(first, 11)
        read_messages(second, 11)
        first.commit()
        with pytest.raises(Exception, match="another writer"):
            second.commit()
    commit_one(kafka, settings, 2, table="dead_letters")
    assert len(seen(settings, "dead_letters").column()) == 1


@pytest.mark.parametrize("topic", [DEAD_LETTERS, "market.gaps"])
def test_what_cannot_be_decoded_stops_a_sink_that_has_nowhere_to_put_it(
    kafka: Kafka, settings: Settings, topic: str
) -> None:
    produce_raw(kafka, NO_RECORD, topic=topic)
    with running_sink(kafka, settings, topic.removeprefix("market.")) as running:
        wait_until(lambda: running.errors)
    assert isinstance(running.errors[0], SchemaError)
    assert f"{topic} 0:0 cannot be decoded" in str(running.errors[0])


@pytest.mark.stack
def test_a_cut_log_stops_the_sink_and_names_what_is_gone(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100, symbols=ONE))
    commit_one(real_kafka, settings, 100)
    produce(real_kafka, many_trades(100, first=100, symbols=ONE))
    partition = cut_log(real_kafka, before=150)
    with running_sink(real_kafka, settings) as running:
        wait_until(lambda: running.errors)
    assert isinstance(running.errors[0], LossError)
    assert f"partition {partition}: offsets 100 to 149 left the log" in str(running.errors[0])
    assert seen(settings).column() == message_ids(100)


@pytest.mark.stack
def test_an_accepted_loss_is_recorded_and_the_sink_goes_on(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100, symbols=ONE))
    commit_one(real_kafka, settings, 100)
    produce(real_kafka, many_trades(100, first=100, symbols=ONE))
    partition = cut_log(real_kafka, before=150)
    with running_sink(real_kafka, settings, accept_loss=True) as running:
        running.wait(lambda: running.added() == 50)
    assert seen(settings).column() == message_ids(100) + message_ids(50, first=150)
    commit_one(real_kafka, settings, 1, table="dead_letters")
    letters = seen(settings, "dead_letters")
    assert letters.column("position") == [f"{partition}:100-149"]
    assert letters.column("reason") == ["lost"]


@pytest.mark.stack
def test_an_accepted_loss_is_recorded_though_nothing_follows_it(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100, symbols=ONE))
    commit_one(real_kafka, settings, 60)
    cut_log(real_kafka, before=100)
    for _ in range(2):
        with running_sink(real_kafka, settings, accept_loss=True) as running:
            wait_until(lambda: 100 in seen(settings).ends().values())
    assert not running.errors
    commit_one(real_kafka, settings, 1, table="dead_letters")
    assert len(seen(settings, "dead_letters").column()) == 1


@pytest.mark.stack
def test_a_log_shorter_than_the_table_has_read_is_an_error(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100, symbols=ONE))
    commit_one(real_kafka, settings, 100)
    (log, topic, partition), _ = next(
        item for item in seen(settings).ends().items() if item[1] == 100
    )
    further = json.dumps({log: {topic: {partition: [100, 140]}}})
    table = ensure_table(open_catalog(settings), TABLES["trades_v2"])
    table.append(TRADE.arrow.empty_table(), snapshot_properties={"k2.offsets": further})
    with (
        open_session(real_kafka, settings) as session,
        pytest.raises(LossError, match="ends at 100, but the table has read up to 140"),
    ):
        session.follow_topics()


@pytest.mark.stack
def test_a_topic_made_anew_is_read_from_its_beginning(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100))
    commit_one(real_kafka, settings, 100)
    make_anew(real_kafka, 100, first=40)
    commit_one(real_kafka, settings, 100)
    assert seen(settings).column() == message_ids(140)


@pytest.mark.stack
def test_a_topic_made_anew_under_a_running_sink_is_read_from_its_beginning(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100))
    with running_sink(real_kafka, settings) as running:
        running.wait(lambda: running.added() == 100)
        make_anew(real_kafka, 200, first=0)
        running.sink.discover.set()
        running.wait(lambda: running.added() == 200)
    assert seen(settings).column() == message_ids(200)


@pytest.mark.stack
def test_what_was_read_of_a_topic_made_anew_lands_as_the_former_logs(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100))
    with open_session(real_kafka, settings) as session:
        read_messages(session, 100)
        make_anew(real_kafka, 200, first=60)
        with pytest.raises(Exception, match="deleted and made again"):
            session.follow_topics()
    commit_one(real_kafka, settings, 200)
    assert seen(settings).column() == message_ids(260)


@pytest.mark.stack
def test_records_that_went_with_a_deleted_topic_are_named(
    real_kafka: Kafka, settings: Settings
) -> None:
    produce(real_kafka, many_trades(100, symbols=ONE))
    commit_one(real_kafka, settings, 60)
    make_anew(real_kafka, 50, first=200)
    for _ in range(2):
        with running_sink(real_kafka, settings) as running:
            wait_until(lambda: running.errors)
        assert isinstance(running.errors[0], LossError)
        assert "offsets 60 to 99 went with the deleted topic" in str(running.errors[0])
    assert seen(settings).column() == message_ids(60)
    with running_sink(real_kafka, settings, accept_loss=True) as running:
        running.wait(lambda: running.added() == 50)
    with running_sink(real_kafka, settings) as running:
        produce(real_kafka, many_trades(10, first=250))
        running.wait(lambda: running.added() == 10)
    assert seen(settings).column() == message_ids(60) + message_ids(60, first=200)
    commit_one(real_kafka, settings, 1, table="dead_letters")
    letters = seen(settings, "dead_letters")
    assert [one.partition(":")[2] for one in letters.column("position")] == ["60-99"]
    assert letters.column("reason") == ["lost"]


def test_after_a_rollback_the_sink_reads_again_and_the_table_is_exact(
    kafka: Kafka, settings: Settings
) -> None:
    for number in range(3):
        produce(kafka, many_trades(100, first=100 * number))
        commit_one(kafka, settings, 100)
    table = ensure_table(open_catalog(settings), TABLES["trades_v2"])
    oldest = min(table.snapshots(), key=lambda one: one.sequence_number or 0)
    table.manage_snapshots().rollback_to_snapshot(oldest.snapshot_id).commit()
    assert seen(settings).column() == message_ids(100)
    commit_one(kafka, settings, 200)
    assert seen(settings).column() == message_ids(300)


@pytest.mark.slow
def test_a_rollback_under_a_running_sink_is_made_good(kafka: Kafka, settings: Settings) -> None:
    with running_sink(kafka, settings) as running:
        for number in range(2):
            produce(kafka, many_trades(100, first=100 * number))
            running.wait(lambda wanted=100 * number + 100: running.added() == wanted)
        table = ensure_table(open_catalog(settings), TABLES["trades_v2"])
        oldest = min(table.snapshots(), key=lambda one: one.sequence_number or 0)
        table.manage_snapshots().rollback_to_snapshot(oldest.snapshot_id).commit()
        produce(kafka, many_trades(100, first=200))
        running.wait(lambda: len(seen(settings).column()) == 300)
    assert seen(settings).column() == message_ids(300)


@pytest.mark.slow
def test_an_outage_of_the_catalog_pauses_the_sink_and_loses_nothing(
    kafka: Kafka, settings: Settings
) -> None:
    ensure_table(open_catalog(settings), TABLES["trades_v2"])
    catalog_uri = f"sqlite:///{settings.home / 'catalog.db'}?timeout=0.2"
    impatient = Settings(home=settings.home, catalog_uri=catalog_uri)
    with running_sink(kafka, impatient) as running:
        with closing(sqlite3.connect(settings.home / "catalog.db", timeout=60)) as other:
            other.execute("begin exclusive")
            produce(kafka, many_trades(500))
            running.wait(lambda: str(running.named(SinkPaused)).count("locked") >= 2)
        running.wait(lambda: running.added() == 500)
    assert seen(settings).column() == message_ids(500)


@pytest.mark.slow
def test_a_dead_letter_that_an_outage_makes_a_sink_send_again_is_counted_once(
    kafka: Kafka, settings: Settings
) -> None:
    ensure_table(open_catalog(settings), TABLES["trades_v2"])
    catalog_uri = f"sqlite:///{settings.home / 'catalog.db'}?timeout=0.2"
    with running_sink(kafka, Settings(home=settings.home, catalog_uri=catalog_uri)) as running:
        wait_until(lambda: running.sink.has_begun)
        with closing(sqlite3.connect(settings.home / "catalog.db", timeout=60)) as other:
            other.execute("begin exclusive")
            produce_raw(kafka, NO_RECORD)
            running.sink.discover.set()
            running.wait(lambda: running.named(DeadLettersSent) and running.named(SinkPaused))
        running.wait(lambda: running.named(BatchDone))
    assert [one.dead_letters for one in running.named(BatchDone)] == [1]
    assert [one.count for one in running.named(DeadLettersSent)] == [1]


def test_a_table_that_would_commit_again_by_itself_stops_the_sink(
    kafka: Kafka, settings: Settings
) -> None:
    table = ensure_table(open_catalog(settings), TABLES["trades_v2"])
    with table.transaction() as transaction:
        transaction.set_properties({"commit.retry.num-retries": "1"})
    with running_sink(kafka, settings) as running:
        wait_until(lambda: running.errors)
    assert isinstance(running.errors[0], ConfigError)


def test_a_sink_waits_while_another_feeds_its_table(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(100))
    with running_sink(kafka, settings) as first:
        first.wait(lambda: first.added() == 100)
        with running_sink(kafka, settings) as second:
            produce(kafka, many_trades(100, first=100))
            first.wait(lambda: first.added() == 200)
            assert not second.events
            first.stop.set()
            produce(kafka, many_trades(100, first=200))
            second.wait(lambda: first.added() + second.added() == 300)
    assert seen(settings).column() == message_ids(300)


def test_sinks_of_one_table_that_share_no_lock_do_no_harm(
    kafka: Kafka, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = Settings(
        home=tmp_path / "elsewhere",
        catalog_uri=f"sqlite:///{settings.home / 'catalog.db'}",
        warehouse=f"file://{settings.home / 'warehouse'}",
    )
    ensure_table(open_catalog(settings), TABLES["trades_v2"])
    with (
        running_sink(kafka, settings, interval_s=0.05) as first,
        running_sink(kafka, elsewhere, interval_s=0.05) as second,
    ):
        for number in range(5):
            produce(kafka, many_trades(200, first=200 * number))
            first.sink.discover.set()
            second.sink.discover.set()
        first.wait(lambda: len(seen(settings).column()) >= 1_000)
    assert not first.errors and not second.errors
    assert seen(settings).column() == message_ids(1_000)

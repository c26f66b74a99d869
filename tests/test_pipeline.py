"""The pipeline: a record counts once the lake has it, and what is missing is told."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from support.feeding import produce, settings_in, watermarks
from support.kafkas import opened
from support.lake_audit import audit
from support.log_rows import TRADES_TOPIC, many_trades, message_ids
from support.paths import SUPPORT
from support.waiting import wait_until

from k2lib.errors import ConfigError, TransientError
from k2lib.events import Event, SinkPaused
from k2lib.iceberg.sink import lock_path
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.kafka.cluster import Cluster
from k2lib.locks import lock_holder, try_lock
from k2lib.pipeline import Pipeline, Target
from k2lib.schema.records import TRADE
from k2lib.settings import Settings

SINK = SUPPORT / "kill_sink.py"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, commit_interval_s=0.5)


def target_of(kafka_settings: Mapping[str, str]) -> Target:
    if not kafka_settings:
        return Target("embedded")
    cluster = Cluster(kafka_settings["kafka_bootstrap"])
    return Target("yours", cluster, kafka_settings["schema_registry_url"])


def open_pipeline(
    settings: Settings, kafka_settings: Mapping[str, str], **options: Any
) -> Pipeline:
    catalog = open_catalog(settings)
    return Pipeline(catalog, settings=settings, target=target_of(kafka_settings), **options)


@pytest.fixture
def pipeline(settings: Settings, kafka_settings: dict[str, str]) -> Iterator[Pipeline]:
    with open_pipeline(settings, kafka_settings) as one:
        yield one


def stored(settings: Settings) -> list[str]:
    found = audit(settings.home)
    return found.column() if found else []


def test_after_settling_the_lake_has_all_of_it(pipeline: Pipeline, settings: Settings) -> None:
    for first in (0, 1_000):
        pipeline.produce(TRADES_TOPIC, many_trades(1_000, first=first), TRADE)
        pipeline.settle()
        assert stored(settings) == message_ids(first + 1_000)


def test_closing_settles(settings: Settings, kafka_settings: dict[str, str]) -> None:
    with open_pipeline(settings, kafka_settings) as pipeline:
        pipeline.produce(TRADES_TOPIC, many_trades(1_000), TRADE)
    assert stored(settings) == message_ids(1_000)


def test_nothing_produced_is_nothing_to_wait_for(pipeline: Pipeline) -> None:
    pipeline.produce(TRADES_TOPIC, TRADE.arrow.empty_table(), TRADE)
    pipeline.settle()


def test_settling_tells_what_is_missing(settings: Settings, kafka_settings: dict[str, str]) -> None:
    other_sink = try_lock(lock_path(settings.home / "run", "trades_v2"))
    assert other_sink is not None
    with open_pipeline(settings, kafka_settings) as pipeline:
        pipeline.produce(TRADES_TOPIC, many_trades(10, symbols=("AAA",)), TRADE)
        with other_sink, pytest.raises(TransientError) as told:
            pipeline.settle(0.2)
        assert f"after 0.2 s without progress: 10 records of {TRADES_TOPIC}" in str(told.value)
    assert stored(settings) == message_ids(10)


def test_half_a_window_on_the_sink_is_asked_not_to_wait_for_its_interval(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, commit_interval_s=600)
    with open_pipeline(settings, {}) as pipeline:
        pipeline.produce(TRADES_TOPIC, many_trades(10_000), TRADE)
        wait_until(lambda: len(stored(settings)) > 0)
    assert stored(settings) == message_ids(10_000)


def test_dead_letters_of_the_sinks_are_waited_for(pipeline: Pipeline, settings: Settings) -> None:
    pipeline.produce(TRADES_TOPIC, many_trades(10), TRADE)
    client = Producer(pipeline.cluster.client())
    client.produce(TRADES_TOPIC, b"no record", partition=0)
    assert client.flush(30) == 0
    pipeline.settle()
    letters = audit(settings.home, "dead_letters")
    assert letters is not None and letters.column("raw") == [b"no record"]


@pytest.mark.slow
def test_settling_outlasts_an_outage_of_the_catalog(
    settings: Settings, kafka_settings: dict[str, str]
) -> None:
    paused: list[type[Event]] = []
    impatient = Settings(
        **{
            **settings.model_dump(),
            "catalog_uri": f"sqlite:///{settings.home}/catalog.db?timeout=0.2",
        }
    )
    for spec in TABLES.values():
        ensure_table(open_catalog(settings), spec)
    with open_pipeline(impatient, kafka_settings, on_event=lambda e: paused.append(type(e))) as one:
        one.produce(TRADES_TOPIC, many_trades(10), TRADE)
        one.settle()
        with closing(sqlite3.connect(settings.home / "catalog.db", timeout=60)) as other:
            other.execute("begin exclusive")
            one.produce(TRADES_TOPIC, many_trades(10, first=10), TRADE)
            with pytest.raises(TransientError, match="not in the lake"):
                one.settle(1.0)
            wait_until(lambda: SinkPaused in paused)
    assert stored(settings) == message_ids(20)


def test_an_embedded_broker_without_sinks_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="without sinks the embedded broker loses all"):
        open_pipeline(settings, {}, with_sinks=False)


@pytest.mark.stack
def test_without_sinks_closing_waits_for_kafka_alone(
    settings: Settings, empty_kafka: dict[str, str]
) -> None:
    with open_pipeline(settings, empty_kafka, with_sinks=False) as pipeline:
        pipeline.produce(TRADES_TOPIC, many_trades(1_000), TRADE)
    with opened(empty_kafka, settings.home) as kafka:
        assert sum(high for _, high in watermarks(kafka)) == 1_000
    assert stored(settings) == []
    [topics] = json.loads((settings.home / "run" / "log-ends.json").read_text()).values()
    assert sum(topics[TRADES_TOPIC].values()) == 1_000


@pytest.mark.stack
def test_a_partition_whose_records_expired_unread_is_not_waited_for(
    settings: Settings, empty_kafka: dict[str, str]
) -> None:
    with opened(empty_kafka, settings.home) as kafka:
        produce(kafka, many_trades(100))
        ends = [high for _, high in watermarks(kafka)]
        everything = [TopicPartition(TRADES_TOPIC, *end) for end in enumerate(ends)]
        admin = kafka.cluster.admin()
        for done in admin.delete_records(everything).values():
            done.result()
    with open_pipeline(settings, empty_kafka) as pipeline:
        pipeline.produce(TRADES_TOPIC, many_trades(10, first=100, symbols=("AAA",)), TRADE)
        pipeline.settle()
    assert stored(settings) == message_ids(10, first=100)


@contextmanager
def sink_process(settings: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    arguments = json.dumps({"settings": settings, "event": "", "nth": 0})
    with subprocess.Popen([sys.executable, SINK, arguments]) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.stack
def test_of_two_processes_with_sinks_one_feeds_and_the_other_takes_over(
    settings: Settings, empty_kafka: dict[str, str]
) -> None:
    lock = lock_path(settings.home / "run", "trades_v2")
    named = {"home": str(settings.home), "commit_interval_s": 0.2, **empty_kafka}
    with ExitStack() as stack, opened(empty_kafka, settings.home) as kafka:
        produce(kafka, many_trades(500))
        children = {}
        for child in (stack.enter_context(sink_process(named)) for _ in range(2)):
            children[child.pid] = child
        wait_until(lambda: len(stored(settings)) == 500)
        holder = lock_holder(lock)
        children.pop(holder or 0).kill()
        produce(kafka, many_trades(500, first=500))
        wait_until(lambda: len(stored(settings)) >= 1_000)
        assert lock_holder(lock) in children
    assert stored(settings) == message_ids(1_000)

"""The seam: whatever is produced, committed, loaded again or tidied, answers hold each row once."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.feeding import produce, produce_raw, running_sink, settings_in
from support.lake_rows import at, rows_table, trade
from support.lake_upkeep import Clock
from support.log_rows import TRADES_TOPIC, many_trades
from support.waiting import first

from k2lib.errors import TransientError
from k2lib.events import CommitDone
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.sink_session import SinkSession
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.cluster import KafkaSource
from k2lib.kafka.consumer import TopicConsumer, TopicPartition
from k2lib.kafka.embedded import EmbeddedBroker
from k2lib.kafka.log_ends import LogEnds
from k2lib.query.answer import ReadResult
from k2lib.query.engine import Engine
from k2lib.schema.codec import encode
from k2lib.schema.records import TRADE

READS = 500
PARTITIONS = 4
TRADES = TABLES["trades_v2"]
ALL = "SELECT message_id, ingestion_timestamp AS copy FROM trades_v2 ORDER BY timestamp, message_id"
OPERATIONS = {
    "produce": 40,
    "read": 40,
    "commit": 4,
    "reload": 4,
    "late": 4,
    "foreign": 0.4,
    "compact": 0.2,
    "expire": 0.2,
    "restart": 0.3,
}


def row(number: int, copy: int = 0) -> dict[str, Any]:
    """A trade of one of four instruments, two of which are counted; each copy can be told apart."""
    instrument = number % 4
    counted = instrument % 2 == 1
    return trade(
        number,
        symbol=f"S{instrument}",
        exchange="BINANCE" if counted else "ASX",
        source_sequence=number if counted else None,
        ingestion_timestamp=at(copy),
    )


@dataclass
class Log:
    """What a brute-force reader would keep of one log: every record of every partition."""

    records: dict[int, list[tuple[int, int]]] = field(
        default_factory=lambda: {partition: [] for partition in range(PARTITIONS)}
    )
    read: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS), 0))

    def unread(self) -> int:
        """Count the records that no commit has."""
        return sum(len(some) - self.read[one] for one, some in self.records.items())


class World:
    """A lake, a broker, a sink step by step, and the list that every answer must equal."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.settings = settings_in(folder)
        self.catalog = open_catalog(self.settings)
        self.engine = Engine(self.catalog, find_log=self.find_log)
        self.clock = Clock()
        self.stored: dict[int, set[int]] = {}
        self.numbers: list[int] = []
        self.copies = 0
        self.next = 0
        self.broker: EmbeddedBroker | None = None
        self.stack = ExitStack()
        self.start()

    def find_log(self) -> KafkaSource:
        if self.broker is None:
            raise TransientError("between two brokers")
        return KafkaSource(self.broker.cluster, self.broker.registry.text)

    def start(self) -> None:
        self.log = Log()
        self.broker = EmbeddedBroker(self.settings.home)
        self.schema_id = self.broker.registry.register(TRADES_TOPIC, TRADE)
        self.begin_sink()

    def begin_sink(self) -> None:
        assert self.broker is not None
        self.stack.close()
        self.writer = TableWriter(
            ensure_table(self.catalog, TRADES), TRADES, on_event=lambda event: None
        )
        self.session = SinkSession(
            TRADES,
            self.writer,
            self.stack.enter_context(TopicConsumer(self.broker.cluster)),
            cluster=self.broker.cluster,
            registry=self.broker.registry,
            log_ends=LogEnds(self.settings.home / "run"),
            accept_loss=False,
            sent_letters=set(),
            on_event=lambda event: None,
        )

    def close(self) -> None:
        self.engine.leave_log()
        self.stack.close()
        assert self.broker is not None
        self.broker.close()
        self.engine.close()

    def send(self, numbers: list[int], *, partition: int | None = None) -> None:
        assert self.broker is not None
        for number in numbers:
            self.copies += 1
            to = number % PARTITIONS if partition is None else partition
            batch = rows_table([row(number, self.copies)]).to_batches()[0]
            value = encode(batch, TRADE, schema_id=self.schema_id)[0]
            self.broker.client.produce(TRADES_TOPIC, value=value, partition=to)  # type: ignore[union-attr]
            self.log.records[to].append((number, self.copies))
        produce_raw(self.broker)

    def produce(self) -> None:
        count = self.draw.randint(1, 4)
        gap = self.draw.choice([0, 0, 0, 3])
        numbers = list(range(self.next + gap, self.next + gap + count))
        self.next = numbers[-1] + 1
        self.numbers += numbers
        self.send(numbers)

    def late(self) -> None:
        """A number below the newest, perhaps never seen, perhaps in another partition too."""
        number = self.draw.randrange(self.next + 1)
        self.next = max(self.next, number + 1)
        self.numbers.append(number)
        self.send([number], partition=self.draw.choice([None, number % 3]))

    def reload(self) -> None:
        if self.numbers:
            first = self.draw.randrange(len(self.numbers))
            self.send(self.numbers[first : first + self.draw.randint(1, 8)])

    def commit(self) -> None:
        unread = self.log.unread()
        if not unread:
            return
        self.session.follow_topics()
        wanted = self.draw.randint(1, unread)
        while self.session.pending.n_records < wanted:
            self.session.read(0.2, limit=wanted - self.session.pending.n_records)
        ends = {place.partition: end for place, (_, end) in self.session.pending.read.items()}
        self.session.commit()
        moved: dict[int, set[int]] = {}
        for partition, end in ends.items():
            for number, copy in self.log.records[partition][self.log.read[partition] : end]:
                moved.setdefault(number, set()).add(copy)
            self.log.read[partition] = end
        self.stored = {**moved, **self.stored}

    def foreign(self) -> None:
        """Another writer appends rows; the sink begins again at the table, as it does then."""
        numbers = {self.draw.randrange(self.next + 5) for _ in range(3)} - self.stored.keys()
        if numbers and not self.session.pending.read:
            self.copies += 1
            rows = [row(number, self.copies) for number in sorted(numbers)]
            self.writer.table.append(rows_table(rows))
            self.stored |= {number: {self.copies} for number in numbers}
            self.begin_sink()

    def compact(self) -> None:
        self._maintain()

    def expire(self) -> None:
        self.clock.advance(days=31)
        self._maintain()

    def _maintain(self) -> None:
        state = self.settings.home / "run" / "unreferenced.json"
        Maintenance(TRADES, state=state, now=self.clock).run_now(self.writer.table)

    def restart(self) -> None:
        """What is not in the lake dies with the process of the embedded broker."""
        broker, self.broker = self.broker, None
        assert broker is not None
        self.check()
        self.stack.close()
        broker.close()
        self.log = Log()
        self.check()
        self.start()

    def expected(self) -> dict[int, set[int]]:
        """Every number, with the copies of which one is the first: several by partition."""
        if self.broker is None:
            return self.stored
        found: dict[int, set[int]] = {}
        for partition, records in self.log.records.items():
            first: dict[int, int] = {}
            for number, copy in records[self.log.read[partition] :]:
                first.setdefault(number, copy)
            for number, copy in first.items():
                found.setdefault(number, set()).add(copy)
        return {**found, **self.stored}

    def read(self) -> None:
        self.check()

    def check(self) -> None:
        """Compare an answer with the list."""
        expected = self.expected()
        answer = first(lambda: self.engine.run_sql(ALL), lambda one: not self.broker or whole(one))
        told = answer.complete_to["trades_v2"]
        assert answer.frame["message_id"].to_list() == [f"m{n:06d}" for n in sorted(expected)]
        copies = dict(zip(sorted(expected), answer.frame["copy"], strict=True))
        wrong = {n: c for n, c in copies.items() if (c - at(0)).seconds not in expected[n]}
        assert not wrong
        if self.broker is None:
            assert told.reason == "between two brokers" and not told.log
        else:
            assert (told.reason, told.behind) == (None, 0)
            self._check_offsets(told.offsets)

    def _check_offsets(self, offsets: Any) -> None:
        assert self.broker is not None
        ends = offsets.get(self.broker.cluster.embedded_log, {})
        for partition, records in self.log.records.items():
            assert ends.get(TopicPartition(TRADES_TOPIC, partition), 0) == len(records)


def whole(answer: ReadResult) -> bool:
    """Say whether an answer has what Kafka has: none waits for it longer than two seconds."""
    return answer.complete_to["trades_v2"].behind == 0


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    one = World(tmp_path, request.param)
    yield one
    one.close()


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4], indirect=True)
def test_every_answer_equals_the_list_of_what_was_stored_first(world: World) -> None:
    reads = 0
    while reads < READS:
        (name,) = world.draw.choices(list(OPERATIONS), list(OPERATIONS.values()))
        do: Callable[[], None] = getattr(world, name)
        do()
        reads += name == "read"
    world.check()


@pytest.mark.slow
def test_answers_given_while_the_sink_commits_have_neither_hole_nor_double(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    stop = threading.Event()
    produced = 0
    counts = []
    with (
        closing(EmbeddedBroker(settings.home)) as broker,
        Engine(
            open_catalog(settings),
            find_log=lambda: KafkaSource(broker.cluster, broker.registry.text),
        ) as engine,
        running_sink(broker, settings, interval_s=0.05) as sink,
    ):

        def make() -> None:
            nonlocal produced
            while not stop.wait(0.005):
                produce(broker, many_trades(20, first=produced))
                produced += 20

        def ask() -> None:
            before = produced
            answer = engine.run_sql("SELECT message_id FROM trades_v2 ORDER BY message_id")
            ids = answer.frame["message_id"].to_list()
            assert len(ids) == len(set(ids))
            if whole(answer):
                assert ids[:before] == [f"t{number:07d}" for number in range(before)]
                counts.append(len(ids))

        def are_enough() -> bool:
            ask()
            commits = len(sink.named(CommitDone))
            return len(counts) >= 200 and counts[-1] > counts[0] and commits > 3

        maker = threading.Thread(target=make)
        maker.start()
        try:
            sink.wait(are_enough, 300)
        finally:
            stop.set()
            maker.join()
            engine.leave_log()
        assert not sink.errors
    assert counts == sorted(counts)


def test_copies_of_a_row_can_be_told_apart() -> None:
    assert row(5, 7)["ingestion_timestamp"] - at(0) == timedelta(seconds=7)
    assert row(5, 7)["message_id"] == row(5, 8)["message_id"]

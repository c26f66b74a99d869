"""The tail of one table: its topics read all the time, held until the lake has them."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import duckdb
from confluent_kafka import KafkaException
from pyiceberg.table import Table

from k2lib.errors import K2Error, TableError, TransientError
from k2lib.iceberg.offsets import end_of
from k2lib.iceberg.tables import TABLES, TableSpec
from k2lib.kafka.cluster import FindLog, KafkaSource, is_reachable, no_log
from k2lib.kafka.consumer import ConsumerRecords, HighWatermarks, TopicConsumer, TopicPartition
from k2lib.kafka.topics import topic_kind
from k2lib.lifecycle import Closing
from k2lib.query.answer import CompleteTo
from k2lib.query.table_state import NewestTimes, TableState, TableView, of_lake
from k2lib.query.tail_buffer import Ends, TailBuffer
from k2lib.schema.codec import decode

POLL_S: Final = 0.1
LOOK_S: Final = 5.0
PRUNE_S: Final = 1.0
RETRY_S: Final = 1.0
WAIT_S: Final = 2.0
IDLE_S: Final = 300.0
END_S: Final = 10.0
LIMIT_BYTES: Final = 256 * 1024 * 1024
FULL: Final = "the lake is so far behind the log that only a part of the rest fits in memory"
ERRORS: Final = (K2Error, KafkaException, duckdb.Error)

LoadTable = Callable[[], Table | None]


class Tail(Closing):
    """Reads one table's topics in a thread, from the offsets of its snapshot.

    It ends by itself when nobody asked for five minutes.
    """

    def __init__(
        self,
        spec: TableSpec,
        source: KafkaSource,
        load: LoadTable,
        *,
        times: NewestTimes,
        limit_bytes: int = LIMIT_BYTES,
        wait_s: float = WAIT_S,
    ) -> None:
        """Start reading.

        Args:
            load: loads the table as it stands now.
            times: tells the newest event time of a snapshot.
            limit_bytes: of rows held; reading pauses beyond them.
            wait_s: how long an answer waits for what Kafka had when it was asked for.
        """
        self.source = source
        self._spec = spec
        self._load = load
        self._times = times
        self._lake_newest: datetime | None = None
        self._limit_bytes = limit_bytes
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._look = threading.Event()
        self._buffer: TailBuffer | None = None
        self._former: dict[tuple[str, TopicPartition], int] = {}
        self._again = False
        self._problem: str | None = None
        self._unreachable_until = time.monotonic() + RETRY_S
        self._last_used_s = time.monotonic()
        self._watermarks = HighWatermarks(source.cluster)
        self._thread = threading.Thread(target=self._run, name=f"tail-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether the thread lives and was not told to stop."""
        return self._thread.is_alive() and not self._stop.is_set()

    @property
    def lives(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def view(self) -> TableView:
        """Return the table with everything that Kafka has at this moment, as far as it can be had.

        Waits until the log was read that far, at most two seconds; `complete_to` says how far.
        """
        self._last_used_s = time.monotonic()
        deadline = self._last_used_s + self._wait_s
        watermarks, unreachable = self._read_watermarks()
        while True:
            with self._changed:
                if watermarks is not None:
                    self._wait(watermarks, deadline)
                state = TableState.of(self._load())
                if state.problem is not None:
                    return self._of_lake(state, state.problem)
                buffer = self._buffer
                if buffer is None or self._problem is not None:
                    reason = self._problem or unreachable or f"not read within {self._wait_s:g} s"
                    return self._of_lake(state, reason)
                if buffer.advance(state):
                    return self._hybrid_view(buffer, watermarks, unreachable)
                self._begin_again()
                if time.monotonic() > deadline:
                    return self._of_lake(state, "the table went back to an older snapshot")

    def at_hand(self) -> TableView | None:
        """Return the table with what was read so far; Kafka is not asked. None before that."""
        self._last_used_s = time.monotonic()
        with self._changed:
            buffer = self._buffer
            if buffer is None or not buffer.advance(TableState.of(self._load())):
                return None
            complete_to = CompleteTo(self._spec.name, buffer.state.snapshot_id, behind=None)
            state = buffer.state
            return TableView(state.table, state.snapshot_id, buffer.rows(), complete_to)

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stop.set()

    def close(self) -> None:
        """End the thread and let go of what is held."""
        self.stop()
        # Ctrl-C in the middle of a lock's own code leaves it locked for ever (CPython): a thread
        # that waits for it must not keep the process from ending.
        self._thread.join(END_S)

    def _read_watermarks(self) -> tuple[Ends | None, str | None]:
        try:
            if time.monotonic() < self._unreachable_until:
                self._check_answers()
            return self._watermarks.read(self._feeds), None
        except TransientError as exc:
            self._unreachable_until = time.monotonic() + RETRY_S
            return None, str(exc)

    def _check_answers(self) -> None:
        """Cheaper than to wait for a client that finds nobody."""
        bootstrap = self.source.cluster.bootstrap
        if not is_reachable(bootstrap):
            raise self.source.cluster.error("nothing listens there")

    def _feeds(self, topic: str) -> bool:
        return topic_kind(topic) == self._spec.kind

    def _wait(self, watermarks: Ends, deadline: float) -> None:
        if self._buffer is not None and not watermarks.keys() <= self._buffer.reached.keys():
            self._look.set()
        self._changed.wait_for(
            lambda: self._problem is not None or self._is_full() or self._has_reached(watermarks),
            max(0.0, deadline - time.monotonic()),
        )

    def _has_reached(self, watermarks: Ends) -> bool:
        if self._buffer is None:
            return False
        ends = self._buffer.ends()
        return all(ends.get(tp, -1) >= high for tp, high in watermarks.items())

    def _is_full(self) -> bool:
        return self._buffer is not None and self._buffer.n_bytes > self._limit_bytes

    def _begin_again(self) -> None:
        self._drop_buffer()
        self._again = True

    def _drop_buffer(self) -> None:
        if self._buffer is not None:
            self._former |= {(one.log, tp): one.end for tp, one in self._buffer.reached.items()}
            self._buffer.close()
        self._buffer = None

    def _of_lake(self, state: TableState, reason: str) -> TableView:
        return of_lake(self._spec.name, state, self._times.of(state), reason=reason)

    def _hybrid_view(
        self, buffer: TailBuffer, watermarks: Ends | None, unreachable: str | None
    ) -> TableView:
        rows = buffer.rows()
        ends = buffer.ends()
        behind = None if watermarks is None else _behind(watermarks, ends)
        reason = unreachable or buffer.lost() or self._deleted(buffer)
        if behind:
            reason = FULL if self._is_full() else f"not read within {self._wait_s:g} s"
        complete_to = CompleteTo(
            self._spec.name,
            buffer.state.snapshot_id,
            _offsets(buffer),
            self._newest(buffer, watermarks or {}),
            {p: one.newest for p, one in buffer.reached.items() if one.newest is not None},
            log=True,
            tail_rows=rows.num_rows,
            behind=behind,
            reason=reason,
        )
        return TableView(buffer.state.table, buffer.state.snapshot_id, rows, complete_to)

    def _deleted(self, buffer: TailBuffer) -> str | None:
        """Say what went with a deleted topic, until the lake goes on with the one made again."""
        offsets = buffer.state.offsets
        for (log, tp), end in self._former.items():
            logs = {one.log for other, one in buffer.reached.items() if other.topic == tp.topic}
            lake_end = end_of(offsets, log, tp) or 0
            if logs and log not in logs and lake_end < end and not logs & offsets.keys():
                return (
                    f"{tp.topic} partition {tp.partition}: {lake_end} to {end - 1} went with the "
                    "deleted topic before the lake had them"
                )
        return None

    def _newest(self, buffer: TailBuffer, watermarks: Ends) -> datetime | None:
        """The newest there is; where some is not read yet, the newest of the farthest behind."""
        ends = buffer.ends()
        late = [tp for tp, high in watermarks.items() if ends.get(tp, 0) < high]
        times = [one.newest for tp, one in buffer.reached.items() if tp in late or not late]
        newest = [one for one in times if one is not None]
        if late:
            return min(newest) if len(newest) == len(late) else self._lake_newest
        return max([*newest, *([self._lake_newest] if self._lake_newest else [])], default=None)

    def _run(self) -> None:
        while not self._stop.is_set() and not self._is_idle():
            try:
                self._session()
            except ERRORS as exc:
                self._report(str(exc))
                self._stop.wait(RETRY_S)
            except Exception as exc:  # noqa: BLE001 - a thread's end must reach those who ask
                self._report(f"{type(exc).__name__}: {exc}")
                self._stop.set()
        with self._changed:
            if self._buffer is not None:
                self._buffer.close()
            self._buffer = None
            self._problem = self._problem or "the log is no longer read"
            self._changed.notify_all()

    def _is_idle(self) -> bool:
        return time.monotonic() - self._last_used_s > IDLE_S

    def _report(self, problem: str) -> None:
        with self._changed:
            self._problem = problem
            self._changed.notify_all()

    def _session(self) -> None:
        self._check_answers()
        state = TableState.of(self._load())
        if state.problem is not None:
            raise TableError(state.problem)
        self._lake_newest = self._times.of(state)
        with TopicConsumer(self.source.cluster, low_latency=True) as consumer:
            buffer = TailBuffer(self._spec, state)
            self._follow(consumer, buffer)
            with self._changed:
                self._drop_buffer()
                self._buffer, self._again, self._problem = buffer, False, None
                self._changed.notify_all()
            self._read(consumer, buffer)

    def _read(self, consumer: TopicConsumer, buffer: TailBuffer) -> None:
        pruned = time.monotonic()
        while not (self._stop.is_set() or self._again or self._is_idle()):
            if self._look.is_set() or not consumer.found_within(LOOK_S):
                self._look.clear()
                self._follow(consumer, buffer)
            now = time.monotonic()
            if now - pruned > PRUNE_S:
                self._prune(buffer)
                pruned = now
            if self._is_full():
                self._stop.wait(POLL_S)
            else:
                self._append(buffer, consumer.gather(POLL_S))

    def _append(self, buffer: TailBuffer, messages: ConsumerRecords) -> None:
        if not messages.ends:
            return
        rows, refused = decode(messages.values, self._spec.schema, writer=self.source.schema_text)
        left_out = {one.index for one in refused}
        at = [tp for i, tp in enumerate(messages.positions()) if i not in left_out]
        with self._changed:
            if self._buffer is buffer:
                buffer.append(rows, at, messages.ends)
                self._changed.notify_all()

    def _prune(self, buffer: TailBuffer) -> None:
        with self._changed:
            if self._buffer is not buffer or buffer.is_empty:
                return
            if not buffer.advance(TableState.of(self._load())):
                self._begin_again()

    def _follow(self, consumer: TopicConsumer, buffer: TailBuffer) -> None:
        partitions = consumer.find_partitions(self._feeds)
        logs = consumer.log_ids(partitions)
        with self._changed:
            if any(logs.get(tp.topic) != one.log for tp, one in buffer.reached.items()):
                self._begin_again()  # a topic was deleted, or made again
                return

        def start_at(tp: TopicPartition, low: int, high: int) -> int:
            with self._changed:
                buffer.follow(tp, logs[tp.topic], low, high)
                return buffer.reached[tp].end

        def position_of(tp: TopicPartition) -> int | None:
            return end_of(buffer.state.offsets, logs[tp.topic], tp)

        consumer.follow(partitions, start_at, position_of=position_of)
        with self._changed:
            self._changed.notify_all()


def _behind(watermarks: Ends, ends: Ends) -> int:
    return sum(max(0, high - ends.get(tp, 0)) for tp, high in watermarks.items())


def _offsets(buffer: TailBuffer) -> dict[str, dict[TopicPartition, int]]:
    """Return how far lake and tail together have each log."""
    offsets: dict[str, dict[TopicPartition, int]] = {
        log: {tp: end for tp, (_, end) in partitions.items()}
        for log, partitions in buffer.state.offsets.items()
    }
    for tp, end in buffer.ends().items():
        offsets.setdefault(buffer.reached[tp].log, {})[tp] = end
    return offsets


ENDED: Final = "the log is no longer read: this was closed"


class TailPool(Closing):
    """Starts a table's tail when it is first asked for, and another on another Kafka."""

    def __init__(self, load: Callable[[str], Table | None], find_log: FindLog) -> None:
        """Begin with none.

        Args:
            load: loads a table by its name, as it stands now.
            find_log: returns where the log is now; a TransientError says why there is none.
        """
        self._load = load
        self._find_log = find_log
        self._lock = threading.Lock()
        self._tails: dict[str, Tail] = {}
        self._ending: list[Tail] = []
        self._closed = False
        self._times = NewestTimes()

    def view(self, name: str) -> TableView:
        """Return a table with what Kafka has beyond it; of the lake only where there is none."""
        try:
            tail = self._tail(name)
        except TransientError as exc:
            return self.of_lake(name, reason=str(exc))
        return tail.view()

    def at_hand(self, name: str) -> TableView:
        """Return a table with what was read of Kafka so far; nobody is waited for."""
        try:
            view = self._tail(name).at_hand()
        except TransientError:
            view = None
        return self.of_lake(name) if view is None else view

    def of_lake(
        self,
        name: str,
        *,
        reason: str | None = None,
        resolve: Callable[[Table], int] | None = None,
    ) -> TableView:
        """Return a table alone, as it stands, or at the snapshot that `resolve` finds."""
        table = self._load(name)
        at = None if table is None or resolve is None else resolve(table)
        state = TableState.of(table, at)
        return of_lake(name, state, self._times.of(state), reason=reason)

    def close(self) -> None:
        """End all tails, for good."""
        with self._lock:
            self._closed = True
            ending, self._ending = [*self._ending, *self._tails.values()], []
            self._tails = {}
            # The way to the log leads back to who opened this.
            self._find_log = no_log
        for tail in ending:
            tail.stop()
        for tail in ending:
            tail.close()

    def _tail(self, name: str) -> Tail:
        with self._lock:
            if self._closed:
                raise TransientError(ENDED)
            try:
                source = self._find_log()
            except TransientError:
                self._stop_all()
                raise
            tail = self._tails.get(name)
            if tail is None or not tail.runs or tail.source != source:
                self._stop_tail(name)
                tail = self._tails[name] = self._start(name, source)
            return tail

    def _start(self, name: str, source: KafkaSource) -> Tail:
        return Tail(TABLES[name], source, lambda: self._load(name), times=self._times)

    def _stop_all(self) -> None:
        for name in list(self._tails):
            self._stop_tail(name)

    def _stop_tail(self, name: str) -> None:
        """No answer waits for a thread to end: that is for `close`."""
        tail = self._tails.pop(name, None)
        if tail is not None:
            tail.stop()
            self._ending = [one for one in self._ending if one.lives] + [tail]

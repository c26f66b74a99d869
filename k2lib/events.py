"""Everything that a feed, a sink, the API and a notebook report, as typed events.

A listener is a function of one event that uses `match`; log lines, metrics, alerts and progress
bars are listeners. Threads of a feed and of the sinks call a listener directly: it returns at
once and raises nothing. Docs: docs/streaming-architecture.md, "Events".
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Something that happened; `name` is its class in snake case, as logs print it."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Derive the printed name."""
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dict(vars(self))


OnEvent = Callable[[Event], None]


def log_event(event: Event) -> None:
    """Write the event to the log `k2lib`; the default listener."""
    logging.getLogger("k2lib").debug("%s %s", event.name, event.to_json())


def to_all(*listeners: OnEvent) -> OnEvent:
    """Return a listener that calls each of these in turn."""

    def on_event(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return on_event


@dataclass(frozen=True)
class FeedEvent(Event):
    """An event of a live feed; `exchange` is its venue."""

    exchange: str


@dataclass(frozen=True)
class FeedStarted(FeedEvent):
    """A feed knows its symbols and begins to connect."""

    symbols: tuple[str, ...]


@dataclass(frozen=True)
class FeedStopped(FeedEvent):
    """A feed ended on request."""

    reason: str


@dataclass(frozen=True)
class FeedFailed(FeedEvent):
    """A feed ended by an error that it cannot mend."""

    reason: str


@dataclass(frozen=True)
class FeedPaused(FeedEvent):
    """Kafka or the catalog refused rows; the feed tries again every second."""

    reason: str


@dataclass(frozen=True)
class FeedResumed(FeedEvent):
    """A paused feed produces again."""


@dataclass(frozen=True)
class SymbolsHalted(FeedEvent):
    """These symbols do not trade at the start; they are subscribed to with the others."""

    symbols: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class SymbolsAssumed(FeedEvent):
    """No REST host answered at the start; symbols come from the table shipped with k2lib."""

    symbols: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class ConnectionOpening(FeedEvent):
    """An attempt to connect to a stream host begins."""

    host: str


@dataclass(frozen=True)
class ConnectionOpened(FeedEvent):
    """A connection is open and subscribed to its streams."""

    host: str


@dataclass(frozen=True)
class ConnectionRefused(FeedEvent):
    """An attempt failed; `status` is the HTTP status, null where there was no answer."""

    host: str
    reason: str
    status: int | None


@dataclass(frozen=True)
class ConnectionLost(FeedEvent):
    """A connection ended before another took its place."""

    host: str
    reason: str


@dataclass(frozen=True)
class ConnectionRotated(FeedEvent):
    """A new connection took the place of an old one, which is closed."""

    old: str
    new: str
    reason: str


@dataclass(frozen=True)
class ReconnectWaiting(FeedEvent):
    """The next attempt to connect waits for `delay_s` seconds."""

    delay_s: float
    reason: str


@dataclass(frozen=True)
class BreakerChanged(FeedEvent):
    """A stream host's circuit breaker is now `closed`, `open` or `half_open`."""

    host: str
    state: str


@dataclass(frozen=True)
class HostBanned(FeedEvent):
    """A stream host refused for good; this run does not try it again."""

    host: str
    reason: str


@dataclass(frozen=True)
class RestFailed(FeedEvent):
    """A REST host failed to answer a request."""

    host: str
    reason: str


@dataclass(frozen=True)
class StreamStale(FeedEvent):
    """An open connection brought nothing of a symbol for `silent_s` seconds."""

    symbol: str
    kind: str
    silent_s: float


@dataclass(frozen=True)
class StreamResumed(FeedEvent):
    """A stale stream brings data again."""

    symbol: str
    kind: str


@dataclass(frozen=True)
class FramesReceived(FeedEvent):
    """A batch of one symbol was parsed; `last_us` is its newest event time, µs since the epoch."""

    symbol: str
    kind: str
    host: str
    count: int
    last_us: int


@dataclass(frozen=True)
class FramesRepeated(FeedEvent):
    """Trades were dropped because their ids came before."""

    symbol: str
    count: int


@dataclass(frozen=True)
class FramesRefused(FeedEvent):
    """Malformed frames became dead letters."""

    reason: str
    count: int


@dataclass(frozen=True)
class FeedLagMeasured(FeedEvent):
    """A symbol is `lag_s` seconds behind: a batch's newest trade, or once a second in a silence."""

    symbol: str
    lag_s: float


@dataclass(frozen=True)
class ClockMeasured(FeedEvent):
    """Once a second: frames came `behind_s` seconds before the venue sent them, by our clock."""

    behind_s: float


@dataclass(frozen=True)
class QueueMeasured(FeedEvent):
    """Once a second: frames in the inbox, its limit, and seconds that sockets waited for room."""

    depth: int
    limit: int
    waited_s: float


@dataclass(frozen=True)
class GapEvent(FeedEvent):
    """An event of a gap: the trades `from_id` to `to_id` of a symbol."""

    symbol: str
    from_id: int
    to_id: int
    gap_id: str


@dataclass(frozen=True)
class GapNoticed(GapEvent):
    """Ids are missing, and REST is asked for them; repeated after a restart or a pause."""


@dataclass(frozen=True)
class GapFillFailed(GapEvent):
    """REST did not give the missing ids; it is asked again unless `reason` says otherwise."""

    reason: str


@dataclass(frozen=True)
class GapClosed(GapEvent):
    """A gap is explained, or `refused` for these reasons; a covered one may close again, filled."""

    state: str
    filled: int
    covered: int
    absent: int
    refused: str = ""


@dataclass(frozen=True)
class TradesBackfilled(FeedEvent):
    """Trades that came by REST were produced."""

    symbol: str
    count: int


@dataclass(frozen=True)
class StateLost(Event):
    """Redis does not answer; breakers and latest trades stay in memory."""

    reason: str


@dataclass(frozen=True)
class StateRestored(Event):
    """Redis answers again."""


@dataclass(frozen=True)
class DeliveryStalled(Event):
    """Kafka at `address` acknowledges nothing; the producer gives up in `gives_up_in_s`."""

    address: str
    records: int
    gives_up_in_s: float


@dataclass(frozen=True)
class SinkEvent(Event):
    """An event of the sink that feeds `table`."""

    table: str


@dataclass(frozen=True)
class BatchRead(SinkEvent):
    """A commit begins: its messages are read and decoded."""

    messages: int


@dataclass(frozen=True)
class DeadLettersSent(SinkEvent):
    """Records that the table cannot take became dead letters, and Kafka has these."""

    count: int


@dataclass(frozen=True)
class FilesWritten(SinkEvent):
    """The data files of a commit are written."""

    files: int


@dataclass(frozen=True)
class CommitBegun(SinkEvent):
    """The catalog is asked to commit."""

    rows: int


@dataclass(frozen=True)
class CommitDone(SinkEvent):
    """The catalog has committed; `seconds` include the writing of the files."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class RowsVisible(SinkEvent):
    """Readers see a commit; `seconds` since the receipt of its oldest row."""

    seconds: float


@dataclass(frozen=True)
class SinkLagMeasured(SinkEvent):
    """After a commit: records in Kafka that the sink has not read."""

    records: int


@dataclass(frozen=True)
class TableMeasured(SinkEvent):
    """After a commit: what the table has by now, and the size of its data files."""

    rows: int
    files: int
    size_bytes: int


@dataclass(frozen=True)
class BatchDone(SinkEvent):
    """A batch is in the table: rows added, rows that the table had, and dead letters."""

    added: int
    duplicates: int
    dead_letters: int


@dataclass(frozen=True)
class SinkPaused(SinkEvent):
    """A commit, the catalog or Kafka failed; the sink tries again every second."""

    reason: str


@dataclass(frozen=True)
class SinkStopped(SinkEvent):
    """Another engine left the table so that it takes no row; start the sink again once it does."""

    reason: str


@dataclass(frozen=True)
class SinkResumed(SinkEvent):
    """A sink that was paused works, and had nothing to write for 2 s."""


@dataclass(frozen=True)
class MaintenanceDone(SinkEvent):
    """A round of maintenance changed the table, its files or its snapshots."""

    files_merged: int
    files_written: int
    rows_rewritten: int
    tags: tuple[str, ...]
    snapshots_expired: int
    files_deleted: int
    bytes_deleted: int
    files_waiting: int
    files_missing: tuple[str, ...]

    @property
    def has_changes(self) -> bool:
        """Whether the table, its files or its snapshots changed, or files are missing."""
        changes = (self.files_merged, self.tags, self.snapshots_expired, self.files_deleted)
        return any(changes) or bool(self.files_missing)


@dataclass(frozen=True)
class RequestDone(Event):
    """The HTTP API answered a request; `refused` says why where a limit or a key refused it."""

    request_id: str
    client: str | None
    key: str | None
    method: str
    path: str
    query: str
    status: int
    bytes: int
    seconds: float
    refused: str | None


@dataclass(frozen=True)
class FaultCaused(Event):
    """A fault of the offline exchange begins, by a button or a script of a notebook."""

    fault: str
    options: Mapping[str, Any]

"""What a venue offers: all that feed, gap filler, loader, replay and commands know of one.

A venue is an object that is a `LiveVenue`, a `FileVenue`, or both. It is found by its name, see
`k2lib.venues`; docs/streaming-architecture.md, "Adding a venue", has an example.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.errors import SourceError, TransientError
from k2lib.events import OnEvent
from k2lib.schema.dead_letters import DeadLetter

if TYPE_CHECKING:  # metrics are served by few processes, and take long to import
    from prometheus_client.registry import Collector

IdArray = npt.NDArray[np.int64]
# The first and the last of some ids that follow each other.
Hole = tuple[int, int]
# How far a live trade may be ahead of a clock: no two clocks agree, and the frames of a batch were
# not all sent at the same moment.
AHEAD_US: Final = 60 * 1_000_000


class HostRefusedError(TransientError):
    """A host did not let us in, or did not take the subscription.

    `lasting`: it will not the next time either. `pause_s`: how long it asks to be left alone.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        lasting: bool = False,
        pause_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.lasting = lasting
        self.pause_s = pause_s


class VenueUnavailableError(TransientError):
    """No host answers this request now; `wait_s` says when to ask again."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class VenueRefusedError(SourceError):
    """The venue refuses the request itself: asking again will not help."""


class BrokenFileError(SourceError):
    """The file is not what the venue published; `letter` is the dead letter that says so."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(f"{letter.source}: {letter.detail}; not loaded: download it again")
        self.letter = letter


@dataclass(frozen=True)
class Instrument:
    """One symbol of a venue, and what its rows carry beside it; empty where it has none.

    `listed` is False where the facts come from a table shipped with k2lib. `halted` is the venue's
    word for a symbol that does not trade now, as HALT, and empty for the others.
    """

    exchange: str
    symbol: str
    base_asset: str = ""
    quote_asset: str = ""
    company_id: str = ""
    isin: str = ""
    listed: bool = True
    halted: str = ""


class StreamSubscription(NamedTuple):
    """What a connection is asked for: `kind` is trade or quote."""

    symbol: str
    kind: str


@dataclass(frozen=True)
class ParsedFrames:
    """What a batch of frames holds, in order of arrival; a frame is in one of the three.

    `trades` are rows of `records.TRADE`: `source_sequence` counts the trades of each symbol, so
    that a missing number is a missing trade. `quotes` are rows of `records.QUOTE`. `sent_us` is
    the time by the venue's clock when it sent them, µs since the epoch, where frames tell it.
    """

    trades: pa.Table
    quotes: pa.Table
    refused: list[DeadLetter]
    sent_us: int | None = None


@dataclass(frozen=True)
class MissingTrades:
    """Trades of one symbol that are asked for: ids within `holes`, which are sorted and apart.

    `after_us` and `before_us` are the event times of the trades on both sides, where known.
    `single_only`: aggregates of them are known already. `source` names them in dead letters.
    """

    instrument: Instrument
    holes: tuple[Hole, ...]
    source: str
    after_us: int | None = None
    before_us: int | None = None
    single_only: bool = False


@dataclass(frozen=True)
class BackfillPage:
    """One answer to `MissingTrades`; it may have trades that nobody asked for.

    `ids` are those of all its trades, refused ones too. `absent` are ids that the venue does not
    have, as the answer proves; `absent_note` says so, with `{}` for them. Of `covered` ids only
    aggregates are to be had, which `notes` tell.
    """

    rows: pa.Table
    ids: IdArray
    refused: list[DeadLetter]
    absent: list[Hole] = field(default_factory=list)
    absent_note: str = "the venue has no {} either"
    covered: list[Hole] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def absent_ids(missing: Hole, answered: IdArray) -> list[Hole]:
    """Return the ids of `missing` that the venue does not have either.

    An answer proves the absence of an id only if it goes on past it: the newest trades reach a
    venue's database late.
    """
    low, high = missing
    inside = np.unique(answered[(answered >= low) & (answered <= high)]).tolist()
    edges = [low - 1, *inside, *([high + 1] if (answered > high).any() else [])]
    return [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]


class FrameSink(Protocol):
    """Where frames go."""

    async def put(self, frame: bytes, host: str) -> None:
        """Take a frame, when there is room."""


class LiveConnection(Protocol):
    """An open connection to a host; `venues.websocket.WebSocketConnection` is one.

    `over` is done when it ended or is to be left, `reader` when it ended; `has_data` is set at the
    first frame of data, and `frames` counts them. `opened` is by `time.monotonic`, and so is
    `answered_at`: when the newest ping was sent that the host answered while it had no data.
    """

    host: str
    opened: float
    has_data: asyncio.Event
    over: asyncio.Future[str]
    ended: bool
    frames: int
    answered_at: float
    reader: asyncio.Task[None]

    def leave(self, reason: str) -> None:
        """Ask for another connection in place of this one, which goes on until then."""

    async def subscribe(self, subscriptions: Sequence[StreamSubscription]) -> None:
        """Subscribe, and wait until the host agrees.

        Raises:
            HostRefusedError: the host says no, or nothing.
        """

    async def close(self) -> None:
        """Close it, without waiting long for the host's answer."""


class VenueRequests(Protocol):
    """Questions to a venue's request hosts, by one thread at a time."""

    @property
    def exchange(self) -> str:
        """The name that the hosts give themselves; the venue's, until one has answered."""

    def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Return what the venue lists, by symbol.

        Raises:
            ConfigError: a symbol is unknown, or none of them is trading.
            VenueUnavailableError: no host answers.
        """

    def backfill(self, missing: MissingTrades) -> Iterator[BackfillPage]:
        """Yield answers until the ids are explained, or no more is to be had now.

        Raises:
            VenueRefusedError: asking again will not help.
            VenueUnavailableError, RecordError: ask again later.
        """

    def checks(self, symbols: Sequence[str]) -> Iterable[tuple[str, Callable[[], str]]]:
        """Return steps that show whether the hosts answer: a name, and a call.

        A call returns what there is to say of it, or raises a K2Error.
        """

    def close(self) -> None:
        """Close the connections."""


@runtime_checkable
class LiveVenue(Protocol):
    """A venue that publishes its trades as they happen.

    All of its hosts publish one and the same sequence of trades, the first ones are preferred.
    Records are named by `exchange`; a connection takes `subscriptions_per_connection`.
    """

    @property
    def exchange(self) -> str:
        """The venue's name in records."""

    @property
    def asset_class(self) -> str:
        """As in the schemas: equities, crypto, futures or options."""

    @property
    def stream_hosts(self) -> tuple[str, ...]:
        """Addresses of stream hosts."""

    @property
    def request_hosts(self) -> tuple[str, ...]:
        """Addresses of hosts that answer requests."""

    @property
    def subscriptions_per_connection(self) -> int:
        """How many subscriptions a connection takes."""

    def at(self, stream_hosts: Sequence[str], request_hosts: Sequence[str]) -> Self:
        """Return the venue at other addresses.

        Raises:
            ConfigError: an address that is none.
        """

    def named(self, exchange: str) -> Self:
        """Return the venue under the name that its hosts give themselves."""

    def shipped_instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Return instruments that are known without asking the venue.

        Raises:
            ConfigError: one is not.
        """

    def ping(self, host: str, *, within_s: float) -> None:
        """Ask a request host, once, whether it answers.

        Raises:
            VenueUnavailableError: it does not, within the time.
        """

    def open_requests(
        self,
        *,
        on_event: OnEvent,
        stop: threading.Event,
        breaker_rest_s: float = 30.0,
        offer_again_s: float = 60.0,
    ) -> VenueRequests:
        """Open a client of the request hosts, which gives up once `stop` is set.

        Args:
            breaker_rest_s: how long a host rests after failures.
            offer_again_s: how long a host is not asked for what it does not offer.
        """

    async def connect(
        self, host: str, *, inbox: FrameSink, on_data: Callable[[], None]
    ) -> LiveConnection:
        """Open a connection; frames go to the inbox, data or not.

        Args:
            on_data: called once, at the first frame of data.
        Raises:
            HostRefusedError: the host did not let us in, or is another venue's.
        """

    def parse_frames(
        self,
        frames: Sequence[bytes],
        received_us: Sequence[int],
        *,
        instruments: Mapping[str, Instrument],
        latest_us: int,
        source: str,
    ) -> ParsedFrames:
        """Turn frames into v2 rows; pure, called for each batch.

        Args:
            received_us: receipt of each frame, µs since the epoch.
            instruments: by symbol; a frame of another symbol is refused.
            latest_us: no trade is later by our clock; what the venue's own says goes before.
            source: name of the frames' source in dead letters.
        """


@runtime_checkable
class VenueMetrics(Protocol):
    """A venue that has metrics of its own, beside the `k2_feed_…` of every venue."""

    def metrics(self, feed_metrics: "Sequence[Collector]") -> "Collector":
        """Return what is served too once a feed of the venue has started.

        Args:
            feed_metrics: the metrics of all feeds; their label `venue` is the exchange.
        """


@dataclass(frozen=True)
class FileOptions:
    """What a person says of files; each venue takes what it has a use for.

    `exchange`: of all files. `assets`: BASE/QUOTE of symbols that are not known. `reference`:
    folder of the reference data. `parts`: files of one company are parts of one file.
    """

    exchange: str | None = None
    assets: Sequence[str] = ()
    reference: Path | None = None
    parts: bool = False


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file before it is read: `kind` is trades, quotes or reference.

    `note` is what else there is to say of it.
    """

    kind: str
    note: str | None = None


@dataclass(frozen=True)
class FileBatch:
    """Rows of one kind from a file, in order, and the dead letters among them."""

    kind: str
    exchange: str
    rows: pa.Table
    dead_letters: list[DeadLetter]
    n_bytes: int


class SourceFile(Protocol):
    """One file to load, or several that are parts of one."""

    @property
    def name(self) -> str:
        """The file's name as a report shows it."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where it is on the disk."""

    def open(self) -> FileFacts:
        """Check the file.

        Raises:
            BrokenFileError: it is not what the venue published.
            SourceError: it cannot be loaded.
        """

    def reference(self) -> "Sequence[SourceFile]":
        """Return files of reference data that are to be loaded before its rows.

        Raises:
            SourceError: there are none.
        """

    def read(self, ingested: datetime) -> Iterator[FileBatch]:
        """Read the file, in chunks of bounded memory.

        Args:
            ingested: ingestion time of every row, aware.
        Raises:
            SourceError: it cannot be read on.
        """


@runtime_checkable
class FileVenue(Protocol):
    """A venue whose history comes in files."""

    @property
    def asset_class(self) -> str:
        """As in the schemas: equities, crypto, futures or options."""

    def find_files(self, paths: Sequence[str | Path], options: FileOptions) -> Sequence[SourceFile]:
        """Return the files that the paths (files, folders, globs) mean, each once, in order.

        Raises:
            ConfigError: an option is wrong.
        """

"""Binance as a venue: its streams, REST and archive behind what every venue offers."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self

from k2lib.errors import ConfigError
from k2lib.events import OnEvent
from k2lib.venues.base import (
    BackfillPage,
    FileBatch,
    FileFacts,
    FileOptions,
    FrameSink,
    Instrument,
    MissingTrades,
    ParsedFrames,
)
from k2lib.venues.binance.archive import (
    archive_instrument,
    find_archives,
    latest_in,
    read_archive,
    verify,
)
from k2lib.venues.binance.backfill import missing_trades
from k2lib.venues.binance.connection import (
    STREAMS_A_CONNECTION,
    BinanceConnection,
    open_connection,
)
from k2lib.venues.binance.hosts import checked_address, exchange_of
from k2lib.venues.binance.instruments import read_assets, read_exchange_info, shipped_instruments
from k2lib.venues.binance.messages import parse_frames
from k2lib.venues.binance.rest import Rest, clock_offset_s, ping

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

INFO_WEIGHT: Final = 20
# The lag's alert fires at as much: a clock that is further off fires it always, or never.
CLOCK_S: Final = 5.0
STREAM_HOSTS: Final = (
    "wss://stream.binance.com:9443",
    "wss://stream.binance.com:443",
    "wss://data-stream.binance.vision:443",
)
REST_HOSTS: Final = ("https://api.binance.com", "https://data-api.binance.vision")


class BinanceRequests:
    """The requests that REST answers."""

    def __init__(self, rest: Rest, exchange: str, stop: threading.Event) -> None:
        self._rest = rest
        self._stop = stop
        self.exchange = exchange

    def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Return what exchangeInfo lists, by symbol.

        Raises:
            ConfigError: a symbol is unknown, or none of them is trading.
            VenueUnavailableError: no host answers.
        """
        reply = self._rest.get("/api/v3/exchangeInfo", {}, weight=INFO_WEIGHT)
        self.exchange = reply.exchange or self.exchange
        return read_exchange_info(reply.body, symbols, exchange=self.exchange)

    def backfill(self, missing: MissingTrades) -> Iterator[BackfillPage]:
        """Yield pages of missing trades; see `missing_trades`."""
        return missing_trades(self._rest, missing, stop=self._stop)

    def checks(self, symbols: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield steps that show whether REST answers, and that our clock is right."""
        yield "REST time", self._check_clock
        yield "exchangeInfo", lambda: self._check_symbols(symbols)

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()

    def _check_clock(self) -> str:
        offset_s = clock_offset_s(self._rest)
        text = f"our clock is {abs(offset_s):.3f} s {'ahead' if offset_s > 0 else 'behind'}"
        if abs(offset_s) > CLOCK_S:
            raise ConfigError(f"{text}: set this machine's clock, lags are wrong by that")
        return text

    def _check_symbols(self, symbols: Sequence[str]) -> str:
        return ", ".join(map(_facts, self.instruments(symbols).values()))


def _facts(one: Instrument) -> str:
    halted = f" ({one.halted})" if one.halted else ""
    return f"{one.symbol} is {one.base_asset}/{one.quote_asset}{halted}"


@dataclass(frozen=True)
class BinanceVenue:
    """Binance, or an exchange that speaks as it does; a `LiveVenue` and a `FileVenue`.

    `tls` verifies the hosts; it is made from the system's certificates and never left out.
    """

    exchange: str
    stream_hosts: tuple[str, ...]
    request_hosts: tuple[str, ...]
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context, compare=False)
    asset_class: ClassVar[str] = "crypto"
    subscriptions_per_connection: ClassVar[int] = STREAMS_A_CONNECTION

    def at(self, stream_hosts: Sequence[str], request_hosts: Sequence[str]) -> Self:
        """Return the venue at other addresses, under the name that they tell.

        Raises:
            ConfigError: an address that is none, or hosts of different venues.
        """
        ws = tuple(checked_address(u, ("ws", "wss"), "K2_BINANCE_WS_URLS") for u in stream_hosts)
        rest = tuple(
            checked_address(u, ("http", "https"), "K2_BINANCE_REST_URLS") for u in request_hosts
        )
        if not ws or not rest:
            raise ConfigError("K2_BINANCE_WS_URLS and K2_BINANCE_REST_URLS need an address each")
        names = {exchange_of(url) for url in (*ws, *rest)}
        if len(names) > 1:
            raise ConfigError(f"these hosts are of different venues: {', '.join((*ws, *rest))}")
        return replace(self, exchange=names.pop(), stream_hosts=ws, request_hosts=rest)

    def named(self, exchange: str) -> Self:
        """Return the venue under the name that its hosts give themselves."""
        return self if exchange == self.exchange else replace(self, exchange=exchange)

    def shipped_instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Return instruments from the table shipped with k2lib.

        Raises:
            ConfigError: one is not in it.
        """
        return shipped_instruments(symbols, exchange=self.exchange)

    def ping(self, host: str, *, within_s: float) -> None:
        """Ask a REST host, once, whether it answers.

        Raises:
            VenueUnavailableError: it does not, within the time.
        """
        ping(host, tls=self.tls, within_s=within_s)

    def open_requests(
        self,
        *,
        on_event: OnEvent,
        stop: threading.Event,
        breaker_rest_s: float = 30.0,
        offer_again_s: float = 60.0,
    ) -> BinanceRequests:
        """Open a client of REST, which gives up once `stop` is set."""
        rest = Rest(
            self.request_hosts,
            exchange=self.exchange,
            tls=self.tls,
            on_event=on_event,
            stop=stop,
            breaker_rest_s=breaker_rest_s,
            offer_again_s=offer_again_s,
        )
        return BinanceRequests(rest, self.exchange, stop)

    async def connect(
        self, host: str, *, inbox: FrameSink, on_data: Callable[[], None]
    ) -> BinanceConnection:
        """Open the combined stream of a host; see `open_connection`."""
        return await open_connection(
            host, exchange=self.exchange, tls=self.tls, inbox=inbox, on_data=on_data
        )

    def parse_frames(
        self,
        frames: Sequence[bytes],
        received_us: Sequence[int],
        *,
        instruments: Mapping[str, Instrument],
        latest_us: int,
        source: str,
    ) -> ParsedFrames:
        """Turn frames into v2 rows; see `messages.parse_frames`."""
        return parse_frames(
            frames,
            received_us,
            instruments=instruments,
            unit="us",
            latest_us=latest_us,
            source=source,
        )

    def metrics(self, feed_metrics: "Sequence[Collector]") -> "Collector":
        """Return the feed's metrics under the names `k2_binance_…`; see `BinanceMetrics`."""
        from k2lib.venues.binance.metrics import BinanceMetrics

        return BinanceMetrics(feed_metrics)

    def find_files(self, paths: Sequence[str | Path], options: FileOptions) -> list["ArchiveFile"]:
        """Return the zips of the archive that the paths mean.

        Raises:
            ConfigError: a text of `options.assets` is not two assets.
        """
        instruments = read_assets(options.assets)
        return [ArchiveFile(path, options.exchange, instruments) for path in find_archives(paths)]


@dataclass(frozen=True)
class ArchiveFile:
    """One zip of Binance's archive; a `SourceFile`."""

    path: Path
    exchange: str | None
    instruments: Mapping[str, Instrument]

    @property
    def name(self) -> str:
        """The file's name as a report shows it."""
        return self.path.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where it is on the disk."""
        return (self.path,)

    def open(self) -> FileFacts:
        """Check its name, its checksum, and that the zip can be read.

        Raises:
            BrokenFileError: it is not what Binance published.
            SourceError: it is no archive of trades, or cannot be read.
        """
        self._instrument()
        return FileFacts("trades", verify(self.path))

    def reference(self) -> tuple[()]:
        """Return nothing: the archive has no reference data."""
        return ()

    def read(self, ingested: datetime) -> Iterator[FileBatch]:
        """Read the file in chunks; see `read_archive`."""
        latest_us = latest_in(self.path, now_us=time.time_ns() // 1000)
        return read_archive(self.path, self._instrument(), ingested=ingested, latest_us=latest_us)

    def _instrument(self) -> Instrument:
        return archive_instrument(self.path, self.instruments, exchange=self.exchange)


def binance(
    stream_hosts: Sequence[str] = STREAM_HOSTS, request_hosts: Sequence[str] = REST_HOSTS
) -> BinanceVenue:
    """Return Binance, at its own hosts or at those given.

    Raises:
        ConfigError: an address that is none, or hosts of different venues.
    """
    return BinanceVenue("BINANCE", STREAM_HOSTS, REST_HOSTS).at(stream_hosts, request_hosts)


def binance_us() -> BinanceVenue:
    """Return Binance.US: another venue, with its own symbols, ids and prices."""
    return binance(["wss://stream.binance.us:9443"], ["https://api.binance.us"])

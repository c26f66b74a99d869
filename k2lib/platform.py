"""K2: one object over the lake and the log of a home, for notebooks and the command line."""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl
from pyiceberg.table import Table

from k2lib.closing import Closing
from k2lib.errors import ConfigError, QueryError
from k2lib.events import Event, OnEvent, log_event
from k2lib.lake.sink_threads import make_sinks, run_sinks
from k2lib.lake.tables import TABLES, load_table, open_catalog
from k2lib.load.asx import load_asx
from k2lib.load.report import LoadReport
from k2lib.log.cluster import Cluster, read_properties
from k2lib.log.kafka import RemoteKafka
from k2lib.log.source import LogSource, attach
from k2lib.ops import services
from k2lib.pipeline import Pipeline, Target
from k2lib.query import as_of, bars
from k2lib.query.as_of import AsOf
from k2lib.query.complete import CompleteTo
from k2lib.query.connection import Connection
from k2lib.query.contiguity import contiguity
from k2lib.query.difference import difference
from k2lib.query.engine import Engine
from k2lib.query.folding import Market
from k2lib.query.frames import Params
from k2lib.query.instruments import When
from k2lib.query.stats import ask_symbols
from k2lib.query.summary import ask_summary
from k2lib.settings import Settings, read_settings
from k2lib.sources.asx.reference import CorporateActions, read_corporate_actions
from k2lib.sources.binance.venues import Venue, binance

if TYPE_CHECKING:  # what only a live feed or an archive needs is imported when one is asked for
    from k2lib.feed.live import Feed
    from k2lib.feed.options import FeedOptions
    from k2lib.feed.status import FeedStatus
    from k2lib.ops.watch import Watch
    from k2lib.replay.player import Replay
    from k2lib.state import State


def choose_kafka(settings: Settings) -> Target:
    """Choose the Kafka: the one in the settings, else what `k2 up` left running, else embedded.

    Raises:
        ConfigError: a Kafka without a schema registry, or with an option it does not know.
    """
    options = read_properties(settings.kafka_config)
    bootstrap = settings.kafka_bootstrap or options.pop("bootstrap.servers", None)
    if bootstrap is not None:
        if settings.schema_registry_url is None:
            raise ConfigError(f"Kafka at {bootstrap}: set K2_SCHEMA_REGISTRY_URL too")
        cluster = Cluster(bootstrap, options)
        cluster.admin()  # a client that is made and dropped: a wrong option is refused here
        return Target("yours", cluster, settings.schema_registry_url)
    local = services.running(settings.home)
    if local is not None:
        return Target("local services", Cluster(local.bootstrap), local.registry_url)
    return Target("embedded")


def choose_venue(settings: Settings) -> Venue:
    """Return Binance at its own hosts, or at those of the settings.

    Raises:
        ConfigError: an address that is none, or one kind of address without the other.
    """
    ws, rest = settings.binance_ws_urls, settings.binance_rest_urls
    if (ws is None) != (rest is None):
        raise ConfigError("set K2_BINANCE_WS_URLS and K2_BINANCE_REST_URLS together, or neither")
    return binance() if ws is None or rest is None else binance(ws.split(","), rest.split(","))


class K2(Closing):
    """Loads and reads market data; a context manager.

    Reading needs no Kafka; where one runs, answers have what only Kafka has yet. The first write
    starts producer and sinks, and with the embedded broker makes this process the home's one
    writer until `close()`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        with_sinks: bool = True,
        on_event: OnEvent = log_event,
    ) -> None:
        self.settings = settings
        self.kafka = choose_kafka(settings)
        self.catalog = open_catalog(settings)
        self.engine = Engine(self.catalog, find_log=self.find_log)
        self._reading: RemoteKafka | None = None
        self._with_sinks = with_sinks
        self._on_event = on_event
        self._pipeline: Pipeline | None = None
        self._feeds: list[Feed] = []
        self._state: State | None = None
        self._watch: Watch | None = None
        logging.getLogger("k2lib").info("%s", self)

    @classmethod
    def open(cls, *, on_event: OnEvent = log_event, **settings: Any) -> Self:
        """Open a home: given settings first, then `K2_*`, then running services, then embedded.

        Args:
            settings: names of `Settings`, for example `home="build/homes/tour"`.
        Raises:
            ConfigError: a setting is unknown or does not fit.
        """
        return cls(read_settings(settings), on_event=on_event)

    def __repr__(self) -> str:
        return f"K2: home {self.settings.home}, {self.kafka}"

    @property
    def pipeline(self) -> Pipeline:
        """Producer and sinks, started when first asked for.

        Raises:
            OwnerError: with the embedded broker, another process writes this home.
        """
        if self._pipeline is None:
            self._watch = self.watch
            self._pipeline = Pipeline(
                self.catalog,
                settings=self.settings,
                target=self.kafka,
                with_sinks=self._with_sinks,
                on_event=self._heard,
            )
        return self._pipeline

    @property
    def watch(self) -> "Watch":
        """Metrics and alerts, started when first asked for, or with the first write.

        Raises:
            ConfigError: the port for metrics is in use, or the webhook's address is none.
        """
        if self._watch is None:
            from k2lib.ops.watch import Watch

            self._watch = Watch(self.settings)
        return self._watch

    def load_asx(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        reference: Path | None = None,
        parts: bool = False,
        on_progress: Callable[[str, int], None] = lambda file, n_bytes: None,
    ) -> LoadReport:
        """Load ASX files, folders or globs, and wait until the lake has them.

        Args:
            reference: folder of the reference data; by default looked for beside each file.
            parts: files of one company are parts of one file.
            on_progress: told of every chunk: file, bytes.
        Returns:
            What became of each file; one that cannot be loaded does not stop the others.
        """
        return load_asx(
            [paths] if isinstance(paths, str | Path) else paths,
            pipeline=self.pipeline,
            engine=self.engine if self._with_sinks else None,
            reference=reference,
            parts=parts,
            on_progress=on_progress,
        )

    def load_binance_archive(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        exchange: str | None = None,
        assets: Sequence[str] = (),
        on_progress: Callable[[str, int], None] = lambda file, n_bytes: None,
    ) -> LoadReport:
        """Load zips of trades from Binance's archive, and wait until the lake has them.

        Args:
            exchange: of all files; by default what `exchange.txt` in their folders says, else
                BINANCE.
            assets: BASE/QUOTE of symbols that are not in the table shipped with k2lib.
            on_progress: told of every chunk: file, bytes.
        Returns:
            What became of each file; one that cannot be loaded does not stop the others.
        Raises:
            ConfigError: a text of `assets` is not two assets.
        """
        from k2lib.load.binance import load_binance_archive
        from k2lib.sources.binance.symbols import read_assets

        return load_binance_archive(
            [paths] if isinstance(paths, str | Path) else paths,
            pipeline=self.pipeline,
            engine=self.engine if self._with_sinks else None,
            exchange=exchange,
            instruments=read_assets(assets),
            on_progress=on_progress,
        )

    def feed(
        self,
        symbols: Sequence[str],
        *,
        venue: Venue | None = None,
        options: "FeedOptions | None" = None,
    ) -> "Feed":
        """Start a live feed of trades; `close()` of the feed, or of this, ends it.

        Args:
            symbols: the venue's names, for example BTCUSDT.
            venue: Binance, or what the settings name, without it.
        Raises:
            ConfigError: no such symbol.
            TransientError: the venue cannot be reached.
        """
        from k2lib.feed.live import Feed
        from k2lib.feed.told import told_path
        from k2lib.state import open_state

        pipeline = self.pipeline
        if self._state is None:
            url = self.settings.redis_url
            self._state = open_state(
                None if url is None else url.get_secret_value(), on_event=self._heard
            )
        feed = Feed(
            venue or choose_venue(self.settings),
            symbols,
            pipeline=pipeline,
            engine=self.engine,
            state=self._state,
            told=told_path(self.settings.home),
            alerts=lambda: [f"{one.name}: {one.summary}" for one in self.watch.alerts.firing],
            options=options,
            on_event=self._heard,
        )
        self._feeds.append(feed)
        return feed

    def stream_binance(
        self,
        symbols: Sequence[str],
        *,
        seconds: float | None = None,
        venue: Venue | None = None,
        options: "FeedOptions | None" = None,
    ) -> "FeedStatus":
        """Stream live trades for so long, or until Ctrl-C, and wait until the lake has them.

        Returns:
            Where the feed stood at its end; `contiguity()` says what the lake has of it.
        Raises:
            ConfigError, TransientError: as `feed`; or what ended it.
        """
        with self.feed(symbols, venue=venue, options=options) as feed:
            with suppress(KeyboardInterrupt):
                feed.wait(seconds)
            status = feed.status()
        self.pipeline.settle() if self._with_sinks else self.pipeline.flush()
        return status

    def contiguity(self, exchange: str | None = None) -> pl.DataFrame:
        """Count the trade ids of each symbol in the lake; see `query.contiguity`."""
        return contiguity(self.engine, exchange)

    def sink(
        self,
        tables: Sequence[str] | None = None,
        *,
        accept_loss: bool = False,
        on_event: OnEvent = log_event,
    ) -> None:
        """Feed tables from Kafka until Ctrl-C.

        Args:
            tables: names; all without it.
            accept_loss: records that left the log become dead letters, reason `lost`.
        Raises:
            ConfigError: no Kafka runs, or there is no such table.
            LossError: records left the log before a table had them.
        """
        names = list(tables or TABLES)
        unknown = [name for name in names if name not in TABLES]
        if unknown:
            raise ConfigError(f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
        if self.kafka.cluster is None:
            raise ConfigError(
                "no Kafka to read from: `k2 up`, or set K2_KAFKA_BOOTSTRAP. "
                "The embedded broker lives and ends with the process that writes"
            )
        with closing(RemoteKafka(self.kafka.cluster, self.kafka.registry_url)) as kafka:
            run_sinks(
                make_sinks(
                    [TABLES[name] for name in names],
                    self.catalog,
                    kafka,
                    self.settings,
                    accept_loss=accept_loss,
                    on_event=on_event,
                )
            )

    def corporate_actions(self, reference: str | Path) -> CorporateActions:
        """Read dividends, splits and mergers of a reference folder; they are not stored."""
        return read_corporate_actions(Path(reference))

    def trades(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return one instrument's trades of [start, end) in the order of events.

        Args:
            exchange: needed where the symbol is held at more than one.
            start: aware datetime, or a date: the venue's trading date.
            end: as `start`; not included.
            as_of: snapshot id, tag or aware time: the table as it was then, without Kafka.
            last: only so many of the newest.
            tail: with what Kafka has and the lake has not; `complete_to` says up to where.
        Raises:
            QueryError: no such instrument, or more than one; the message names what there is.
        """
        return self.engine.trades(
            symbol, exchange=exchange, start=start, end=end, as_of=as_of, last=last, tail=tail
        )

    def quotes(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return one instrument's quotes of [start, end) in the order of events; see `trades`."""
        return self.engine.quotes(
            symbol, exchange=exchange, start=start, end=end, as_of=as_of, last=last, tail=tail
        )

    def bars(
        self,
        symbol: str,
        *,
        every: str | timedelta = "1m",
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        market: Market = "all",
        tail: bool = True,
    ) -> pl.DataFrame:
        """Fold one instrument's trades into OHLCV bars; see `query.bars.bars`."""
        return bars.bars(
            self.engine,
            symbol,
            every=every,
            exchange=exchange,
            start=start,
            end=end,
            as_of=as_of,
            market=market,
            tail=tail,
        )

    def sql(
        self,
        text: str,
        params: Params | None = None,
        *,
        start: When | None = None,
        end: When | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Run SQL over `trades_v2`, `quotes_v2`, `reference_v2`, `dead_letters`, `gaps`, bars.

        Args:
            start, end: trades, quotes and bars have only `[start, end)`, and no file of other times
                is opened; a date is of UTC, since no one venue is asked for.
            tail: `trades_v2`, `quotes_v2` and `gaps` with what Kafka has and the lake has not;
                `lake.<table>` is the table alone.
        """
        return self.engine.sql(text, params, start=start, end=end, tail=tail)

    def replay(
        self,
        symbols: str | Sequence[str],
        *,
        start: When,
        end: When,
        exchange: str | None = None,
        kinds: Sequence[str] = ("trades", "quotes"),
        speed: float | None = None,
        as_of: AsOf | None = None,
        tail: bool = False,
    ) -> "Replay":
        """Replay what was traded and quoted, in the order of events; see `replay.replay`."""
        from k2lib.replay.player import replay

        return replay(
            self.engine,
            symbols,
            start=start,
            end=end,
            exchange=exchange,
            kinds=kinds,
            speed=speed,
            as_of=as_of,
            tail=tail,
        )

    def connection(self, *, tail: bool = True) -> Connection:
        """Return a DB-API connection, for JupySQL and other tools; what it reads is as `sql`'s."""
        return Connection(self.engine, tail=tail)

    def summary(
        self,
        symbol: str,
        day: date,
        *,
        exchange: str | None = None,
        as_of: AsOf | None = None,
        market: Market = "all",
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return one trading date of one instrument as a row; see `query.summary`."""
        return ask_summary(
            self.engine,
            symbol,
            day,
            exchange=exchange,
            as_of=as_of,
            market=market,
            tail=tail,
        ).frame

    def symbols(self, table: str = "trades_v2", *, tail: bool = True) -> pl.DataFrame:
        """List the instruments a table holds, with rows, first and last; see `query.stats`."""
        return ask_symbols(self.engine, table=table, tail=tail).frame

    def complete_to(self, table: str = "trades_v2") -> CompleteTo:
        """Say up to which offsets and event time an answer of this moment is complete."""
        return self.engine.look(table).complete_to

    def snapshots(self, table: str = "trades_v2") -> pl.DataFrame:
        """List the snapshots kept of a table, newest first, with rows, cause and offsets."""
        return as_of.snapshots(self.table(table))

    def difference(self, before: AsOf, after: AsOf, *, table: str = "trades_v2") -> pl.DataFrame:
        """Return the rows by which two snapshots of a table differ; see `query.difference`."""
        return difference(self.engine, self.table(table), before, after)

    def table(self, name: str) -> Table:
        """Return the Iceberg table itself, for Polars, pyiceberg and other engines.

        Raises:
            QueryError: nothing was written to it yet, or there is no such table.
        """
        if name not in TABLES:
            raise QueryError(f"no table {name}; there are {', '.join(TABLES)}")
        table = load_table(self.catalog, name)
        if table is None:
            raise QueryError(f"{name} is empty: nothing was loaded into {self.settings.home} yet")
        return table

    def find_log(self) -> LogSource:
        """Find the log that goes with the lake: what runs here, or where its writer lives.

        Raises:
            TransientError: there is none now.
        """
        if self._pipeline is not None:
            return self._pipeline.log
        if self.kafka.cluster is None:
            return attach(self.settings.home)
        if self._reading is None:
            self._reading = RemoteKafka(self.kafka.cluster, self.kafka.registry_url)
        return LogSource(self._reading.cluster, self._reading.registry.text)

    def close(self) -> None:
        """Wait until the tables have what was written, then end everything that was started."""
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.close()
        # Clients of an embedded broker leave before it ends.
        self.engine.leave_log()
        pipeline, self._pipeline = self._pipeline, None
        try:
            if pipeline is not None:
                pipeline.close()
        finally:
            for part in (self._state, self._watch):
                if part is not None:
                    part.close()
            if self._reading is not None:
                self._reading.close()
            self.engine.close()

    def _heard(self, event: Event) -> None:
        if self._watch is not None:
            self._watch.heard(event)
        self._on_event(event)

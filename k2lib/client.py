"""K2: one object over the lake and the log of a home, for notebooks and the command line."""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from k2lib.errors import ConfigError
from k2lib.events import Event, OnEvent, log_event, to_all
from k2lib.iceberg.sink_threads import make_sinks, run_sinks
from k2lib.iceberg.tables import TABLES, open_catalog
from k2lib.kafka.access import AccessCheck, kafka_options, registry_options
from k2lib.kafka.cluster import Cluster, KafkaSource, check_bootstrap
from k2lib.kafka.connect import RemoteKafka
from k2lib.kafka.embedded import attach
from k2lib.kafka.registry import check_registry_url
from k2lib.lifecycle import Closing, interrupts_deferred
from k2lib.load import LoadReport, load_files
from k2lib.ops import services
from k2lib.ops.home_lake import with_home_lake
from k2lib.pipeline import Pipeline, Target
from k2lib.query.dead_letters import letter_rows
from k2lib.query.engine import Engine
from k2lib.reads import Reads
from k2lib.retry import RetryReport, retry_letters
from k2lib.settings import Settings, read_settings
from k2lib.venues import file_venue, live_venue
from k2lib.venues.asx.reference import CorporateActions, read_corporate_actions
from k2lib.venues.base import FileOptions, LiveVenue

if TYPE_CHECKING:  # what only a live feed or an archive needs is imported when one is used
    from k2lib.feed.feed import Feed
    from k2lib.feed.options import FeedOptions
    from k2lib.feed.state_store import StateStore
    from k2lib.feed.status import FeedStatus
    from k2lib.ops.monitor import Monitor


def choose_kafka(settings: Settings) -> Target:
    """Choose the Kafka: the one in the settings, else what `k2 up` started, else embedded.

    Raises:
        ConfigError: a Kafka without a schema registry, or with an option it does not know.
    """
    options = kafka_options(settings)
    in_file = options.pop("bootstrap.servers", None)
    bootstrap = settings.kafka_bootstrap or in_file
    if bootstrap is not None:
        setting = "K2_KAFKA_BOOTSTRAP" if settings.kafka_bootstrap else "bootstrap.servers"
        check_bootstrap(bootstrap, setting=setting)
        if settings.schema_registry_url is None:
            raise ConfigError(f"Kafka at {bootstrap}: set K2_SCHEMA_REGISTRY_URL too")
        check_registry_url(settings.schema_registry_url)
        cluster = Cluster(bootstrap, options, timeout_s=settings.timeout_s)
        cluster.admin()  # a client that is made and dropped: a wrong option is refused here
        return Target(
            "yours",
            cluster,
            settings.schema_registry_url,
            registry_options=registry_options(settings),
            check=AccessCheck(cluster),
        )
    local = services.started(settings.home)
    if local is not None:
        bootstrap, registry_url = (server.address for server in local)
        check = partial(services.check_running, settings.home, bootstrap=bootstrap)
        cluster = Cluster(bootstrap, timeout_s=settings.timeout_s)
        return Target("local services", cluster, registry_url, check=check)
    return Target("embedded")


def choose_venue(settings: Settings) -> LiveVenue:
    """Return Binance at its own hosts, or at those of the settings.

    Raises:
        ConfigError: an address that is none, or one kind of address without the other.
    """
    ws, rest = settings.binance_ws_urls, settings.binance_rest_urls
    if (ws is None) != (rest is None):
        raise ConfigError("set K2_BINANCE_WS_URLS and K2_BINANCE_REST_URLS together, or neither")
    venue = live_venue("binance")
    return venue if ws is None or rest is None else venue.at(ws.split(","), rest.split(","))


class K2(Reads, Closing):
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
        self.kafka = choose_kafka(settings)
        settings = with_home_lake(settings)
        catalog = open_catalog(settings)
        engine = Engine(catalog, find_log=self.find_log)
        super().__init__(settings, catalog=catalog, engine=engine)
        self._reading: RemoteKafka | None = None
        self._with_sinks = with_sinks
        self._on_event = on_event
        self._pipeline: Pipeline | None = None
        self._feeds: list[Feed] = []
        self._state: StateStore | None = None
        self._watch: Monitor | None = None
        logging.getLogger("k2lib").info("%s", self)

    @classmethod
    def open(cls, *, on_event: OnEvent = log_event, **settings: Any) -> Self:
        """Open a home: given settings first, then `K2_*`, then running services, then embedded.

        Args:
            on_event: called with each event of what this starts, from several threads; see
                `k2lib.events`.
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
            OwnerError: with the embedded broker, another K2 writes this home, here or elsewhere.
            ClosedError: this home was closed.
        """
        self.engine.check_open()
        if self._pipeline is None:
            self._watch = self.watch
            with interrupts_deferred() as interrupt:
                self._pipeline = Pipeline(
                    self.catalog,
                    settings=self.settings,
                    target=self.kafka,
                    with_sinks=self._with_sinks,
                    on_event=self._report,
                )
            interrupt.check()
        return self._pipeline

    @property
    def watch(self) -> "Monitor":
        """Metrics and alerts, started when first asked for, or with the first write.

        Raises:
            ConfigError: the port for metrics is in use, or the webhook's URL is invalid.
        """
        if self._watch is None:
            from k2lib.ops.monitor import Monitor

            self._watch = Monitor(self.settings)
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
        return self._load("asx", paths, FileOptions(reference=reference, parts=parts), on_progress)

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
        options = FileOptions(exchange=exchange, assets=assets)
        return self._load("binance", paths, options, on_progress)

    def feed(
        self,
        symbols: Sequence[str],
        *,
        venue: LiveVenue | None = None,
        options: "FeedOptions | None" = None,
        on_event: OnEvent | None = None,
    ) -> "Feed":
        """Start a live feed of trades; `close()` of the feed, or of this, ends it.

        Args:
            symbols: the venue's names, for example BTCUSDT, or BINANCE:BTCUSDT with the venue.
            venue: Binance, or what the settings name, without it.
            on_event: called with each event of this feed, from its threads, after the listener
                of `open`; see `k2lib.events`.
        Raises:
            ConfigError: no such symbol.
            TransientError: the venue cannot be reached.
        """
        from k2lib.feed.feed import Feed
        from k2lib.feed.state_store import open_state
        from k2lib.feed.status_file import status_path

        self.engine.check_open()
        venue = venue or choose_venue(self.settings)
        self.watch.add_venue(venue)
        if self._state is None:
            url = self.settings.redis_url
            self._state = open_state(
                None if url is None else url.get_secret_value(), on_event=self._report
            )
        feed = Feed(
            venue,
            symbols,
            pipeline=lambda: self.pipeline,
            engine=self.engine,
            state=self._state,
            status_path=status_path(self.settings.home),
            alerts=lambda: [f"{one.name}: {one.summary}" for one in self.watch.alerts.firing],
            options=options,
            on_event=self._report if on_event is None else to_all(self._report, on_event),
        )
        self._feeds.append(feed)
        return feed

    def stream_binance(
        self,
        symbols: Sequence[str],
        *,
        seconds: float | None = None,
        venue: LiveVenue | None = None,
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
        feed.wait(0)
        self.pipeline.settle() if self._with_sinks else self.pipeline.flush()
        return status

    def retry_dead_letters(
        self,
        message_id: str | None = None,
        *,
        reason: str | None = None,
        source: str | None = None,
    ) -> RetryReport:
        """Produce the records of dead letters again that can be decoded now, and wait for the lake.

        Each goes to its own topic, with its key and headers; none is in the lake twice.

        Args:
            message_id: of one dead letter; `reason` and `source` as of `dead_letters`: all of
                those, and all there are without any.
        Returns:
            What became of each; what is no Kafka record, or cannot be decoded, has a reason.
        Raises:
            NotFoundError: no dead letter has that message_id.
            DeliveryError, TransientError: Kafka or the lake did not take all of it.
        """
        letters = self.dead_letters(message_id, reason=reason, source=source)
        return retry_letters(
            letter_rows(letters), engine=self.engine, pipeline=lambda: self.pipeline
        )

    def sink(
        self,
        tables: Sequence[str] | None = None,
        *,
        accept_loss: bool = False,
        on_event: OnEvent = log_event,
    ) -> None:
        """Feed tables from Kafka until Ctrl-C; what it does is in the metrics of this process.

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
        self.kafka.check()
        watch = self.watch
        with closing(self._remote(self.kafka.cluster)) as kafka:
            run_sinks(
                make_sinks(
                    [TABLES[name] for name in names],
                    self.catalog,
                    kafka,
                    self.settings,
                    accept_loss=accept_loss,
                    on_event=to_all(watch.on_event, on_event),
                ),
                start_s=self.settings.timeout_s,
            )

    def _load(
        self,
        venue: str,
        paths: str | Path | Sequence[str | Path],
        options: FileOptions,
        on_progress: Callable[[str, int], None],
    ) -> LoadReport:
        self.engine.check_open()
        return load_files(
            file_venue(venue),
            [paths] if isinstance(paths, str | Path) else paths,
            pipeline=lambda: self.pipeline,
            engine=self.engine if self._with_sinks else None,
            options=options,
            on_progress=on_progress,
        )

    def corporate_actions(self, reference: str | Path) -> CorporateActions:
        """Read dividends, splits and mergers of a reference folder; they are not stored."""
        return read_corporate_actions(Path(reference))

    def find_log(self) -> KafkaSource:
        """Find the log that goes with the lake: what runs here, or where its writer lives.

        Raises:
            TransientError: there is none now.
        """
        if self._pipeline is not None:
            return self._pipeline.log
        if self.kafka.cluster is None:
            return attach(self.settings.home)
        self.kafka.check()
        if self._reading is None:
            self._reading = self._remote(self.kafka.cluster)
        return KafkaSource(self._reading.cluster, self._reading.registry.text)

    def _remote(self, cluster: Cluster) -> RemoteKafka:
        return RemoteKafka(cluster, self.kafka.registry_url, self.kafka.registry_options)

    def close(self) -> None:
        """Wait until the tables have what was written, then end everything that was started."""
        with interrupts_deferred() as interrupt:
            self._end()
        interrupt.check()

    def _end(self) -> None:
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
            # Its connections would keep the catalog's file open until Python collects garbage.
            self.catalog.close()

    def _report(self, event: Event) -> None:
        if self._watch is not None:
            self._watch.on_event(event)
        self._on_event(event)

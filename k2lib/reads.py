"""What can be asked of a home, whoever writes it."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2lib.errors import QueryError
from k2lib.iceberg.tables import TABLES, load_table
from k2lib.query.answer import CompleteTo, Params
from k2lib.query.dbapi import DbApiConnection
from k2lib.query.engine import Engine
from k2lib.query.request import TimeBound
from k2lib.query.sql import Market
from k2lib.query.statistics import ask_summary, ask_symbols, bars, contiguity, difference
from k2lib.query.time_travel import AsOf, snapshots
from k2lib.settings import Settings

if TYPE_CHECKING:
    from k2lib.replay.player import Replay


class Reads:
    """The reads of `K2`: each is of one moment, with what only Kafka has unless told otherwise."""

    def __init__(self, settings: Settings, *, catalog: Catalog, engine: Engine) -> None:
        self.settings = settings
        self.catalog = catalog
        self.engine = engine

    def trades(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
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
        start: TimeBound | None = None,
        end: TimeBound | None = None,
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
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        as_of: AsOf | None = None,
        market: Market = "all",
        tail: bool = True,
    ) -> pl.DataFrame:
        """Fold one instrument's trades into OHLCV bars; see `query.statistics.bars`."""
        return bars(
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
        start: TimeBound | None = None,
        end: TimeBound | None = None,
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

    def connection(self, *, tail: bool = True) -> DbApiConnection:
        """Return a DB-API connection, for JupySQL and other tools; what it reads is as `sql`'s."""
        return DbApiConnection(self.engine, tail=tail)

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
        """Return one trading date of one instrument as a row; see `query.statistics`."""
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
        """List the instruments a table holds, with rows, first and last; see `query.statistics`."""
        return ask_symbols(self.engine, table=table, tail=tail).frame

    def replay(
        self,
        symbols: str | Sequence[str],
        *,
        start: TimeBound,
        end: TimeBound,
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

    def complete_to(self, table: str = "trades_v2") -> CompleteTo:
        """Say up to which offsets and event time an answer of this moment is complete."""
        return self.engine.table_view(table).complete_to

    def snapshots(self, table: str = "trades_v2") -> pl.DataFrame:
        """List the snapshots kept of a table, newest first, with rows, cause and offsets."""
        return snapshots(self.table(table))

    def difference(self, before: AsOf, after: AsOf, *, table: str = "trades_v2") -> pl.DataFrame:
        """Return the rows by which two snapshots of a table differ; see `query.time_travel`."""
        return difference(self.engine, self.table(table), before, after)

    def contiguity(self, exchange: str | None = None) -> pl.DataFrame:
        """Count the trade ids of each symbol in the lake; see `query.statistics`."""
        return contiguity(self.engine, exchange)

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

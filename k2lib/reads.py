"""The reads of `K2`: trades, quotes, bars, SQL, replay, and what is known of the tables."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2lib.errors import QueryError
from k2lib.iceberg.tables import load_table
from k2lib.query.answer import CompleteTo, Params
from k2lib.query.dbapi import DbApiConnection
from k2lib.query.dead_letters import read_dead_letters
from k2lib.query.engine import Engine, check_table
from k2lib.query.request import AsOf, ReadRequest, TimeBound, instrument_names
from k2lib.query.statistics import (
    contiguity,
    difference,
    read_bars,
    read_summary,
    read_symbols,
)
from k2lib.query.time_travel import snapshots
from k2lib.schema.market import Market
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
        market: Market = "all",
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return one instrument's trades of `[start, end)`.

        Example: `k2.trades("BHP", exchange="ASX", start=date(2014, 3, 10), last=100)`.

        Args:
            symbol: the venue's name of the instrument, for example BHP, or ASX:BHP with its venue.
            exchange: the venue, for example ASX; needed where the symbol trades at several.
            start: the first moment, a datetime with a time zone; or a date: midnight of the
                venue's trading date; or either as ISO 8601 text. None for the first trade.
            end: as `start`, itself left out. None for the last trade.
            as_of: a snapshot id, a tag, a datetime with a time zone, or a date, which is 00:00 UTC
                of it, also as text: the table as it was then, without what Kafka has beyond it.
            last: return only so many of the newest rows.
            market: which trades count: `all`, `on` without the off-market prints (ASX venue `X`),
                or `off`, these alone.
            tail: whether to add the trades that Kafka has and the lake does not have yet;
                `complete_to` says up to where.
        Returns:
            One row a trade with the columns of `trades_v2`, each message_id once, in the order
            of events: timestamp (UTC, microseconds), source_sequence, platform_sequence,
            message_id, nulls first. price is in `currency`, quantity in shares or units of the
            base asset; both are decimals with 8 places.
        Raises:
            NotFoundError: no such symbol, venue or snapshot; the message names what there is.
            QueryError: the symbol trades at several venues and none is given, a datetime without
                a time zone, an end before its start, or an argument of a wrong type.
            ClosedError: this home was closed.
        """
        request = ReadRequest(
            symbol, exchange, start, end, as_of=as_of, last=last, tail=tail, market=market
        )
        return self.engine.read("trades_v2", request).frame

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
        """Return one instrument's best bids and asks of `[start, end)`.

        Example: `k2.quotes("BHP", exchange="ASX", start=date(2014, 3, 10))`.

        Args:
            symbol: the venue's name of the instrument, for example BHP, or ASX:BHP with its venue.
            exchange: the venue, for example ASX; needed where the symbol trades at several.
            start: the first moment, a datetime with a time zone; or a date: midnight of the
                venue's trading date; or either as ISO 8601 text. None for the first quote.
            end: as `start`, itself left out. None for the last quote.
            as_of: a snapshot id, a tag, a datetime with a time zone, or a date, which is 00:00 UTC
                of it, also as text: the table as it was then, without what Kafka has beyond it.
            last: return only so many of the newest rows.
            tail: whether to add the quotes that Kafka has and the lake does not have yet.
        Returns:
            One row a quote with the columns of `quotes_v2`, each message_id once, in the order
            of events: timestamp (UTC, microseconds), source_sequence, platform_sequence,
            message_id, nulls first. bid_price, bid_quantity, ask_price and ask_quantity are
            decimals with 8 places, null where a side is empty.
        Raises:
            NotFoundError: no such symbol, venue or snapshot; the message names what there is.
            QueryError: the symbol trades at several venues and none is given, a datetime without
                a time zone, an end before its start, or an argument of a wrong type.
            ClosedError: this home was closed.
        """
        return self.engine.read(
            "quotes_v2",
            ReadRequest(symbol, exchange, start, end, as_of=as_of, last=last, tail=tail),
        ).frame

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
        """Fold one instrument's trades of `[start, end)` into OHLCV bars, by default all of them.

        Example: `k2.bars("BHP", exchange="ASX", every="5m", market="on")`.

        Args:
            symbol: the venue's name of the instrument, for example BHP, or ASX:BHP with its venue.
            every: the length of a bar: a number and s, m, h or d, or a timedelta; a day at most.
                Below a day, bars start at whole multiples since the epoch; a day is the venue's
                trading date, from its midnight.
            exchange: the venue, for example ASX; needed where the symbol trades at several.
            start: the first moment of trades that count, a datetime with a time zone; or a date:
                midnight of the venue's trading date; or either as ISO 8601 text. The first bar
                can be a part.
            end: as `start`, itself left out; the last bar can be a part.
            as_of: a snapshot id, a tag, a datetime with a time zone, or a date, which is 00:00 UTC
                of it, also as text: the table as it was then, without what Kafka has beyond it.
            market: which trades count: `all`, `on` without the off-market prints (ASX venue `X`),
                or `off`, these alone.
            tail: whether trades count that Kafka has and the lake does not have yet.
        Returns:
            One row a bar with a trade, by start: exchange, symbol, start (UTC; and trading_date
            of daily bars), open, high, low, close in `currency`, volume in units of quantity,
            trades (their number), vwap and turnover. turnover is the exact sum of price times
            quantity; vwap is turnover / volume, rounded half away from 0 to 8 decimals, null
            where the volume is 0. open and close follow the order of events.
        Raises:
            NotFoundError: no such symbol, venue or snapshot; the message names what there is.
            QueryError: no such bar length or market, the symbol trades at several venues and none
                is given, or an argument of a wrong type.
            ClosedError: this home was closed.
        """
        request = ReadRequest(symbol, exchange, start, end, as_of=as_of, tail=tail, market=market)
        return read_bars(self.engine, request, every=every).frame

    def sql(
        self,
        text: str,
        params: Params | None = None,
        *,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Run SQL over the tables and bars of this home, each seen at one moment.

        `trades_v2` and `quotes_v2` have the rows too that only Kafka has yet, each message_id
        once; `gaps` is the newest revision of each gap; `reference_v2` and `dead_letters` are
        the tables; `lake.<table>` is a table alone, as stored; `bars_1s`, `bars_1m`, `bars_5m`,
        `bars_1h` and `bars_1d` are the bars of every instrument, of all its trades;
        `on_market.bars_1d` and so on leave out the off-market prints.

        Example: `k2.sql("SELECT count(*) FROM trades_v2 WHERE symbol = ?", ["BHP"])`.

        Args:
            text: DuckDB's SQL; of several statements the last one's rows are returned.
            params: a list of the values of `?`, or a dict of those of `$name`.
            start: trades, quotes and bars from this moment on, a datetime with a time zone; or a
                date, of UTC; or either as ISO 8601 text. No file of other times is opened.
            end: as `start`, itself left out.
            tail: whether the views have what Kafka has and the lake does not have yet.
        Returns:
            The rows in the order that the text gives them; without ORDER BY they have none.
            Times are UTC; an interval is a duration, with months of 30 days.
        Raises:
            QueryError: DuckDB refuses the text, with its message; or an argument of a wrong type.
            ClosedError: this home was closed.
        """
        return self.engine.sql(text, params, start=start, end=end, tail=tail)

    def connection(self, *, tail: bool = True) -> DbApiConnection:
        """Return a connection by Python's DB-API, for JupySQL and other tools.

        Example: `%sql connection --alias k2`, after `connection = k2.connection()`.

        Args:
            tail: whether statements see what Kafka has and the lake does not have yet.
        """
        return DbApiConnection(self.engine, tail=tail)

    def summary(
        self,
        symbol: str,
        day: date | str,
        *,
        exchange: str | None = None,
        as_of: AsOf | None = None,
        market: Market = "all",
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return one trading date of one instrument in one row, by default of all its trades.

        Example: `k2.summary("BHP", date(2014, 3, 10), exchange="ASX")`.

        Args:
            symbol: the venue's name of the instrument, for example BHP, or ASX:BHP with its venue.
            day: the venue's trading date, also as text.
            exchange: the venue, for example ASX; needed where the symbol trades at several.
            as_of: a snapshot id, a tag, a datetime with a time zone, or a date, which is 00:00 UTC
                of it, also as text: the table as it was then, without what Kafka has beyond it.
            market: which trades count: `all`, `on` without the off-market prints (ASX venue `X`),
                or `off`, these alone.
            tail: whether trades count that Kafka has and the lake does not have yet.
        Returns:
            exchange, symbol, trading_date, open, high, low, close, volume, trades, vwap, turnover
            as a daily bar of `bars` has them; first and last, the times (UTC) of the day's first
            and last trade of all markets.
        Raises:
            NotFoundError: nothing was traded that day; no such symbol, venue or snapshot.
            QueryError: the symbol trades at several venues and none is given, no such market, or
                an argument of a wrong type.
            ClosedError: this home was closed.
        """
        request = ReadRequest(symbol, exchange, as_of=as_of, tail=tail, market=market)
        return read_summary(self.engine, request, day).frame

    def symbols(self, table: str = "trades_v2", *, tail: bool = True) -> pl.DataFrame:
        """List the instruments of a table.

        Example: `k2.symbols("quotes_v2")`.

        Args:
            table: `trades_v2` or `quotes_v2`.
            tail: whether rows count that Kafka has and the lake does not have yet.
        Returns:
            One row an instrument, sorted: exchange, symbol, rows (their number), first and last
            (the event times of the oldest and newest row, UTC).
        Raises:
            QueryError: no such table, or one without instruments.
            ClosedError: this home was closed.
        """
        return read_symbols(self.engine, table, tail=tail).frame

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
        """Replay the trades and quotes of instruments in `[start, end)`, as they happened.

        Example: `for event in k2.replay("BHP", start=date(2014, 3, 10), end=date(2014, 3, 11)):`.

        Args:
            symbols: one or several: `BHP`, or with its venue `ASX:BHP`.
            start: the first moment, a datetime with a time zone; or a date: midnight of the
                trading date of each venue; or either as ISO 8601 text.
            end: as `start`, itself left out.
            exchange: the venue of the symbols that do not name theirs; needed where such a symbol
                trades at several.
            kinds: `trades`, `quotes` or both.
            speed: seconds of event time in a second: 1 for real time, 600 for ten minutes a
                second; None for as fast as the events are taken.
            as_of: a tag, a datetime with a time zone, or a date, which is 00:00 UTC of it, also
                as text: the tables as they were then; a snapshot's id with one kind.
            tail: whether to replay too what only Kafka has when the replay is made.
        Returns:
            An iterator, also with `async for`, of trades, quotes and gaps in the order of events:
            timestamp, exchange, symbol, then trades before quotes, then source_sequence,
            platform_sequence, message_id, nulls first. A gap stands before the trade after it.
            `.batches()` gives the same as Arrow record batches. Each iteration begins again, on
            the same rows.
        Raises:
            NotFoundError: no such symbol, venue or snapshot; the message names what there is.
            QueryError: no such kind, speed or span, a symbol of several venues, or an argument
                of a wrong type.
            ClosedError: this home was closed.
        """
        from k2lib.replay.player import replay

        requests = [
            ReadRequest(symbol, venue or exchange, start, end, as_of=as_of, tail=tail)
            for venue, symbol in instrument_names(symbols)
        ]
        return replay(self.engine, requests, kinds=kinds, speed=speed)

    def dead_letters(
        self,
        message_id: str | None = None,
        *,
        reason: str | None = None,
        source: str | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        """Return the dead letters in the lake, the newest first.

        Example: `k2.dead_letters(reason="undecodable", last=100)`.

        Args:
            message_id: only this one.
            reason: only those of one reason, for example `overflow`.
            source: only those of one file name without folders, or of one topic.
            last: only so many of the newest.
        Returns:
            One row a dead letter, with the columns of the table `dead_letters`.
        Raises:
            NotFoundError: no dead letter has that message_id.
            QueryError: there is no such reason, or an argument of a wrong type.
            ClosedError: this home was closed.
        """
        return read_dead_letters(self.engine, message_id, reason=reason, source=source, last=last)

    def complete_to(self, table: str = "trades_v2") -> CompleteTo:
        """Say up to which offsets and event time a read of this moment is complete.

        Args:
            table: for example `trades_v2` or `gaps`.
        Raises:
            QueryError: no such table.
            ClosedError: this home was closed.
        """
        return self.engine.table_view(table).complete_to

    def snapshots(self, table: str = "trades_v2") -> pl.DataFrame:
        """List the snapshots kept of a table, the newest first.

        Returns:
            One row a snapshot: snapshot_id, parent_id, committed (UTC), operation, cause (`append`
            or what maintenance did), rows_added, rows_total, bytes_total, files_total, tags, and
            offsets: the JSON text of the Kafka offsets up to which it has the topics, or null.
        Raises:
            QueryError: no such table, or nothing was written to it yet.
            ClosedError: this home was closed.
        """
        return snapshots(self.table(table))

    def difference(self, before: AsOf, after: AsOf, *, table: str = "trades_v2") -> pl.DataFrame:
        """Return the rows by which two snapshots of a table differ.

        Example: `k2.difference("day-2026-03-13", "day-2026-03-14")`.

        Args:
            before: a snapshot id, a tag, a datetime with a time zone, or a date, also as text.
            after: as `before`.
            table: for example `trades_v2`.
        Returns:
            The table's columns after `change`, `added` or `removed`; by change, then in the
            table's order. Rows that maintenance wrote into other files are in neither.
        Raises:
            NotFoundError: no such snapshot is kept.
            QueryError: no such table, or nothing was written to it yet.
            ClosedError: this home was closed.
        """
        return difference(self.engine, self.table(table), before, after)

    def contiguity(self, exchange: str | None = None) -> pl.DataFrame:
        """Count the trade ids of each symbol in the lake whose venue counts its trades.

        Args:
            exchange: only the symbols of one venue.
        Returns:
            One row an instrument, by exchange and symbol: first_id, last_id, rows, twice (rows of
            an id that is there already), missing, explained (by closed gaps) and unexplained: 0
            where nothing is lost.
        Raises:
            ClosedError: this home was closed.
        """
        return contiguity(self.engine, exchange)

    def table(self, name: str) -> Table:
        """Return the Iceberg table itself, for Polars, pyiceberg and other engines.

        Raises:
            QueryError: nothing was written to it yet, or there is no such table.
            ClosedError: this home was closed.
        """
        self.engine.check_open()
        check_table(name)
        table = load_table(self.catalog, name)
        if table is None:
            raise QueryError(f"{name} is empty: nothing was loaded into {self.settings.home} yet")
        return table

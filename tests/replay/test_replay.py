"""Replay: every row once and in the order of events, gaps in their place, as asked."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from pyiceberg.catalog import Catalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from support.feeding import produce
from support.lake_rows import append, at, catalog_in, gap, quote, rows_table, trade
from support.open_files import open_files
from support.replaying import replay_of, requests_of
from support.waiting import wait_until

from k2lib.errors import QueryError
from k2lib.kafka.cluster import KafkaSource
from k2lib.kafka.embedded import EmbeddedBroker
from k2lib.query.engine import Engine
from k2lib.query.request import InstrumentFilter
from k2lib.replay import Gap, Quote, Replay, Trade
from k2lib.replay.events import merge_events
from k2lib.replay.gaps import absent, pieces
from k2lib.replay.plan import TABLE_OF, make_plan
from k2lib.replay.records import RecordBuilder
from k2lib.replay.series import (
    InstrumentSeries,
    SortedRun,
    in_file,
    in_table,
    of_tail,
    spans,
    times_us,
)
from k2lib.schema.records import QUOTE, TRADE

START, END = at(-200_000), at(200_000)
INSTRUMENTS = (("ASX", "BHP"), ("ASX", "CBA"), ("BINANCE", "BTCUSDT"), ("ASX_SIM", "BHP"))
SCHEMAS = {"trades": TRADE.arrow, "quotes": QUOTE.arrow}
NAMES = [":".join(names) for names in INSTRUMENTS]
Drawn = tuple[str, tuple[str, str], float, int | None, int | None, int]
# Few moments, so that many rows share one; some on another day, and so in other files.
ROWS = st.lists(
    st.tuples(
        st.sampled_from(list(TABLE_OF)),
        st.sampled_from(INSTRUMENTS),
        st.sampled_from([-86_400.0, -86_399.0, 0.0, 0.000001, 1.0, 2.0]),
        st.none() | st.integers(1, 4),
        st.none() | st.integers(0, 2),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=50,
)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as opened:
        yield opened


def counted(number: int, **changed: Any) -> dict[str, Any]:
    """Return a trade of a venue that counts its trades."""
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT", "source_sequence": number}
    return trade(number, **known | {"platform_sequence": None} | changed)


def drawn_row(number: int, drawn: Drawn) -> dict[str, Any]:
    kind, (exchange, symbol), second, sequence, place, _ = drawn
    names = {"exchange": exchange, "symbol": symbol, "message_id": f"{number * 7919 % 1000:03d}"}
    numbers = {"source_sequence": sequence, "platform_sequence": place}
    make = trade if kind == "trades" else quote
    return make(number, **names, **numbers, timestamp=at(second))


def by_order(kind: str, row: dict[str, Any]) -> tuple[Any, ...]:
    """The order of events, as the docstring of `Replay` has it."""
    numbers = [row[name] for name in ("source_sequence", "platform_sequence")]
    nulls_first = [-1 if number is None else number for number in numbers]
    moment = (row["timestamp"], row["exchange"], row["symbol"], kind != "trades")
    return (*moment, *nulls_first, row["message_id"])


def told(records: Any) -> list[tuple[str, str]]:
    """What came, without gaps: the kind and message_id of each."""
    kinds = {Trade: "trades", Quote: "quotes"}
    return [(kinds[type(one)], one.message_id) for one in records if not isinstance(one, Gap)]


def in_parts(engine: Engine, names: list[str], rows: int, **options: Any) -> Replay:
    """A replay that reads so many rows of a lane at once, for example one."""
    seen = {kind: engine.table_view(TABLE_OF[kind], tail=False) for kind in TABLE_OF}
    plan = make_plan(engine, requests_of(names, start=START, end=END), seen)
    nothing: dict[str, Any] = dict.fromkeys(("clock", "sleep", "async_sleep"))
    few = dataclasses.replace(plan, rows=rows)
    return Replay(engine, few, **{"speed": None, "tail": False, **nothing, **options})


def of(engine: Engine, *names: str, **options: Any) -> Replay:
    return replay_of(engine, names or NAMES[0], **{"start": START, "end": END, **options})


def gaps_of(engine: Engine, **options: Any) -> list[tuple[int, int, str, str]]:
    records = of(engine, "BTCUSDT", **options)
    return [
        (one.from_id, one.to_id, one.state, one.note) for one in records if isinstance(one, Gap)
    ]


def expected(drawn: list[Drawn]) -> list[tuple[str, str]]:
    rows = [(one[0], drawn_row(number, one)) for number, one in enumerate(drawn)]
    return [(kind, row["message_id"]) for kind, row in sorted(rows, key=lambda one: by_order(*one))]


@pytest.mark.slow
@settings(max_examples=40)
@given(ROWS, st.integers(1, 5))
def test_runs_are_merged_to_the_rows_sorted(drawn: list[Drawn], part: int) -> None:
    wanted = {
        names: InstrumentFilter(names[1], names[0], start=START, end=END) for names in INSTRUMENTS
    }
    pairs = [(kind, names) for names in sorted(INSTRUMENTS) for kind in TABLE_OF]
    runs = []
    for place, (kind, names) in enumerate(pairs):
        lane = InstrumentSeries(kind, wanted[names], place)
        for file in range(3):
            some = [
                drawn_row(number, one)
                for number, one in enumerate(drawn)
                if one[:2] == (kind, names) and one[-1] == file
            ]
            if some:
                found = of_tail(rows_table(some, TABLE_OF[kind]), lane, SCHEMAS[kind])
                since = int(times_us(found).min())
                runs.append(SortedRun(lane, since, partial(in_table, found, rows=part)))
    builder = RecordBuilder()
    woven = [merge_events(parts, []) for parts in spans(runs)]
    records = [one for each in woven for _, some in each.records(builder, 7) for one in some]
    assert told(records) == expected(drawn)


@pytest.mark.slow
@settings(max_examples=20)
@given(ROWS, st.integers(1, 5))
def test_a_replay_is_the_rows_of_all_files_sorted(drawn: list[Drawn], part: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalog = catalog_in(Path(folder))
        for kind, name in TABLE_OF.items():
            for file in range(3):
                rows = [
                    drawn_row(number, one)
                    for number, one in enumerate(drawn)
                    if (one[0], one[-1]) == (kind, file)
                ]
                if rows:
                    append(catalog, rows, name)
        with Engine(catalog) as engine:
            held = sorted({":".join(one[1]) for one in drawn})
            assert told(in_parts(engine, held, part)) == expected(drawn)


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_has_lake_and_tail(tmp_path: Path, catalog: Catalog, seed: int) -> None:
    rows = [trade(number, timestamp=at(number * (7 + seed) % 20)) for number in range(60)]
    append(catalog, rows[::2])
    with closing(EmbeddedBroker(tmp_path)) as broker:
        produce(broker, rows_table(rows[1::2]), "market.equities.trades.asx")
        source = KafkaSource(broker.cluster, broker.registry.text)
        with Engine(catalog, find_log=lambda: source) as engine:
            # An answer waits two seconds for what Kafka has, and then goes out without.
            wait_until(lambda: engine.table_view("trades_v2").complete_to.behind == 0)
            both, lake = of(engine, tail=True), of(engine)
            assert both.complete_to["trades_v2"].tail_rows == 30
            found, stored = told(both), told(lake)
    in_order = sorted(rows, key=lambda row: by_order("trades", row))
    assert found == [("trades", row["message_id"]) for row in in_order]
    assert len(stored) == 30


def test_a_record_has_the_fields_of_its_schema(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1, price=Decimal("36.67000001"), vendor_data=None)])
    append(catalog, [quote(1)], "quotes_v2")
    first, second = of(engine)
    assert Trade.__struct_fields__ == tuple(TRADE.arrow.names)
    assert Quote.__struct_fields__ == tuple(QUOTE.arrow.names)
    known = trade(1, price=Decimal("36.67000001"), vendor_data=None)
    assert structs.asdict(first) == known | {"trade_conditions": ("0",)}
    assert structs.asdict(second) == quote(1)
    assert first.timestamp.tzinfo is UTC


def test_a_price_is_exact_whatever_the_caller_calculates_with(
    catalog: Catalog, engine: Engine
) -> None:
    append(catalog, [trade(1, price=Decimal("9999999999.99999999"))])
    with localcontext(prec=3):
        [record] = of(engine)
    assert record.price == Decimal("9999999999.99999999")


def test_a_record_cannot_be_changed(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    [record] = of(engine)
    with pytest.raises(AttributeError):
        record.symbol = "CBA"


def test_maps_and_lists_of_every_length_are_read(catalog: Catalog, engine: Engine) -> None:
    lengths = (2, 0, 1, 3, 2)
    append(
        catalog,
        [
            trade(
                number,
                vendor_data={f"k{one}": str(number) for one in range(length)},
                trade_conditions=[str(one) for one in range(length)],
            )
            for number, length in enumerate(lengths)
        ],
    )
    records = list(of(engine))
    assert [len(one.vendor_data) for one in records] == list(lengths)
    assert [one.trade_conditions for one in records][3] == ("0", "1", "2")


def test_a_replay_stays_on_the_snapshot_it_was_made_at(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    before = of(engine)
    table = append(catalog, [trade(2)])
    assert len(list(before)) == len(list(before)) == 1
    assert len(list(of(engine))) == 2
    first = table.snapshots()[0].snapshot_id
    assert len(list(of(engine, kinds=["trades"], as_of=first))) == 1


def test_files_that_are_gone_are_told(catalog: Catalog, engine: Engine, tmp_path: Path) -> None:
    append(catalog, [trade(1)])
    replayed = of(engine)
    for file in tmp_path.glob("warehouse/**/*.parquet"):
        file.unlink()
    with pytest.raises(QueryError, match=r"no longer kept, and files of it are gone.*as_of="):
        list(replayed)


def test_only_files_of_the_moment_are_open(catalog: Catalog, engine: Engine) -> None:
    for day in range(6):
        append(catalog, [trade(number, timestamp=at(day * 86_400 + number)) for number in range(4)])
    records = iter(of(engine, end=at(10 * 86_400)))
    next(records)
    assert len(open_files()) <= 1
    assert len(list(records)) == 23


def test_a_span_is_open_at_its_end(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(number) for number in range(5)])
    records = of(engine, start=at(1), end=at(3))
    assert [one.timestamp for one in records] == [at(1), at(2)]


def test_a_date_is_the_trading_date_of_each_venue(catalog: Catalog, engine: Engine) -> None:
    # 13:30 UTC is half past midnight of the next day in Sydney.
    late = datetime(2014, 3, 10, 13, 30, tzinfo=UTC)
    append(catalog, [trade(1, timestamp=late), counted(1, timestamp=late)])
    days = {"start": date(2014, 3, 11), "end": date(2014, 3, 12)}
    assert [one.symbol for one in of(engine, "BHP", "BTCUSDT", **days)] == ["BHP"]


def test_symbols_of_several_exchanges_are_told_apart(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1), trade(2, exchange="ASX_SIM"), counted(3)])
    assert [one.exchange for one in of(engine, "ASX_SIM:BHP", "BTCUSDT")] == ["ASX_SIM", "BINANCE"]
    assert [one.exchange for one in of(engine, "BHP", exchange="ASX")] == ["ASX"]
    assert of(engine, *NAMES[:1], "BTCUSDT").instruments == [("ASX", "BHP"), ("BINANCE", "BTCUSDT")]
    with pytest.raises(QueryError, match="BHP is held at ASX, ASX_SIM: say which"):
        of(engine, "BHP")


def test_a_symbol_with_quotes_alone_is_replayed(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [quote(1)], "quotes_v2")
    assert len(list(of(engine))) == 1


def test_a_venue_without_ids_has_no_gaps(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1), trade(5)])
    assert told(of(engine)) == [("trades", "m000001"), ("trades", "m000005")]


def test_a_gap_stands_before_the_trade_after_it(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [counted(number) for number in (3, 4, 8)])
    append(catalog, [trade(8)])
    records = list(of(engine, "BHP", "BTCUSDT"))
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT", "timestamp": at(8)}
    assert records[3] == Gap(from_id=5, to_id=7, state="unrecorded", note="", **known)
    assert told(records[2:3] + records[4:]) == [("trades", "m000008")] * 2


def test_what_is_known_of_a_gap_is_told(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [counted(number) for number in (3, 4, 13)])
    known = {"from_id": 6, "to_id": 9}
    revisions = [
        gap("g", 0, **known),
        gap("g", 1, **known, state="none_at_venue", absent=4, note="never traded"),
    ]
    append(catalog, revisions, "gaps")
    assert gaps_of(engine) == [
        (5, 5, "unrecorded", ""),
        (6, 9, "none_at_venue", "never traded"),
        (10, 12, "unrecorded", ""),
    ]


def test_an_id_that_stands_at_another_time_is_no_gap(catalog: Catalog, engine: Engine) -> None:
    early, late = counted(5, timestamp=at(-100)), counted(6, timestamp=at(100))
    append(catalog, [counted(4), counted(8), early, late])
    assert gaps_of(engine, start=at(0), end=at(50)) == [(7, 7, "unrecorded", "")]


def test_a_gap_at_the_start_is_told(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [counted(number) for number in (2, 6, 7)])
    assert gaps_of(engine, start=at(5)) == [(3, 5, "unrecorded", "")]
    assert gaps_of(engine, start=at(7)) == []


def test_ids_filled_since_are_no_gap(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [counted(number) for number in (1, 2, 5)])
    append(catalog, [gap("g", 1, from_id=3, to_id=4, state="filled", filled=2)], "gaps")
    append(catalog, [counted(number) for number in (3, 4)])
    assert gaps_of(engine) == []


def test_quotes_have_no_gaps(catalog: Catalog, engine: Engine) -> None:
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT"}
    rows = [quote(number, source_sequence=number, **known) for number in (1, 9)]
    append(catalog, rows, "quotes_v2")
    assert len(list(of(engine, "BTCUSDT"))) == 2


@given(st.sets(st.integers(0, 40)), st.integers(0, 40), st.integers(0, 12))
def test_absent_are_the_ids_of_a_range_that_are_not_there(
    there: set[int], low: int, more: int
) -> None:
    ranges = absent((low, low + more), pa.array(sorted(there), pa.int64()).to_numpy())
    assert each(ranges) == sorted(set(range(low, low + more + 1)) - there)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=4))
def test_a_hole_is_split_into_all_of_its_ids(known: list[tuple[int, int]]) -> None:
    recorded = [(low, low + more, "lost", str(n)) for n, (low, more) in enumerate(known)]
    split = pieces((5, 15), recorded)
    assert each([(low, high) for low, high, _, _ in split]) == list(range(5, 16))
    for low, high, state, note in split:
        covering = [one[3] for one in recorded if one[0] <= low and high <= one[1]]
        assert (state, note) == (("lost", covering[-1]) if covering else ("unrecorded", ""))


def each(ranges: list[tuple[int, int]]) -> list[int]:
    return [one for low, high in ranges for one in range(low, high + 1)]


def test_batches_hold_the_same_events_in_the_same_order(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [counted(number) for number in range(50) if number not in (7, 8)])
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT"}
    append(catalog, [quote(n, source_sequence=n, **known) for n in range(0, 50, 5)], "quotes_v2")
    replayed = of(engine, "BTCUSDT")
    flat = [
        (batch.kind, row["timestamp"])
        for batch in replayed.batches(rows=3)
        for row in batch.rows.to_pylist()
    ]
    kinds = {Trade: "trades", Quote: "quotes", Gap: "gaps"}
    assert flat == [(kinds[type(one)], one.timestamp) for one in replayed]
    assert max(batch.rows.num_rows for batch in replayed.batches(rows=3)) == 3


def test_a_batch_has_the_schema_of_its_table(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1), trade(2)])
    [batch] = of(engine).batches()
    assert batch.rows.schema == TRADE.arrow
    [narrow] = of(engine).batches(columns=["price", "symbol"])
    assert narrow.rows.to_pydict() == {"symbol": ["BHP"] * 2, "price": [Decimal("36.67")] * 2}


def test_a_file_of_an_older_schema_has_null_where_it_has_no_column(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    pq.write_table(rows_table([trade(2), trade(1)]).drop(["platform_sequence"]), path)
    lane = InstrumentSeries("trades", InstrumentFilter("BHP", "ASX", start=START, end=END), 0)
    [found] = in_file(
        lane, str(path), io=PyArrowFileIO(), schema=TRADE.arrow, rows=10, with_ids=True
    )
    assert found["message_id"].to_pylist() == ["m000001", "m000002"]
    assert found["platform_sequence"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"speed": 0}, "speed=0: give a number above 0"),
        ({"speed": -1.0}, "speed=-1"),
        ({"speed": float("nan")}, "speed=nan"),
        ({"speed": float("inf")}, "speed=inf.*None for as fast as possible"),
        ({"start": datetime(2014, 3, 10)}, "start=2014-03-10T00:00:00 has no time zone"),  # noqa: DTZ001
        ({"end": START - timedelta(days=1)}, "is before start"),
        ({"kinds": ["trades", "bars"]}, r"kinds=\['trades', 'bars'\]: give some of trades, quotes"),
        ({"kinds": []}, r"kinds=\[\]"),
        ({"exchange": "NYSE"}, "BHP is not held at NYSE, but at ASX"),
        ({"symbols": "XYZ"}, "XYZ is not in trades_v2 or quotes_v2, which holds ASX:BHP"),
        ({"symbols": "NYSE:BHP"}, "BHP is not held at NYSE, but at ASX"),
        ({"symbols": []}, r"symbols=\[\]: name at least one"),
        ({"as_of": "no-such-tag"}, "has no such tag"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(
    catalog: Catalog, engine: Engine, asked: dict[str, Any], match: str
) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(QueryError, match=match):
        replay_of(engine, **{"symbols": "BHP", "start": START, "end": END, **asked})


@pytest.mark.parametrize(
    ("asked", "match"),
    [({"rows": 0}, "rows=0"), ({"columns": ["close"]}, "no column close in trades or quotes")],
)
def test_a_wrong_batch_is_refused(
    catalog: Catalog, engine: Engine, asked: dict[str, Any], match: str
) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(QueryError, match=match):
        of(engine).batches(**asked)

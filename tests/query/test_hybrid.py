"""Answers hold what Kafka has and the lake has not yet, each row once, and say up to where."""

import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from support.lake_rows import at, gap, quote, rows_table, trade
from support.live import CALM, SYMBOLS, venue_of
from support.waiting import first, wait_until

from k2lib import K2
from k2lib.errors import QueryError
from k2lib.kafka.consumer import TopicPartition
from k2lib.kafka.topics import GAPS
from k2lib.query.answer import CompleteTo
from k2lib.query.request import ReadRequest
from k2lib.schema.records import GAP, QUOTE, REFERENCE, TRADE
from k2lib.simulator import OfflineExchange

TRADES = "market.equities.trades.asx"
QUOTES = "market.equities.quotes.asx"
SIM = "market.equities.trades.asx_sim"
FRESH_S = 1.0


@pytest.fixture
def slow_k2(tmp_path: Path, kafka_settings: dict[str, str]) -> Iterator[K2]:
    """Open a home whose sinks commit only when somebody waits for them."""
    with K2.open(home=tmp_path / "home", commit_interval_s=1000, **kafka_settings) as opened:
        yield opened


def send(k2: K2, *numbers: int, topic: str = TRADES, **changed: object) -> None:
    rows = rows_table([trade(number, **changed) for number in numbers])
    k2.pipeline.produce(topic, rows, TRADE)
    k2.pipeline.flush()
    whole(k2)


def whole(k2: K2, table: str = "trades_v2") -> CompleteTo:
    """Ask until an answer has what Kafka has: none waits for it longer than two seconds."""
    return first(lambda: k2.complete_to(table), lambda told: told.behind == 0)


def ids(frame: pl.DataFrame) -> list[int]:
    return [int(one[1:]) for one in frame["message_id"]]


def test_trades_are_those_of_the_lake_and_of_kafka_in_order(slow_k2: K2) -> None:
    send(slow_k2, 1, 3)
    slow_k2.pipeline.settle()
    send(slow_k2, 2, 4)
    assert ids(slow_k2.trades("BHP")) == [1, 2, 3, 4]
    assert ids(slow_k2.trades("BHP", tail=False)) == [1, 3]
    assert ids(slow_k2.trades("BHP", last=2)) == [3, 4]
    assert ids(slow_k2.trades("BHP", start=at(2), end=at(4))) == [2, 3]


def test_a_row_only_kafka_has_reads_as_it_does_in_the_lake(slow_k2: K2) -> None:
    send(slow_k2, 1)
    fresh = slow_k2.trades("BHP")
    assert fresh.row(0, named=True) == trade(1)
    slow_k2.pipeline.settle()
    assert slow_k2.trades("BHP", tail=False).equals(fresh)


def test_a_row_sent_again_stays_the_first(slow_k2: K2) -> None:
    send(slow_k2, 1, 2)
    slow_k2.pipeline.settle()
    send(slow_k2, 1, 2, 3, 3, currency="NZD")
    assert slow_k2.trades("BHP")["currency"].to_list() == ["AUD", "AUD", "NZD"]


def test_in_sql_the_names_are_hybrid_and_lake_names_are_the_tables(slow_k2: K2) -> None:
    send(slow_k2, 1)
    slow_k2.pipeline.settle()
    send(slow_k2, 2)
    counts = "SELECT (SELECT count(*) FROM trades_v2), (SELECT count(*) FROM lake.trades_v2)"
    assert slow_k2.sql(counts).row(0) == (2, 1)
    assert slow_k2.sql(counts, tail=False).row(0) == (1, 1)


def test_a_view_made_earlier_has_what_kafka_has_now(slow_k2: K2) -> None:
    send(slow_k2, 1)
    slow_k2.sql("CREATE VIEW mine AS SELECT message_id FROM trades_v2")
    send(slow_k2, 2)
    assert slow_k2.sql("SELECT count(*) FROM mine").item() == 2


def test_an_instrument_only_kafka_knows_is_found(slow_k2: K2) -> None:
    send(slow_k2, 1, symbol="NEW")
    assert ids(slow_k2.trades("NEW")) == [1]
    with pytest.raises(QueryError, match="OLD is not in trades_v2, which holds ASX:NEW"):
        slow_k2.trades("OLD")


def test_a_symbol_at_a_second_venue_needs_the_venue_as_soon_as_kafka_has_it(slow_k2: K2) -> None:
    send(slow_k2, 1)
    slow_k2.pipeline.settle()
    send(slow_k2, 2, topic=SIM, exchange="ASX_SIM")
    with pytest.raises(QueryError, match="BHP is held at ASX, ASX_SIM"):
        slow_k2.trades("BHP")
    assert ids(slow_k2.trades("BHP", exchange="ASX_SIM")) == [2]
    assert ids(slow_k2.trades("BHP", exchange="ASX")) == [1]


def test_bars_count_what_only_kafka_has(slow_k2: K2) -> None:
    send(slow_k2, 1)
    slow_k2.pipeline.settle()
    send(slow_k2, 2, 3)
    assert slow_k2.bars("BHP")["trades"].to_list() == [3]
    assert slow_k2.bars("BHP", tail=False)["trades"].to_list() == [1]


def test_quotes_are_hybrid_too(slow_k2: K2) -> None:
    slow_k2.pipeline.produce(QUOTES, rows_table([quote(1)], "quotes_v2"), QUOTE)
    slow_k2.pipeline.flush()
    whole(slow_k2, "quotes_v2")
    assert slow_k2.quotes("BHP").row(0, named=True) == quote(1)


def test_gaps_are_at_the_newest_revision_that_kafka_has(slow_k2: K2) -> None:
    for revision in (0, 1):
        rows = rows_table([gap("a", revision), gap("b", 0)], "gaps")
        slow_k2.pipeline.produce(GAPS, rows, GAP)
        slow_k2.pipeline.settle() if revision == 0 else slow_k2.pipeline.flush()
    whole(slow_k2, "gaps")
    newest = slow_k2.sql("SELECT gap_id, revision FROM gaps ORDER BY gap_id")
    assert newest.rows() == [("a", 1), ("b", 0)]
    assert slow_k2.sql("SELECT count(*) FROM lake.gaps").item() == 2


def test_as_of_reads_the_lake_alone(slow_k2: K2) -> None:
    send(slow_k2, 1)
    slow_k2.pipeline.settle()
    snapshot = slow_k2.snapshots()["snapshot_id"][0]
    send(slow_k2, 2)
    answer = slow_k2.engine.read("trades_v2", ReadRequest("BHP", as_of=snapshot))
    told = answer.complete_to["trades_v2"]
    assert ids(answer.frame) == [1]
    assert (told.snapshot_id, told.log, told.reason) == (snapshot, False, None)


def test_an_answer_says_up_to_which_offsets_and_time_it_is_complete(slow_k2: K2) -> None:
    send(slow_k2, 1, 2)
    slow_k2.pipeline.settle()
    send(slow_k2, 3)
    told = whole(slow_k2)
    ((_, ends),) = told.offsets.items()
    assert sum(ends.values()) == 3 and {place.topic for place in ends} == {TRADES}
    assert told.snapshot_id == slow_k2.snapshots()["snapshot_id"][0]
    assert (told.log, told.tail_rows, told.behind, told.reason) == (True, 1, 0, None)
    assert told.time == at(3)
    assert list(told.times.values()) == [at(3)]


def test_each_answer_tells_of_the_tables_it_names(slow_k2: K2) -> None:
    send(slow_k2, 1)
    answer = slow_k2.engine.run_sql("SELECT count(*) FROM trades_v2, lake.quotes_v2")
    assert answer.complete_to.keys() == {"trades_v2", "quotes_v2"}
    assert answer.complete_to["trades_v2"].log and not answer.complete_to["quotes_v2"].log


def test_what_an_answer_rests_on_can_be_told_as_json(slow_k2: K2) -> None:
    send(slow_k2, 1)
    told = slow_k2.complete_to().to_json()
    assert told["time"] == at(1).isoformat()
    (topics,) = told["offsets"].values()
    assert sum(topics[TRADES].values()) == 1


def test_reading_a_home_that_nobody_writes_says_so(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        told = k2.complete_to()
        assert k2.sql("SELECT count(*) FROM trades_v2").item() == 0
    assert (told.log, told.behind) == (False, None)
    assert told.reason == "no process writes this home: the lake is all there is"


def test_after_the_end_of_what_was_written_the_lake_has_all_of_it(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        send(k2, 1, 2)
        before = k2.complete_to()
    with K2.open(home=tmp_path / "home") as k2:
        after = k2.complete_to()
        assert ids(k2.trades("BHP")) == [1, 2]
    assert after.time == before.time == at(2)
    ((log, ends),) = after.offsets.items()
    assert before.offsets[log].items() >= ends.items() and sum(ends.values()) == 2


def test_other_tables_are_shown_as_they_are_stored(slow_k2: K2) -> None:
    none = REFERENCE.arrow.empty_table()
    assert slow_k2.sql("SELECT * FROM reference_v2").columns == none.column_names
    assert slow_k2.engine.run_sql("FROM reference_v2").complete_to["reference_v2"].log is False


def test_difference_is_the_rows_of_one_snapshot_and_not_the_other(slow_k2: K2) -> None:
    for number in (1, 2, 3):
        send(slow_k2, number)
        slow_k2.pipeline.settle()
    newest, middle, oldest = slow_k2.snapshots()["snapshot_id"]
    added = slow_k2.difference(oldest, newest)
    assert list(zip(added["change"], ids(added), strict=True)) == [("added", 2), ("added", 3)]
    removed = slow_k2.difference(newest, middle)
    assert list(zip(removed["change"], ids(removed), strict=True)) == [("removed", 3)]
    assert slow_k2.difference(middle, middle).is_empty()


@pytest.mark.slow
def test_a_trade_just_received_is_in_the_next_answer_and_none_is_missing(k2: K2) -> None:
    def late_s() -> float:
        found = k2.trades("BTCUSDT", last=500)
        asked = datetime.now(UTC)
        numbers = found["source_sequence"]
        assert numbers.to_list() == list(range(numbers[0], numbers[-1] + 1))
        return (asked - found["ingestion_timestamp"][-1]).total_seconds()

    with (
        OfflineExchange(SYMBOLS, rate=200.0) as exchange,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM) as feed,
    ):
        wait_until(lambda: all(one.trades for one in feed.status().symbols))
        wait_until(lambda: k2.sql("SELECT 1 FROM trades_v2 WHERE symbol = 'BTCUSDT'").height)
        # The machine may pause during some answers, not during all.
        wait_until(lambda: statistics.median(late_s() for _ in range(40)) < FRESH_S)


def test_places_of_offsets_are_partitions_of_topics(slow_k2: K2) -> None:
    send(slow_k2, 1)
    (ends,) = slow_k2.complete_to().offsets.values()
    assert all(isinstance(place, TopicPartition) for place in ends)


def open_gap(k2: K2, gap_id: str, low: int, high: int, **changed: object) -> None:
    """Record a gap as a feed does that notices it an hour later."""
    ids = {"from_id": low, "to_id": high, "exchange": "ASX", "symbol": "BHP"}
    row = gap(gap_id, 1, **{"noticed": at(3600), **ids, **changed})
    k2.pipeline.produce(GAPS, rows_table([row], "gaps"), GAP)
    k2.pipeline.flush()


def gaps_in(told: CompleteTo) -> list[tuple[int, int]]:
    return [(one.from_id, one.to_id) for one in told.gaps]


def read(k2: K2, **request: object) -> CompleteTo:
    found = k2.engine.read("trades_v2", ReadRequest("BHP", **request))  # type: ignore[arg-type]
    return found.complete_to["trades_v2"]


@pytest.fixture
def holed(slow_k2: K2) -> K2:
    """A home with trades 0 to 9, of which 3, 4 and 8 are missing and noticed."""
    open_gap(slow_k2, "first", 3, 4)
    open_gap(slow_k2, "second", 8, 8)
    open_gap(slow_k2, "other", 3, 4, symbol="RIO")
    for number in (0, 1, 2, 5, 6, 7, 9):
        send(slow_k2, number, source_sequence=number)
    wait_until(lambda: len(slow_k2.complete_to().gaps) == 3)
    return slow_k2


def test_an_answer_names_the_open_gaps_among_its_rows(holed: K2) -> None:
    assert gaps_in(read(holed)) == [(3, 4), (8, 8)]
    assert gaps_in(read(holed, end=at(4))) == [(3, 4)]
    assert gaps_in(read(holed, start=at(6))) == [(8, 8)]
    assert gaps_in(read(holed, start=at(6), end=at(7))) == []
    assert gaps_in(read(holed, last=2)) == [(8, 8)]
    assert gaps_in(read(holed, first=2)) == []
    [first, _] = read(holed).gaps
    assert (first.after, first.before) == (at(2), at(5))


def test_sql_names_the_open_gaps_of_the_table_in_its_span(holed: K2) -> None:
    whole_table = holed.engine.run_sql("SELECT count(*) FROM trades_v2").complete_to["trades_v2"]
    assert gaps_in(whole_table) == [(3, 4), (8, 8), (3, 4)]
    part = holed.engine.run_sql("FROM trades_v2", start=at(6)).complete_to["trades_v2"]
    assert gaps_in(part) == [(8, 8), (3, 4)]
    assert "gaps" in part.to_json()


def test_a_gap_that_is_closed_is_named_no_longer(holed: K2) -> None:
    closed = {"state": "filled", "filled": 2, "from_id": 3, "to_id": 4}
    ours = {"exchange": "ASX", "symbol": "BHP", "noticed": at(3700)}
    holed.pipeline.produce(GAPS, rows_table([gap("first", 2, **closed, **ours)], "gaps"), GAP)
    holed.pipeline.settle()
    wait_until(lambda: gaps_in(read(holed)) == [(8, 8)])
    assert gaps_in(read(holed, tail=False)) == [(8, 8)]

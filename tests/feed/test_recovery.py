"""What a feed knows when it starts: from the lake, and from what Kafka has beyond it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyiceberg.expressions import In
from pyiceberg.table import Table
from support.lake_rows import append, rows_table, trade

from k2lib import K2
from k2lib.feed.gaps import SequenceGap, gap_rows
from k2lib.feed.recovery import RecoveredState, recover_state
from k2lib.feed.sequence_tracker import SequenceTracker
from k2lib.iceberg.sink import lock_path
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.consumer import TopicPartition
from k2lib.kafka.topics import GAPS, topic_name
from k2lib.locks import try_lock
from k2lib.schema.records import GAP, TRADE
from k2lib.venues.binance.venue import binance

BTC, ETH = "BTCUSDT", "ETHUSDT"
TOPIC = topic_name("crypto", "trades", "BINANCE")
NOW = datetime.now(UTC).replace(microsecond=0)
GAP_5_9 = SequenceGap("BINANCE", BTC, 5, 9)


@pytest.fixture(autouse=True)
def no_sinks(k2: K2) -> Iterator[None]:
    """Hold the sinks' locks until the end: what is produced stays in Kafka only."""
    held = [try_lock(lock_path(k2.settings.home / "run", name)) for name in ("trades_v2", "gaps")]
    yield
    for lock in held:
        assert lock is not None
        lock.close()


def tracker_of(state: RecoveredState) -> SequenceTracker:
    return SequenceTracker(
        "BINANCE", state.symbols, gaps=state.gaps, grace_s=0.5, clock=lambda: 0.0
    )


def when(number: int) -> datetime:
    return NOW - timedelta(seconds=10_000 - number)


def micros(number: int) -> int:
    return int(when(number).timestamp()) * 1_000_000


def rows(ids: Iterable[int], symbol: str, **changed: Any) -> list[dict[str, Any]]:
    return [
        trade(one, symbol=symbol, exchange="BINANCE", source_sequence=one, timestamp=when(one))
        | {"message_id": f"{symbol}{one}"}
        | changed
        for one in ids
    ]


def in_lake(k2: K2, *ids: int, symbol: str = BTC, **changed: Any) -> None:
    append(k2.catalog, rows(ids, symbol, **changed))


def in_kafka(k2: K2, *ids: int, symbol: str = BTC) -> None:
    k2.pipeline.produce(TOPIC, rows_table(rows(ids, symbol)), TRADE)
    k2.pipeline.flush()


def gaps_in_lake(k2: K2, *gaps: SequenceGap) -> None:
    append(k2.catalog, gap_rows(gaps, NOW).to_pylist(), "gaps")


def gaps_in_kafka(k2: K2, *gaps: SequenceGap) -> None:
    k2.pipeline.produce(GAPS, gap_rows(gaps, NOW), GAP)
    k2.pipeline.flush()


def known_of(k2: K2, *symbols: str) -> RecoveredState:
    return recover_state(binance(), symbols or (BTC,), pipeline=k2.pipeline, engine=k2.engine)


def ids_of(known: RecoveredState, symbol: str = BTC) -> tuple[int | None, list[tuple[int, int]]]:
    ids = known.symbols[symbol].ids
    return ids.next_id, ids.holes


def test_nothing_is_known_of_a_symbol_that_never_came(k2: K2) -> None:
    known = known_of(k2)
    assert ids_of(known) == (None, []) and known.gaps == []
    assert known.symbols[BTC].last_us is None


def test_ids_go_on_from_the_lake_and_the_tail(k2: K2) -> None:
    in_lake(k2, 1, 2, 3)
    in_kafka(k2, 3, 4, 5)
    in_kafka(k2, 8, symbol=ETH)
    known = known_of(k2, BTC, ETH)
    assert ids_of(known) == (6, []) and ids_of(known, ETH) == (9, [])
    assert known.symbols[BTC].last_us == micros(5)


def test_holes_that_nobody_noticed_are_found(k2: K2) -> None:
    in_lake(k2, 1, 2, 4, 7, 8)
    in_kafka(k2, 6, 10)
    assert ids_of(known_of(k2)) == (11, [(3, 3), (5, 5), (9, 9)])


def test_holes_from_before_the_last_two_days_are_left_to_the_gaps(k2: K2) -> None:
    in_lake(k2, 1, 5, timestamp=NOW - timedelta(days=3))
    in_lake(k2, 6, 8)
    assert ids_of(known_of(k2)) == (9, [(7, 7)])


@pytest.mark.parametrize("state", ["none_at_venue", "lost"])
def test_a_closed_gap_explains_its_ids(k2: K2, state: str) -> None:
    in_lake(k2, 3, 4, 6, 7)
    in_kafka(k2, 10, 12)
    closed = replace(GAP_5_9, revision=1, state=state, absent=3)
    gaps_in_lake(k2, GAP_5_9)
    gaps_in_kafka(k2, closed)
    known = known_of(k2)
    assert ids_of(known) == (13, [(11, 11)]) and known.gaps == []


def test_an_open_gap_is_asked_for_again(k2: K2) -> None:
    in_lake(k2, 1, 2, 3, 4, 6)
    in_kafka(k2, 7, 10, 11)
    gaps_in_kafka(k2, GAP_5_9)
    known = known_of(k2)
    assert ids_of(known) == (12, [(5, 5), (8, 9)])
    assert known.gaps == [(replace(GAP_5_9, after_us=micros(4), before_us=micros(10)), [])]


def test_an_open_gap_from_long_ago_is_a_hole_still(k2: K2) -> None:
    in_lake(k2, 4, 7, 10, timestamp=NOW - timedelta(days=9))
    in_lake(k2, 11, 12)
    gaps_in_lake(k2, GAP_5_9)
    known = known_of(k2)
    assert ids_of(known) == (13, [(5, 6), (8, 9)]) and len(known.gaps) == 1


def test_a_gap_whose_later_trades_are_lost_is_missing_still(k2: K2) -> None:
    in_lake(k2, 1, 2, 3)
    gaps_in_lake(k2, GAP_5_9)
    known = known_of(k2)
    assert ids_of(known) == (10, [(4, 9)])
    book = tracker_of(known)
    assert book.missing(known.gaps[0][0]) == [(5, 9)]
    assert [(gap.from_id, gap.to_id) for gap in book.noticed()] == [(4, 4)]
    assert book.closed() == []


def test_a_gap_alone_tells_where_ids_go_on(k2: K2) -> None:
    gaps_in_lake(k2, GAP_5_9)
    assert ids_of(known_of(k2)) == (10, [(5, 9)])


def test_a_filled_gap_whose_trades_were_lost_is_open_again(k2: K2) -> None:
    in_lake(k2, 4, 5, 10)
    gaps_in_lake(k2, replace(GAP_5_9, revision=1, state="none_at_venue", absent=1))
    known = known_of(k2)
    [(gap, covered)] = known.gaps
    assert (gap.state, gap.revision, gap.absent, covered) == ("noticed", 1, 0, [])
    assert ids_of(known) == (11, [(6, 9)])


def test_a_covered_gap_keeps_its_ids_but_those_that_came(k2: K2) -> None:
    in_lake(k2, 4, 5, 10)
    in_kafka(k2, 7)
    covered = replace(GAP_5_9, revision=1, state="covered", covered=4)
    gaps_in_lake(k2, GAP_5_9, covered)
    known = known_of(k2)
    [(gap, left)] = known.gaps
    assert (gap.state, left) == ("covered", [(6, 6), (8, 9)])
    assert ids_of(known) == (11, [])


def test_a_covered_gap_of_which_all_came_is_told_as_filled(k2: K2) -> None:
    in_lake(k2, *range(4, 11))
    gaps_in_lake(k2, replace(GAP_5_9, revision=1, state="covered", covered=4))
    known = known_of(k2)
    book = tracker_of(known)
    [closed] = book.closed()
    assert (closed.state, closed.revision, closed.filled) == ("filled", 2, 5)


def test_gaps_of_others_are_left_alone(k2: K2) -> None:
    in_lake(k2, 4, 10)
    in_lake(k2, 4, 5, symbol=ETH)
    gaps_in_lake(k2, replace(GAP_5_9, symbol=ETH), replace(GAP_5_9, exchange="BINANCE_SIM"))
    known = known_of(k2)
    assert ids_of(known) == (11, [(5, 9)]) and known.gaps == []


def test_a_gap_knows_the_nearest_times_where_its_neighbours_are_missing(k2: K2) -> None:
    in_lake(k2, 1, 2, 7, 12)
    gaps_in_lake(k2, GAP_5_9)
    [(gap, _)] = known_of(k2).gaps
    assert (gap.after_us, gap.before_us) == (micros(2), micros(12))


def deleted_in_lake(k2: K2, *ids: int) -> Table:
    """Let a sink commit what there is, and another engine delete some ids after that."""
    table = ensure_table(k2.catalog, TABLES["trades_v2"])
    writer = TableWriter(table, TABLES["trades_v2"], on_event=lambda event: None)
    writer.append(rows_table([]), {TopicPartition(TOPIC, 3): (0, 0)}, {TOPIC: "log/1"})
    writer.table.delete(In("source_sequence", ids))
    return writer.table


def test_ids_that_another_engine_deleted_are_no_holes(k2: K2) -> None:
    in_lake(k2, *range(1, 11), ingestion_timestamp=NOW - timedelta(hours=1))
    deleted_in_lake(k2, 3, 4, 9, 10)
    known = known_of(k2)
    assert ids_of(known) == (11, []) and known.gaps == []


def test_a_hole_after_a_deletion_is_found(k2: K2) -> None:
    in_lake(k2, *range(1, 6), ingestion_timestamp=NOW - timedelta(hours=1))
    deleted_in_lake(k2, 3)
    in_lake(k2, 6, 8, ingestion_timestamp=NOW + timedelta(hours=1))
    assert ids_of(known_of(k2)) == (9, [(7, 7)])


def test_a_gap_closed_before_a_deletion_stays_closed(k2: K2) -> None:
    in_lake(k2, *range(1, 11), ingestion_timestamp=NOW - timedelta(hours=1))
    gaps_in_lake(k2, replace(GAP_5_9, revision=1, state="filled"))
    deleted_in_lake(k2, 6, 7)
    known = known_of(k2)
    assert ids_of(known) == (11, []) and known.gaps == []


def test_a_symbol_of_which_all_rows_were_deleted_goes_on_after_them(k2: K2) -> None:
    in_lake(k2, *range(1, 6))
    deleted_in_lake(k2, *range(1, 6))
    assert ids_of(known_of(k2)) == (6, [])

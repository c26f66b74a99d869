"""Offsets: written into a snapshot's summary, read back from its newest ancestor that has them."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.lake_rows import rows_table, trade
from support.lake_upkeep import PARTITION, commit, offsets, trades_table

from k2lib.errors import SchemaError, TableError
from k2lib.iceberg.offsets import advance, end_of, parse, read_offsets, render
from k2lib.iceberg.tables import check_schema
from k2lib.kafka.consumer import TopicPartition
from k2lib.schema.records import TRADE

OTHER = TopicPartition("market.crypto.trades.binance", 3)
LOGS = {PARTITION.topic: "log/1", OTHER.topic: "log/2"}

ranges = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)).map(
    lambda pair: (min(pair), max(pair))
)
partitions = st.builds(TopicPartition, st.text("abc._", min_size=1), st.integers(0, 63))
all_offsets = st.dictionaries(
    st.text(min_size=1), st.dictionaries(partitions, ranges, min_size=1), max_size=3
)


@given(all_offsets)
def test_offsets_come_back_from_their_text_as_they_were(told: dict) -> None:
    assert parse(render(told)) == told


def test_the_text_is_log_topic_partition_range() -> None:
    assert render({"log/1": {PARTITION: (3, 7)}}) == (
        '{"log/1":{"market.equities.trades.asx":{"0":[3,7]}}}'
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", '{"a":{"b":{"0":"x"}}}', '{"a":{"b":["0"]}}']
)
def test_offsets_that_are_none_are_one_line(tmp_path: Path, text: str) -> None:
    table = trades_table(tmp_path)
    table.append(rows_table([trade(0)]), snapshot_properties={"k2.offsets": text})
    with pytest.raises(TableError, match=r"has a k2\.offsets that is none .*: roll back to"):
        read_offsets(table)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "{}"])
def test_an_avro_schema_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    table = trades_table(tmp_path)
    with table.transaction() as transaction:
        transaction.set_properties({"k2.avro-schema": text})
    with pytest.raises(SchemaError, match=r"its property k2\.avro-schema is no Avro schema"):
        check_schema(table, TRADE)


def test_a_partition_not_read_in_a_commit_starts_and_ends_where_it_was() -> None:
    before = {"log/1": {PARTITION: (0, 5)}}
    after = advance(before, LOGS, {OTHER: (2, 9)})
    assert after == {"log/1": {PARTITION: (5, 5)}, "log/2": {OTHER: (2, 9)}}


def test_another_log_of_a_topic_leaves_the_first_ones_end() -> None:
    after = advance({"log/1": {PARTITION: (0, 5)}}, {PARTITION.topic: "log/9"}, {PARTITION: (0, 2)})
    assert after == {"log/1": {PARTITION: (5, 5)}, "log/9": {PARTITION: (0, 2)}}


def test_another_embedded_log_takes_the_place_of_the_last() -> None:
    before = {"embedded-1": {PARTITION: (0, 5)}, "log/1": {PARTITION: (0, 4)}}
    after = advance(before, {PARTITION.topic: "embedded-2"}, {PARTITION: (0, 2)})
    assert after == {"embedded-2": {PARTITION: (0, 2)}, "log/1": {PARTITION: (4, 4)}}


def test_a_commit_from_a_cluster_leaves_the_embedded_log() -> None:
    after = advance({"embedded-1": {PARTITION: (0, 5)}}, LOGS, {OTHER: (0, 2)})
    assert after["embedded-1"] == {PARTITION: (5, 5)}


def test_a_partition_never_read_has_no_end() -> None:
    assert end_of({"log/1": {PARTITION: (0, 5)}}, "log/1", PARTITION) == 5
    assert end_of({"log/1": {PARTITION: (0, 5)}}, "log/1", OTHER) is None
    assert end_of({"log/1": {PARTITION: (0, 5)}}, "log/2", PARTITION) is None


def test_a_table_without_commits_has_no_offsets(tmp_path: Path) -> None:
    assert read_offsets(trades_table(tmp_path)) == {}


def test_the_newest_snapshot_that_tells_offsets_counts(tmp_path: Path) -> None:
    table = commit(commit(trades_table(tmp_path), 0), 1)
    table.append(rows_table([trade(2)]))
    assert read_offsets(table) == offsets(2)


def test_after_a_rollback_the_older_offsets_count(tmp_path: Path) -> None:
    table = commit(trades_table(tmp_path), 0)
    first = table.metadata.current_snapshot_id
    commit(table, 1)
    table.manage_snapshots().rollback_to_snapshot(first).commit()
    assert read_offsets(table) == offsets(1)


def test_the_offsets_of_any_kept_snapshot_can_be_read(tmp_path: Path) -> None:
    table = commit(commit(trades_table(tmp_path), 0), 1)
    told = [read_offsets(table, snapshot) for snapshot in table.snapshots()]
    assert told == [offsets(1), offsets(2)]

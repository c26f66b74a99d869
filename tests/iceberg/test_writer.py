"""The writer: batch and offsets in one commit or none, and never on a table that moved."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.lake_rows import catalog_in, rows_table, trade
from support.lake_upkeep import LOGS, PARTITION, ids, message_ids

from k2lib.errors import ConfigError, StaleWriterError, TransientError
from k2lib.events import CommitBegun, CommitDone, Event, FilesWritten
from k2lib.iceberg.offsets import read_offsets
from k2lib.iceberg.tables import TABLES, ensure_table, load_table, open_catalog
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.consumer import TopicPartition
from k2lib.settings import Settings

TRADES = TABLES["trades_v2"]
OTHER = TopicPartition(PARTITION.topic, 1)
FORGETFUL = "py-catalog-impl: support.forgetful_catalog.ForgetfulCatalog\n"


def nobody(event: Event) -> None:
    """Listen to nothing."""


def writer_in(home: Path, *, on_event: Callable[[Event], None] = nobody) -> TableWriter:
    return TableWriter(ensure_table(catalog_in(home), TRADES), TRADES, on_event=on_event)


def append(writer: TableWriter, numbers: range, tp: TopicPartition = PARTITION) -> int:
    """Append trades as if their numbers were their offsets."""
    rows = rows_table([trade(number) for number in numbers])
    return writer.append(rows, {tp: (numbers.start, numbers.stop)}, LOGS)


def stored(home: Path) -> list[str]:
    table = load_table(catalog_in(home), "trades_v2")
    assert table is not None
    return message_ids(table)


def test_a_batch_lands_with_the_offsets_it_ends_at(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    assert append(writer, range(3)) == 3
    assert writer.end_of("log/1", PARTITION) == 3
    assert read_offsets(writer_in(tmp_path).table) == {"log/1": {PARTITION: (0, 3)}}
    assert stored(tmp_path) == ids(range(3))


def test_a_batch_of_doubles_alone_moves_the_offsets(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    append(writer, range(3))
    rows = rows_table([trade(number) for number in range(3)])
    assert writer.append(rows, {PARTITION: (3, 6)}, LOGS) == 0
    assert writer.end_of("log/1", PARTITION) == 6
    assert stored(tmp_path) == ids(range(3))


def test_a_table_that_would_commit_again_by_itself_is_refused(tmp_path: Path) -> None:
    table = ensure_table(catalog_in(tmp_path), TRADES)
    with table.transaction() as transaction:
        transaction.set_properties({"commit.retry.num-retries": "4"})
    with pytest.raises(ConfigError, match=r"trades_v2: set its property commit\.retry"):
        writer_in(tmp_path)


def test_a_writer_whose_batch_another_committed_is_refused(tmp_path: Path) -> None:
    first, second = writer_in(tmp_path), writer_in(tmp_path)
    append(first, range(3))
    with pytest.raises(StaleWriterError, match="another writer moved it"):
        append(second, range(3))
    assert stored(tmp_path) == ids(range(3))


def test_a_writer_that_another_overtakes_at_the_commit_is_refused(tmp_path: Path) -> None:
    first = writer_in(tmp_path)

    def overtake(event: Event) -> None:
        if isinstance(event, CommitBegun):
            append(first, range(3))

    with pytest.raises(StaleWriterError, match="another writer committed first"):
        append(writer_in(tmp_path, on_event=overtake), range(3))
    assert stored(tmp_path) == ids(range(3))


def test_a_refused_writer_begins_again_at_the_tables_offsets(tmp_path: Path) -> None:
    first, second = writer_in(tmp_path), writer_in(tmp_path)
    append(first, range(3))
    with pytest.raises(StaleWriterError):
        append(second, range(3))
    again = writer_in(tmp_path)
    assert again.end_of("log/1", PARTITION) == 3
    assert append(again, range(3, 5)) == 2


def test_a_writer_is_refused_after_a_rollback_even_of_another_partition(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    append(writer, range(3))
    first = writer.table.metadata.current_snapshot_id
    append(writer, range(3, 5), OTHER)
    table = ensure_table(catalog_in(tmp_path), TRADES)
    table.manage_snapshots().rollback_to_snapshot(first).commit()
    with pytest.raises(StaleWriterError):
        append(writer, range(5, 7))
    assert stored(tmp_path) == ids(range(3))


def test_a_writer_is_refused_after_rows_of_an_unknown_writer(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    append(writer, range(3))
    ensure_table(catalog_in(tmp_path), TRADES).append(rows_table([trade(3)]))
    with pytest.raises(StaleWriterError):
        append(writer, range(3, 5))
    assert append(writer_in(tmp_path), range(3, 5)) == 1


def test_after_a_lost_reply_the_table_tells_what_happened(tmp_path: Path) -> None:
    ensure_table(catalog_in(tmp_path), TRADES)
    (tmp_path / "catalog.yaml").write_text(
        f"{FORGETFUL}uri: sqlite:///{tmp_path / 'catalog.db'}\n", encoding="utf-8"
    )
    settings = Settings(home=tmp_path, catalog_config=tmp_path / "catalog.yaml")
    forgetful = TableWriter(ensure_table(open_catalog(settings), TRADES), TRADES, on_event=nobody)
    with pytest.raises(TransientError, match="the reply was lost"):
        append(forgetful, range(3))
    assert writer_in(tmp_path).end_of("log/1", PARTITION) == 3
    assert stored(tmp_path) == ids(range(3))


def test_each_step_of_a_commit_is_reported_in_order(tmp_path: Path) -> None:
    events: list[Event] = []
    append(writer_in(tmp_path, on_event=events.append), range(3))
    assert [type(event) for event in events] == [FilesWritten, CommitBegun, CommitDone]


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(event: Event) -> None:
        seen.append(stored(tmp_path))

    append(writer_in(tmp_path, on_event=look), range(3))
    assert seen == [[], [], ids(range(3))]

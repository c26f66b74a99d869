"""The quick transaction tells what pyiceberg's own tells, at a fraction of the copies."""

from pathlib import Path

from support.lake_rows import rows_table, trade
from support.lake_upkeep import ids, message_ids, trades_table

from k2lib.iceberg.writer import QuickTransaction


def test_staged_changes_are_seen(tmp_path: Path) -> None:
    transaction = QuickTransaction(trades_table(tmp_path))
    assert "owner" not in transaction.table_metadata.properties
    transaction.set_properties(owner="me")
    assert transaction.table_metadata.properties["owner"] == "me"


def test_the_metadata_is_worked_out_once_until_it_changes(tmp_path: Path) -> None:
    transaction = QuickTransaction(trades_table(tmp_path))
    before = transaction.table_metadata
    assert transaction.table_metadata is before
    transaction.append(rows_table([trade(0)]))
    assert transaction.table_metadata is not before


def test_several_appends_are_one_commit(tmp_path: Path) -> None:
    table = trades_table(tmp_path)
    transaction = QuickTransaction(table)
    for number in range(3):
        transaction.append(rows_table([trade(number)]))
    transaction.commit_transaction()
    assert message_ids(table) == ids(range(3))

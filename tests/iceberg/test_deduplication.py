"""Deduplication: the rows that pass are those that a set of all message ids would let pass."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings
from support.lake_rows import append, at, catalog_in, gap, quote, rows_table, trade

from k2lib.errors import DamagedFileError
from k2lib.iceberg.deduplication import Deduplicator
from k2lib.iceberg.manifests import plan_paths
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.schema.records import DEAD_LETTER

Row = dict[str, Any]

instruments = st.sampled_from([("ASX", "BHP"), ("ASX", "MWR"), ("BINANCE", "BHP")])
keys = st.tuples(instruments, st.booleans(), st.integers(0, 12), st.integers(0, 1))
batches = st.lists(st.lists(keys, max_size=15), min_size=1, max_size=4)


def row_of(key: tuple[tuple[str, str], bool, int, int]) -> Row:
    """A venue's counter, or its clock, is part of a record's identity, as the contract says."""
    (exchange, symbol), counted, number, k = key
    return trade(
        number,
        message_id=f"{exchange}|{symbol}|{'n' if counted else 't'}{number}|{0 if counted else k}",
        exchange=exchange,
        symbol=symbol,
        source_sequence=number if counted else None,
        timestamp=at(number + 100 * counted),
    )


def message_ids(rows: pa.Table) -> list[str]:
    return rows["message_id"].to_pylist()


class Lake:
    """A table, and the batches that went into it past the look for doubles."""

    def __init__(self, home: Path, name: str = "trades_v2") -> None:
        self.spec = TABLES[name]
        self.table = ensure_table(catalog_in(home), self.spec)
        self.begin_again()

    def begin_again(self) -> None:
        self.deduplicator = Deduplicator(self.table, self.spec)

    def add(self, rows: list[Row]) -> list[str]:
        new = self.deduplicator.new_rows(rows_table(rows, self.spec.name), self.table)
        if new.num_rows:
            self.table.append(new)
            self.deduplicator.note_committed(new)
        return message_ids(new)


@pytest.mark.slow
@settings(max_examples=12)
@given(batches, st.booleans())
def test_what_passes_is_what_a_set_of_all_ids_lets_pass(
    keys_of_batches: list[list[Any]], restarts: bool
) -> None:
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as home:
        lake = Lake(Path(home))
        for batch in keys_of_batches:
            rows = [row_of(key) for key in batch]
            ids = dict.fromkeys(row["message_id"] for row in rows)
            assert lake.add(rows) == [one for one in ids if one not in seen]
            seen |= set(ids)
            if restarts:
                lake.begin_again()


def test_of_doubles_in_one_batch_the_first_stays(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = rows_table([trade(1, quantity=5), trade(1, quantity=7), trade(2)])
    new = lake.deduplicator.new_rows(rows, lake.table)
    assert new["quantity"].to_pylist() == [5, 100]


def test_rows_without_a_counter_are_known_by_their_time(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.add([trade(1), trade(3)])
    assert lake.add([trade(1), trade(2), trade(3), trade(4)]) == ["m000002", "m000004"]


def test_rows_with_a_counter_are_known_by_it_whatever_their_time(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.add([trade(5, source_sequence=5)])
    late = at(0) + timedelta(days=3)
    again = trade(5, source_sequence=5, timestamp=late)
    assert lake.add([again, trade(4, source_sequence=4, timestamp=late)]) == ["m000004"]


def test_quotes_are_known_as_trades_are(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "quotes_v2")
    lake.add([quote(1), quote(3)])
    assert lake.add([quote(1), quote(2)]) == ["m000002"]


def test_small_tables_are_looked_through_whole(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "gaps")
    lake.add([gap("a", 1), gap("b", 1)])
    assert lake.add([gap("a", 1), gap("a", 0)]) == ["a|0"]


def test_dead_letters_need_no_symbol(tmp_path: Path) -> None:
    table = ensure_table(catalog_in(tmp_path), TABLES["dead_letters"])
    letter = {name: "" for name in DEAD_LETTER.arrow.names}
    letter |= {"message_id": "d1", "noticed": at(0), "raw": b"", "raw_size": 0}
    rows = pa.Table.from_pylist([letter, letter], schema=DEAD_LETTER.arrow)
    assert message_ids(Deduplicator(table, TABLES["dead_letters"]).new_rows(rows, table)) == ["d1"]


@pytest.mark.parametrize("counter", [None, 9], ids=["by time", "by counter"])
def test_what_is_newer_than_all_of_its_instrument_is_not_looked_for(
    tmp_path: Path, counter: int | None
) -> None:
    lake = Lake(tmp_path)
    lake.add([trade(1, source_sequence=counter and 1), trade(1, symbol="MWR", message_id="w1")])
    for file in plan_paths(lake.table):
        Path(file).unlink()
    assert lake.add([trade(9, source_sequence=counter), trade(0, symbol="NEW", message_id="n")])


def test_what_is_not_newer_is_looked_for_in_the_files(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.add([trade(1)])
    for file in plan_paths(lake.table):
        Path(file).unlink()
    with pytest.raises(DamagedFileError, match="No such file or directory"):
        lake.add([trade(1)])


def test_rows_of_before_a_restart_are_known(tmp_path: Path) -> None:
    append(catalog_in(tmp_path), [trade(1), trade(2, source_sequence=2)])
    assert Lake(tmp_path).add([trade(1), trade(2, source_sequence=2), trade(3)]) == ["m000003"]

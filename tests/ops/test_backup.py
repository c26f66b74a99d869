"""A backup is one moment of the lake; what is restored of it is the lake as it was then."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from support.delete_files import delete_first_row
from support.lake_rows import append, catalog_in, gap, quote, trade
from support.lake_upkeep import Clock, commit_each, message_ids, trades_table
from support.object_store import ObjectStore, object_store_in

from k2lib import K2
from k2lib.audit import audit
from k2lib.errors import ConfigError, DamagedFileError, K2Error, OwnerError
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.tables import TABLES, load_table, open_catalog
from k2lib.locks import try_lock, writer_lock
from k2lib.ops.backup import MANIFEST, BackupReport, back_up, read_backup
from k2lib.ops.home import maintain_all
from k2lib.ops.restore import restore
from k2lib.settings import Settings

Run = Callable[..., tuple[int, str, str]]


class Killed(BaseException):
    """Ends the work in the middle, as a kill does."""


def killed_at(number: int) -> Callable[[str, int, int], None]:
    """Return a listener that ends the work at the so-manieth file."""
    files: list[str] = []

    def on_file(table: str, done: int, of: int) -> None:
        files.append(table)
        if len(files) == number:
            raise Killed

    return on_file


def saved(home: Path, path: Path) -> BackupReport:
    with_catalog = catalog_in(home)
    return back_up(with_catalog, path, home=home)


def restored(path: Path, home: Path) -> Catalog:
    restore(path, Settings(home=home))
    return catalog_in(home)


def catalog_elsewhere(folder: Path) -> dict[str, Any]:
    """Return the settings of a catalog that is of no home."""
    return {
        "catalog_uri": f"sqlite:///{folder}/catalogs/k2.db",
        "warehouse": str(folder / "lake"),
    }


def table_of(catalog: Catalog, name: str = "trades_v2") -> Table:
    table = load_table(catalog, name)
    assert table is not None
    return table


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with three tables, the first of five snapshots."""
    home = tmp_path / "home"
    commit_each(trades_table(home), range(5))
    append(catalog_in(home), [quote(1)], "quotes_v2")
    append(catalog_in(home), [gap("g", 0)], "gaps")
    return home


@pytest.fixture
def path(home: Path, tmp_path: Path) -> Path:
    """Return a backup of the home."""
    saved(home, tmp_path / "backup")
    return tmp_path / "backup"


def test_a_restored_lake_is_the_one_of_before(home: Path, path: Path, tmp_path: Path) -> None:
    catalog = restored(path, tmp_path / "other")
    for name in ("trades_v2", "quotes_v2", "gaps"):
        before, after = table_of(catalog_in(home), name), table_of(catalog, name)
        assert after.scan().to_arrow().equals(before.scan().to_arrow())
        assert after.metadata.table_uuid == before.metadata.table_uuid
        assert after.properties == before.properties
        assert after.metadata.snapshot_log == before.metadata.snapshot_log
        assert after.location() == before.location().replace(str(home), str(tmp_path / "other"))
    assert load_table(catalog, "reference_v2") is None


def test_time_travel_survives(home: Path, path: Path, tmp_path: Path) -> None:
    before, after = trades_table(home), table_of(restored(path, tmp_path / "other"))
    for snapshot in before.snapshots():
        at = snapshot.snapshot_id
        assert message_ids(after, at) == message_ids(before, at)
    assert [one.summary for one in after.snapshots()] == [one.summary for one in before.snapshots()]


def test_tags_and_branches_survive(home: Path, tmp_path: Path) -> None:
    table = trades_table(home)
    first, last = table.snapshots()[0].snapshot_id, table.snapshots()[-1].snapshot_id
    table.manage_snapshots().create_tag(first, "close").create_branch(last, "trial").commit()
    saved(home, tmp_path / "backup")
    refs = table_of(restored(tmp_path / "backup", tmp_path / "other")).metadata.refs
    assert (refs["close"].snapshot_id, refs["trial"].snapshot_id) == (first, last)


def test_nothing_of_the_first_home_is_needed(home: Path, path: Path, tmp_path: Path) -> None:
    home.rename(tmp_path / "gone")
    catalog = restored(path, tmp_path / "other")
    assert message_ids(table_of(catalog)) == [f"m{number:06d}" for number in range(5)]
    commit_each(table_of(catalog), range(5, 7))
    assert len(message_ids(table_of(catalog))) == 7
    done = maintain_all(catalog, run_folder=tmp_path / "other" / "run")
    assert [one.problem for one in done] == [None] * 3


def test_a_second_backup_copies_what_is_new(home: Path, path: Path, tmp_path: Path) -> None:
    unchanged = saved(home, path)
    assert (unchanged.files_copied, unchanged.bytes_copied) == (0, 0)
    commit_each(trades_table(home), range(5, 6))
    # A data file, its manifest, a manifest list and the metadata.
    assert saved(home, path).files_copied == 4
    assert len(message_ids(table_of(restored(path, tmp_path / "other")))) == 6


def test_what_no_backup_has_any_more_is_deleted(home: Path, path: Path) -> None:
    commit_each(trades_table(home), range(5, 6))
    saved(home, path)
    listed = {one.path for table in read_backup(path).tables for one in table.files}
    files = {str(one.relative_to(path)) for one in path.glob("*/**/*") if one.is_file()}
    assert files == listed


def test_a_backup_that_was_killed_goes_on(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    with pytest.raises(Killed):
        back_up(catalog_in(home), path, home=home, on_file=killed_at(9))
    with pytest.raises(ConfigError, match="the backup there did not end"):
        restore(path, Settings(home=tmp_path / "other"))
    report = saved(home, path)
    assert report.files_kept == 9
    assert report.rows == {"trades_v2": 5, "quotes_v2": 1, "gaps": 1}
    assert len(message_ids(table_of(restored(path, tmp_path / "other")))) == 5


def test_files_that_maintenance_deletes_meanwhile_are_not_missed(
    home: Path, tmp_path: Path
) -> None:
    table = commit_each(trades_table(home), range(5, 20))
    clock = Clock()
    clock.advance(days=60)
    maintenance = Maintenance(
        TABLES["trades_v2"],
        state=tmp_path / "state.json",
        now=clock,
        orphan_age=timedelta(0),
    )
    done: list[int] = []

    def on_file(name: str, number: int, files: int) -> None:
        if number == 2 and name == "trades_v2" and not done:
            maintenance.run_now(table)
            clock.advance(hours=1)
            done.append(maintenance.run_now(table).files_deleted)

    path = tmp_path / "backup"
    back_up(catalog_in(home), path, home=home, on_file=on_file)
    assert done and done[0] > 0
    assert len(message_ids(table_of(restored(path, tmp_path / "other")))) == 20


def test_delete_files_of_another_engine_apply_at_the_new_place(home: Path, tmp_path: Path) -> None:
    delete_first_row(trades_table(home))
    append(catalog_in(home), [trade(9)])
    saved(home, tmp_path / "backup")
    table = table_of(restored(tmp_path / "backup", tmp_path / "other"))
    assert message_ids(table) == message_ids(trades_table(home)) == ["m000009"]
    deletes = [one for task in table.scan().plan_files() for one in task.delete_files]
    for file in (tmp_path / "other" / "warehouse").rglob("*.parquet"):
        if "file_path" in (names := pq.read_schema(file).names):
            assert str(home) not in str(pq.read_table(file)["file_path"].to_pylist()), names
    assert all(one.file_size_in_bytes > 0 for one in deletes)


def damage(path: Path, change: Callable[[Path], object]) -> str:
    """Change one data file of a backup and return its name."""
    file = next(one for one in sorted(path.rglob("*.parquet")))
    change(file)
    return str(file.relative_to(path))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Path.unlink, "is missing: run `k2 backup` again"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged: delete that file"),
        (flip, "is damaged: delete that file"),
    ],
)
def test_a_damaged_backup_names_the_file(
    path: Path, tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    name = damage(path, change)
    with pytest.raises(DamagedFileError, match=f"{name} {says}"):
        restore(path, Settings(home=tmp_path / "other"))


def test_a_backup_copies_a_file_again_that_it_lost(home: Path, path: Path, tmp_path: Path) -> None:
    damage(path, Path.unlink)
    assert saved(home, path).files_copied == 1
    assert len(message_ids(table_of(restored(path, tmp_path / "other")))) == 5


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "tables": 3}', "[]"])
def test_a_list_of_files_that_is_none_is_named(path: Path, tmp_path: Path, text: str) -> None:
    (path / MANIFEST).write_text(text)
    with pytest.raises(DamagedFileError, match=f"{path / MANIFEST} is damaged"):
        restore(path, Settings(home=tmp_path / "other"))


def test_a_backup_of_a_later_version_names_it(path: Path, tmp_path: Path) -> None:
    later = json.loads((path / MANIFEST).read_text()) | {"format": 2, "version": "9.1"}
    (path / MANIFEST).write_text(json.dumps(later))
    with pytest.raises(ConfigError, match=r"made by k2lib 9\.1: restore with that"):
        restore(path, Settings(home=tmp_path / "other"))


def test_a_home_with_tables_is_not_restored_into(home: Path, path: Path) -> None:
    with pytest.raises(ConfigError, match="there is a table trades_v2 already"):
        restore(path, Settings(home=home))
    assert len(message_ids(trades_table(home))) == 5


def test_a_home_that_a_process_writes_is_not_restored_into(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    lock = try_lock(writer_lock(other))
    assert lock is not None
    with lock, pytest.raises(OwnerError, match="this process writes"):
        restore(path, Settings(home=other))


@pytest.mark.parametrize("below", ["", "backup", "warehouse/backup"])
def test_a_backup_is_not_made_in_its_home(home: Path, below: str) -> None:
    with pytest.raises(ConfigError, match="it is in the home"):
        saved(home, home / below)


def test_a_folder_of_something_else_is_left_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"it holds letter\.txt: name another folder"):
        saved(home, tmp_path / "backup")
    assert [one.name for one in (tmp_path / "backup").iterdir()] == ["letter.txt"]


def test_a_restore_that_was_killed_begins_anew(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for number in (1, 14, 23):
        with pytest.raises(Killed):
            restore(path, Settings(home=other), on_file=killed_at(number))
        with pytest.raises(ConfigError, match="`k2 restore` did not end there: run it again"):
            open_catalog(Settings(home=other))
    assert len(message_ids(table_of(restored(path, other)))) == 5


def test_another_catalog_and_warehouse_take_the_tables(path: Path, tmp_path: Path) -> None:
    elsewhere = catalog_elsewhere(tmp_path)
    settings = Settings(home=tmp_path / "other", **elsewhere)
    with pytest.raises(Killed):
        restore(path, settings, on_file=killed_at(20))
    restore(path, settings)
    with K2.open(home=tmp_path / "other", **elsewhere) as k2:
        assert k2.sql("select count(*) as n from trades_v2")["n"].to_list() == [5]
    assert list((tmp_path / "lake").rglob("*.parquet"))


def test_a_table_that_another_home_made_meanwhile_stays(path: Path, tmp_path: Path) -> None:
    shared = catalog_elsewhere(tmp_path)
    settings = Settings(home=tmp_path / "other", **shared)
    with pytest.raises(Killed):
        restore(path, settings, on_file=killed_at(5))
    append(open_catalog(Settings(home=tmp_path / "third", **shared)), [trade(1), trade(2)])
    with pytest.raises(ConfigError, match="there is a table trades_v2 already"):
        restore(path, settings)
    assert (
        len(message_ids(table_of(open_catalog(Settings(home=tmp_path / "third", **shared))))) == 2
    )


def test_the_commands_say_what_they_did(run: Run, home: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "backup", tmp_path / "other"
    code, out, _ = run("backup", path, K2_HOME=str(home))
    assert (code, out.splitlines()[0]) == (0, "trades_v2: 5 rows")
    assert "24 files copied" in out and "0 were there" in out
    code, out, _ = run("backup", path, "--json", K2_HOME=str(home))
    assert (code, json.loads(out)["files_copied"]) == (0, 0)
    code, out, _ = run("restore", path, K2_HOME=str(other))
    assert (code, f"home {other}: 24 files restored" in out) == (0, True)
    code, out, err = run("restore", path, K2_HOME=str(other))
    assert (code, out) == (1, "") and "there is a table trades_v2 already" in err
    code, _, err = run("restore", tmp_path / "nope", K2_HOME=str(other))
    assert code == 1 and f"{tmp_path / 'nope'}: there is no backup there" in err


def test_nothing_to_back_up_is_said(tmp_path: Path) -> None:
    with pytest.raises(K2Error, match="nothing to back up"):
        saved(tmp_path / "home", tmp_path / "backup")


@pytest.mark.slow
def test_a_backup_beside_a_writer_holds_whole_commits(tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "backup"
    table = trades_table(home)
    commit_each(table, range(3))
    written = [3]

    def on_file(name: str, number: int, files: int) -> None:
        commit_each(table, range(written[0], written[0] + 1))
        written[0] += 1

    report = back_up(catalog_in(home), path, home=home, on_file=on_file)
    assert written[0] > 10
    assert (
        len(message_ids(table_of(restored(path, tmp_path / "other")))) == report.rows["trades_v2"]
    )


@pytest.mark.stack
def test_a_sink_goes_on_where_the_restored_tables_end(
    tmp_path: Path, asx_sample: Path, empty_kafka: dict[str, str]
) -> None:
    home, path, other = (tmp_path / name for name in ("home", "backup", "other"))
    with K2.open(home=home, **empty_kafka) as k2:
        k2.load_asx(asx_sample)
        back_up(k2.catalog, path, home=home)
        k2.load_asx(asx_sample)  # more records, none of them a new row
    home.rename(tmp_path / "gone")
    settings = Settings(home=other, **empty_kafka)
    restore(path, settings)
    rows = "select count(*) as n, count(distinct message_id) as ids from lake.trades_v2"
    with K2.open(home=other, **empty_kafka) as k2:
        before = k2.sql(rows).rows()
        k2.load_asx(asx_sample)
        assert k2.sql(rows).rows() == before
    report = audit(settings)
    assert report.first_difference is None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.mark.stack
def test_a_lake_moves_to_object_storage_and_back(
    path: Path, tmp_path: Path, store: ObjectStore
) -> None:
    on_s3 = store.warehouse()
    del on_s3["catalog_uri"], on_s3["catalog_credential"]
    settings = Settings(home=tmp_path / "other", **on_s3)
    restore(path, settings)
    catalog = open_catalog(settings)
    assert table_of(catalog).location().startswith("s3://")
    commit_each(table_of(catalog), range(5, 6))
    back_up(catalog, tmp_path / "second", home=tmp_path / "other")
    assert len(message_ids(table_of(restored(tmp_path / "second", tmp_path / "third")))) == 6


@pytest.mark.stack
def test_a_lake_of_a_rest_catalog_is_restored_as_files(tmp_path: Path, store: ObjectStore) -> None:
    catalog = open_catalog(Settings(home=tmp_path / "home", **store.warehouse()))
    append(catalog, [trade(1), trade(2)])
    back_up(catalog, tmp_path / "backup", home=tmp_path / "home")
    assert len(message_ids(table_of(restored(tmp_path / "backup", tmp_path / "other")))) == 2


@pytest.mark.stack
def test_a_catalog_that_registers_no_metadata_is_refused(
    path: Path, tmp_path: Path, store: ObjectStore
) -> None:
    settings = Settings(home=tmp_path / "other", **store.warehouse())
    with pytest.raises(ConfigError, match="restore into one that registers tables"):
        restore(path, settings)
    assert load_table(open_catalog(settings), "trades_v2") is None

"""A home may have any path; one that was moved or copied never writes into the first."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from pyiceberg.io.pyarrow import PyArrowFileIO
from sqlalchemy import make_url
from support.lake_rows import catalog_in, rows_table, trade
from support.lake_upkeep import Clock, commit, trades_table

from k2lib.errors import ConfigError, DamagedFileError
from k2lib.iceberg.file_sql import table_sql
from k2lib.iceberg.home_catalog import checked_warehouse, sqlite_uri, warehouse_location
from k2lib.iceberg.manifests import plan_paths
from k2lib.iceberg.orphan_files import OrphanFileCleaner
from k2lib.iceberg.tables import TABLES, ensure_table, load_table, open_catalog
from k2lib.settings import Settings, read_settings

NAMES = [
    "issue#12",
    "ok?",
    "feature%2Ftrades",
    "%41",
    "a&b=c",
    "with  spaces ",
    "'single' \"double\"",
    "Zürich 東京 🙂",
    "[x]",
    "a*b",
    "**",
    "{a,b}",
    "back\\slash",
    "a;b:c@d!e$f~g|h<i>j^k`l",
    "x" * 255,
]


def folders(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_addresses_of_a_home_mean_its_folder(name: str) -> None:
    home = Path("/homes") / name
    assert make_url(sqlite_uri(home, timeout_s=1)).database == f"{home}/catalog.db"
    location = f"{warehouse_location(home)}/a/data/b.parquet"
    assert PyArrowFileIO.parse_location(location)[2] == f"{home}/warehouse/a/data/b.parquet"


def test_the_warehouse_is_a_uri_where_one_fits() -> None:
    assert warehouse_location(Path("/homes/a b")) == "file:///homes/a b/warehouse"
    assert warehouse_location(Path("/homes/a#b")) == "/homes/a#b/warehouse"


@pytest.mark.parametrize("name", NAMES)
def test_a_home_of_any_name_has_its_tables_in_it(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    table = commit(trades_table(home), 0)
    (home / "warehouse" / "market_data" / "trades_v2" / "data" / "k2-orphan.parquet").touch()
    table = commit(table, 1)
    assert duckdb.sql(
        f"SELECT count(*) FROM ({table_sql(table, files=plan_paths(table))})"
    ).fetchall() == [(2,)]
    assert table.scan().to_arrow().num_rows == 2
    clock, cleaner = Clock(), OrphanFileCleaner(home / "run" / "unreferenced.json")
    cleaner.run(table, clock())
    clock.advance(minutes=11)
    assert (result := cleaner.run(table, clock())).deleted == 1, result
    assert folders(tmp_path) == [name]
    assert folders(home) == ["catalog.db", "run", "warehouse"]


@pytest.mark.parametrize(
    ("home", "told"),
    [
        ("a\nb", r"the character '\n'"),
        ("a\x7f", r"the character '\x7f'"),
        (os.fsdecode(b"a\xff"), r"the character '\udcff'"),
        ("a\\[b]", r"the character '\\'"),
        ("x" * 256, "File name too long"),
    ],
)
def test_a_path_that_can_be_no_home_is_refused_in_one_line(
    tmp_path: Path, home: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"home": tmp_path / home})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert folders(tmp_path) == []


def test_a_path_may_be_as_long_as_sqlite_takes(tmp_path: Path) -> None:
    rest = 493 - len(str(tmp_path))
    parts = ["x" * 98] * (rest // 99)
    home = tmp_path.joinpath(*parts, "y" * (rest - 99 * len(parts) - 1))
    assert len(str(home)) == 493
    assert load_table(catalog_in(home_with_a_trade(home)), "trades_v2") is not None
    longer = home.with_name(f"{home.name}y")
    assert error_of(longer) == (
        f"K2_HOME={longer}: a path of 494 bytes; SQLite takes 493: take a shorter one"
    )


def home_with_a_trade(home: Path) -> Path:
    commit(trades_table(home), 0)
    return home


def error_of(home: Path, **settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        open_catalog(Settings(home=home, **settings))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_copied_home_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    first = home_with_a_trade(tmp_path / "first")
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    assert error_of(copy) == (
        f"the home {copy} has tables in {first}/warehouse: it is a copy of the home {first}: "
        f"use that one, as K2_HOME={first}, or make a copy with `k2 backup` and `k2 restore`"
    )
    assert load_table(catalog_in(first), "trades_v2") is not None


def test_a_moved_home_is_refused_until_it_is_back_or_a_link_leads_to_it(tmp_path: Path) -> None:
    first, moved = home_with_a_trade(tmp_path / "first"), tmp_path / "moved"
    first.rename(moved)
    assert error_of(moved) == (
        f"the home {moved} has tables in {first}/warehouse: it was moved: move it back to {first}, "
        f"or make {first} a link to it"
    )
    first.symlink_to(moved)
    for home in (first, moved):
        table = load_table(catalog_in(home), "trades_v2")
        assert table is not None
        assert table.scan().to_arrow().num_rows == 1


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (None, "the catalog {home}/catalog.db names no file of a table: restore it from a copy"),
        ("", "the catalog {home}/catalog.db names no file of a table: restore it from a copy"),
        (
            "file://{folder}/a/b/c/x.metadata.json",
            "the catalog {home}/catalog.db names {folder}/a/b/c/x.metadata.json, which is not "
            "there: restore it from a copy",
        ),
    ],
)
def test_a_catalog_that_points_nowhere_is_damaged(
    tmp_path: Path, location: str | None, told: str
) -> None:
    home = home_with_a_trade(tmp_path / "home")
    names = {"home": home, "folder": tmp_path}
    with closing(sqlite3.connect(home / "catalog.db")) as catalog:
        value = None if location is None else location.format(**names)
        catalog.execute("UPDATE iceberg_tables SET metadata_location = ?", [value])
        catalog.commit()
    with pytest.raises(DamagedFileError) as caught:
        catalog_in(home)
    assert str(caught.value) == told.format(**names)


def test_metadata_without_their_current_snapshot_are_damaged(tmp_path: Path) -> None:
    home = home_with_a_trade(tmp_path / "home")
    (*_, newest) = sorted(home.glob("warehouse/*/*/metadata/*.metadata.json"))
    newest.write_text(json.dumps(json.loads(newest.read_text()) | {"current-snapshot-id": 4711}))
    with pytest.raises(DamagedFileError, match="snapshot 4711, the current one, is not in it"):
        load_table(catalog_in(home), "trades_v2")


@pytest.mark.parametrize(
    "location", ["file://{folder}/elsewhere", "{home}/warehouse", "s3://bucket/lake", ""]
)
def test_metadata_that_say_the_table_is_elsewhere_are_damaged(
    tmp_path: Path, location: str
) -> None:
    home = home_with_a_trade(tmp_path / "home")
    location = location.format(folder=tmp_path, home=home)
    (*_, newest) = sorted(home.glob("warehouse/*/*/metadata/*.metadata.json"))
    newest.write_text(json.dumps(json.loads(newest.read_text()) | {"location": location}))
    before = folders(home / "warehouse")
    with pytest.raises(DamagedFileError) as caught:
        ensure_table(catalog_in(home), TABLES["trades_v2"])
    assert str(caught.value) == (
        f"table trades_v2: file://{newest} cannot be read (it says that the table is at "
        f"{location!r}): restore it from a copy"
    )
    assert (folders(tmp_path), folders(home / "warehouse")) == (["home"], before)


def test_a_folder_in_the_place_of_metadata_is_damage(tmp_path: Path) -> None:
    home = home_with_a_trade(tmp_path / "home")
    folder = home / "warehouse" / "market_data" / "trades_v2"
    with closing(sqlite3.connect(home / "catalog.db")) as catalog:
        catalog.execute("UPDATE iceberg_tables SET metadata_location = ?", [f"file://{folder}"])
        catalog.commit()
    with pytest.raises(DamagedFileError, match=rf"{folder}.*: restore it from a copy$"):
        load_table(catalog_in(home), "trades_v2")


def test_metadata_of_no_storage_are_damaged(tmp_path: Path) -> None:
    home = home_with_a_trade(tmp_path / "home")
    with closing(sqlite3.connect(home / "catalog.db")) as catalog:
        catalog.execute("UPDATE iceberg_tables SET metadata_location = 'foo://bar/x'")
        catalog.commit()
    with pytest.raises(DamagedFileError) as caught:
        load_table(catalog_in(home), "trades_v2")
    assert str(caught.value) == (
        "table trades_v2: foo://bar/x cannot be read (nothing is stored at foo://): "
        "restore it from a copy"
    )


def test_links_and_relative_paths_lead_to_the_same_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_with_a_trade(tmp_path / "disk" / "home")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "disk")
    for home in (Path("home"), Path("../link/home"), tmp_path / "link" / "home"):
        assert load_table(catalog_in(home), "trades_v2") is not None


def test_the_warehouse_of_a_home_may_be_a_link_to_a_larger_disk(tmp_path: Path) -> None:
    home, disk = tmp_path / "home", tmp_path / "disk"
    disk.mkdir()
    home.mkdir()
    (home / "warehouse").symlink_to(disk)
    home_with_a_trade(home)
    for warehouse in (None, str(tmp_path / "elsewhere")):
        catalog = open_catalog(Settings(home=home, warehouse=warehouse))
        assert load_table(catalog, "trades_v2") is not None
    assert folders(disk) == ["market_data"]


def test_a_warehouse_of_the_settings_may_be_anywhere_but_in_another_home(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for warehouse in (str(elsewhere), f"file://{elsewhere}"):
        catalog = open_catalog(Settings(home=home, warehouse=warehouse))
        ensure_table(catalog, TABLES["trades_v2"]).append(rows_table([trade(0)]))
    assert (
        error_of(home) == f"the home {home} has tables in {elsewhere}: set K2_WAREHOUSE={elsewhere}"
    )
    other = home_with_a_trade(tmp_path / "other")
    warehouse = f"file://{other}/warehouse"
    assert error_of(tmp_path / "new", warehouse=warehouse) == (
        f"K2_WAREHOUSE={warehouse}: that is in another home: set K2_HOME={other}"
    )
    uri = sqlite_uri(other, timeout_s=1)
    shared = open_catalog(Settings(home=tmp_path / "new", warehouse=warehouse, catalog_uri=uri))
    assert load_table(shared, "trades_v2") is not None


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file://host/lake", "host is no folder of this machine"),
        ("FILE://localhost/lake", "localhost is no folder of this machine"),
        ("file://~/lake", "~ is no folder of this machine"),
        ("file:lake", "lake is no folder of this machine"),
        ("~nobody-of-this-name/lake", "there is no such user"),
        ("gopher://host", "nothing is stored at gopher://"),
    ],
)
def test_a_warehouse_that_is_no_folder_is_refused(
    tmp_path: Path, location: str, reason: str
) -> None:
    error = error_of(tmp_path / "home", warehouse=location)
    assert f": {reason}; give a folder, file:///folder or s3://bucket/folder" in error
    assert folders(tmp_path) == []


def test_a_warehouse_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    assert checked_warehouse("~/lake") == f"{tmp_path}/user/lake"
    assert checked_warehouse("lake") == f"{tmp_path}/lake"
    assert checked_warehouse("FILE:///lake") == "file:///lake"
    assert checked_warehouse("S3://bucket/Lake") == "s3://bucket/Lake"
    catalog = open_catalog(Settings(home=tmp_path / "home", warehouse="lake"))
    ensure_table(catalog, TABLES["gaps"])
    monkeypatch.chdir("/")
    assert load_table(catalog, "gaps") is not None


def test_a_warehouse_that_tables_of_the_home_are_not_in_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, elsewhere = home_with_a_trade(tmp_path / "home"), tmp_path / "elsewhere"
    open_catalog(Settings(home=home, warehouse=str(elsewhere)))
    assert caplog.messages == [
        f"K2: the tables of the home {home} stay in file://{home}/warehouse; "
        f"K2_WAREHOUSE={elsewhere} is for new ones"
    ]
    caplog.clear()
    open_catalog(Settings(home=home, warehouse=f"{home}/warehouse"))
    open_catalog(Settings(home=home))
    assert caplog.messages == []


def test_only_the_owner_can_read_a_home(tmp_path: Path) -> None:
    home = home_with_a_trade(tmp_path / "homes" / "home")
    OrphanFileCleaner(home / "run" / "unreferenced.json").run(
        commit(trades_table(home), 1), Clock()()
    )
    modes = {one.name: one.stat().st_mode & 0o777 for one in (home, *home.iterdir())}
    assert modes == {"home": 0o700, "catalog.db": 0o600, "run": 0o700, "warehouse": 0o700}
    assert (tmp_path / "homes").stat().st_mode & 0o777 != 0o700


def test_a_home_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    home_with_a_trade(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "warehouse").stat().st_mode & 0o777 == 0o700

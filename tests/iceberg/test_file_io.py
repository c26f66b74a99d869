"""Operations on object storage end in time, and their errors name the file."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyiceberg.io import load_file_io
from support.lake_rows import rows_table, trade
from support.lake_upkeep import Clock, commit, local, trades_table
from support.s3_server import S3Server, s3_server

from k2lib.errors import K2Error
from k2lib.iceberg.duckdb_files import open_duckdb
from k2lib.iceberg.file_io import StorageFileIO, file_io_properties
from k2lib.iceberg.file_sql import table_sql
from k2lib.iceberg.manifests import plan_files, plan_paths
from k2lib.iceberg.orphan_files import OrphanFileCleaner
from k2lib.iceberg.tables import TABLES, ensure_table, load_table, open_catalog
from k2lib.settings import Settings

LIMIT_S = 15.0
ADDRESS = "s3://bucket/lake/file"


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def file_io(s3: S3Server, *, timeout_s: float = 0.5) -> StorageFileIO:
    properties = {
        **file_io_properties(timeout_s),
        "s3.endpoint": s3.address,
        "s3.access-key-id": "key",
        "s3.secret-access-key": "hunter2",
        "s3.region": "us-east-1",
    }
    io = load_file_io(properties, ADDRESS)
    assert isinstance(io, StorageFileIO)
    return io


def write(io: StorageFileIO, content: bytes = b"rows") -> None:
    with io.new_output(ADDRESS).create(overwrite=True) as file:
        file.write(content)


def read(io: StorageFileIO) -> bytes:
    with io.new_input(ADDRESS).open() as file:
        return bytes(file.read())


OPERATIONS: dict[str, Callable[[StorageFileIO], object]] = {
    "read": read,
    "stream": lambda io: io.new_input(ADDRESS).open(seekable=False).read(),
    "write": write,
    "exists": lambda io: io.new_input(ADDRESS).exists(),
    "size": lambda io: len(io.new_input(ADDRESS)),
    "delete": lambda io: io.delete(ADDRESS),
}


def test_a_storage_keeps_what_is_written(s3: S3Server) -> None:
    io = file_io(s3, timeout_s=60)
    content = bytes(range(256)) * 80_000  # in three reads
    write(io, content)
    assert s3.objects == {"bucket/lake/file": content}
    assert read(io) == content
    assert io.new_input(ADDRESS).exists()
    io.delete(ADDRESS)
    assert not io.new_input(ADDRESS).exists()
    with pytest.raises(FileNotFoundError, match=ADDRESS):
        read(io)


@pytest.mark.parametrize("fault", ["silent", "drip", "reset", "refuse"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_storage_ends_in_time(s3: S3Server, fault: str, name: str) -> None:
    io = file_io(s3)
    s3.objects["bucket/lake/file"] = b"rows"
    s3.fault = fault
    began = time.monotonic()
    with pytest.raises(OSError, match=ADDRESS):
        OPERATIONS[name](io)
    assert time.monotonic() - began < LIMIT_S


@pytest.mark.parametrize("fault", ["silent", "drip", "reset"])
def test_a_read_of_an_open_file_ends_in_time(s3: S3Server, fault: str) -> None:
    s3.objects["bucket/lake/file"] = b"rows"
    io = file_io(s3, timeout_s=60)
    file = io.new_input(ADDRESS).open()
    s3.fault, io.limit.seconds = fault, 0.5
    with pytest.raises(OSError, match=ADDRESS):
        file.read()


@pytest.mark.parametrize("fault", ["silent", "drip", "reset"])
def test_a_file_whose_end_the_storage_does_not_take_is_an_error(s3: S3Server, fault: str) -> None:
    io = file_io(s3, timeout_s=60)
    file = io.new_output(ADDRESS).create(overwrite=True)
    file.write(b"rows")
    s3.fault, io.limit.seconds = fault, 0.5
    with pytest.raises(OSError, match=ADDRESS):
        file.close()
    assert s3.objects == {}


def test_a_table_lives_in_a_storage(s3: S3Server, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "home",
        warehouse="s3://bucket/lake",
        s3_endpoint=s3.address,
        s3_access_key_id="key",
        s3_secret_access_key="hunter2",
        s3_region="us-east-1",
        timeout_s=60,
    )
    table = ensure_table(open_catalog(settings), TABLES["trades_v2"])
    table.append(rows_table([trade(0), trade(1)]))
    again = load_table(open_catalog(settings), "trades_v2")
    assert again is not None
    assert again.scan().to_arrow().num_rows == 2
    rows = table_sql(again, files=plan_paths(again))
    assert open_duckdb().sql(f"SELECT count(*) FROM ({rows})").fetchall() == [(2,)]
    s3.objects["bucket/lake/market_data/trades_v2/data/k2-orphan.parquet"] = b""
    cleaner, clock = OrphanFileCleaner(tmp_path / "unreferenced.json"), Clock()
    assert cleaner.run(again, clock()).missing == ()
    clock.advance(minutes=11)
    assert cleaner.run(again, clock()).deleted == 1


@pytest.mark.parametrize("scheme", ["s3", "gs", "oss", "abfss", "hdfs"])
def test_a_manifest_list_in_a_storage_that_is_not_there(tmp_path: Path, scheme: str) -> None:
    commit(trades_table(tmp_path / "home"), 0)
    (*_, newest) = sorted(tmp_path.glob("home/warehouse/*/*/metadata/*.metadata.json"))
    there = f"{scheme}://bucket/lake/snap-1.avro"
    metadata = json.loads(newest.read_text())
    for snapshot in metadata["snapshots"]:
        snapshot["manifest-list"] = there
    newest.write_text(json.dumps(metadata))
    table = load_table(open_catalog(Settings(home=tmp_path / "home", timeout_s=0.5)), "trades_v2")
    assert table is not None and local(table.location()).exists()
    began = time.monotonic()
    with pytest.raises(K2Error) as caught:
        plan_files(table)
    assert time.monotonic() - began < LIMIT_S
    assert there in str(caught.value)
    assert "\n" not in str(caught.value)

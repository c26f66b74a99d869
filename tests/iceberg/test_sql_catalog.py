"""The SQL catalog is opened and filled by several processes at once, whoever is faster."""

from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalogBaseTable
from pyiceberg.exceptions import ValidationError
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from k2lib.iceberg.sql_catalog import SharedSqlCatalog
from k2lib.schema.records import TRADE


def opened(folder: Path) -> SharedSqlCatalog:
    uri = f"sqlite:///{folder / 'catalog.db'}?timeout=0.1"
    return SharedSqlCatalog("k2", uri=uri, warehouse=f"file://{folder}")


def test_a_catalog_that_another_process_makes_meanwhile_is_opened(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(*_: Any, **__: Any) -> None:
        if not made:
            made.append(tmp_path)
            opened(tmp_path).create_namespace("market_data")

    event.listen(SqlCatalogBaseTable.metadata, "before_create", make)
    try:
        catalog = opened(tmp_path)
    finally:
        event.remove(SqlCatalogBaseTable.metadata, "before_create", make)
    assert catalog.list_namespaces() == [("market_data",)]


def test_a_namespace_that_another_process_makes_meanwhile_is_there(tmp_path: Path) -> None:
    catalog, other = opened(tmp_path), opened(tmp_path)
    made: list[str] = []

    def make(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("INSERT") and not made:
            made.append(statement)
            other.create_namespace("market_data")

    event.listen(catalog.engine, "before_cursor_execute", make)
    catalog.create_namespace_if_not_exists("market_data")
    assert made and catalog.list_namespaces() == [("market_data",)]


def test_metadata_are_parsed_again_once_their_file_has_changed(tmp_path: Path) -> None:
    catalog = opened(tmp_path)
    catalog.create_namespace("market_data")
    name = ("market_data", "trades")
    first = catalog.create_table(name, TRADE.iceberg)
    assert catalog.load_table(name).metadata is catalog.load_table(name).metadata
    first.transaction().set_properties(one="1").commit_transaction()
    later = catalog.load_table(name)
    assert (first.properties["one"], later.properties["one"]) == ("1", "1")
    Path(later.metadata_location.removeprefix("file://")).write_text("{}")
    with pytest.raises(ValidationError):
        catalog.load_table(name)


def test_a_catalog_that_cannot_be_made_is_not_tried_again(tmp_path: Path) -> None:
    tries: list[int] = []

    def count(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise OperationalError("CREATE TABLE", None, Exception("disk I/O error"))

    event.listen(SqlCatalogBaseTable.metadata, "before_create", count)
    try:
        with pytest.raises(OperationalError, match="disk I/O error"):
            opened(tmp_path)
    finally:
        event.remove(SqlCatalogBaseTable.metadata, "before_create", count)
    assert len(tries) == 1

"""The lake's tables: their definitions, and the catalog that has them."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import yaml
from pydantic import SecretStr
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchTableError,
    ResolveError,
    ValidationError,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import DecimalType, IcebergType

from k2lib.addresses import lower_scheme, public_url
from k2lib.errors import ConfigError, SchemaError, TableError, TransientError, reason_of
from k2lib.iceberg.catalog import cause_text, connect, lake_errors, read_errors
from k2lib.iceberg.columns import AVRO_SCHEMA_PROPERTY, stored_schema
from k2lib.iceberg.file_io import file_io_properties
from k2lib.iceberg.home_catalog import (
    WAREHOUSE,
    check_locations,
    check_restored,
    checked_warehouse,
    sqlite_uri,
    warehouse_elsewhere,
    warehouse_location,
)
from k2lib.iceberg.sql_catalog import SharedSqlCatalog
from k2lib.reasons import os_reason, with_remedy
from k2lib.resilience.time_limit import TimeLimit
from k2lib.schema.order import EVENT_ORDER
from k2lib.schema.records import (
    DEAD_LETTER,
    GAP,
    QUOTE,
    REFERENCE,
    TRADE,
    RecordSchema,
    check_compatible,
)
from k2lib.settings import Settings

LOG: Final = logging.getLogger("k2lib")
CATALOG: Final = "k2"
NAMESPACE: Final = "market_data"
DEFAULT_REGION: Final = "us-east-1"
# The sinks of a process begin together, and a catalog may not know how to create twice at once.
MAKING: Final = threading.Lock()
# A sink tries again every second.
STORAGE_S: Final = 5.0
PROPERTIES: Final = {
    "format-version": "2",
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "8",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.row-group-limit": "65536",
    "write.metadata.metrics.default": "truncate(16)",
}


@dataclass(frozen=True)
class TableSpec:
    """One table: its record type, and whether rows are kept by day and venue."""

    name: str
    kind: str
    schema: RecordSchema
    by_day: bool

    @property
    def order(self) -> tuple[str, ...]:
        """Columns by which rows stand in a file: symbol first, then the order of events."""
        if self.by_day:
            return ("symbol", *(name for name in EVENT_ORDER if name != "symbol"))
        return tuple(name for name in ("noticed", "symbol") if name in self.schema.arrow.names)


TABLES: Final = {
    spec.name: spec
    for spec in (
        TableSpec("trades_v2", "trades", TRADE, by_day=True),
        TableSpec("quotes_v2", "quotes", QUOTE, by_day=True),
        TableSpec("reference_v2", "reference", REFERENCE, by_day=False),
        TableSpec("dead_letters", "dead_letters", DEAD_LETTER, by_day=False),
        TableSpec("gaps", "gaps", GAP, by_day=False),
    )
}


def open_catalog(settings: Settings) -> Catalog:
    """Open the catalog named by the settings: by default SQLite and files in the home.

    The home's own is made by the first write.

    Raises:
        ConfigError: there is no such catalog or warehouse, or its tables are in another home.
        DamagedFileError: it is an SQLite file that is damaged, or lost its tables.
        TransientError: it does not answer.
    """
    options = _catalog_file(settings.catalog_config)
    home = settings.home.resolve()
    check_restored(home)
    uri = lower_scheme(settings.catalog_uri or options.get("uri", ""))
    if settings.catalog_uri:
        options.setdefault("type", "rest" if uri.startswith("http") else "sql")
    named = settings.warehouse or options.get("warehouse")
    # A REST catalog has names of its own for warehouses.
    if named is not None and not uri.startswith("http"):
        named = checked_warehouse(named)
    warehouse = named or warehouse_location(home)
    own_home = None if uri else home
    if own_home is not None:
        check_locations(
            home, warehouse=warehouse, namespace=NAMESPACE, timeout_s=settings.timeout_s
        )
        # SQLite waits so long for other writers.
        uri, options["type"] = sqlite_uri(home, timeout_s=settings.timeout_s), "sql"
        if named is not None:
            _tell_of_tables_elsewhere(home, named, timeout_s=settings.timeout_s)
    options |= {"uri": uri, "warehouse": warehouse, **_access_options(settings)}
    if "credential" in options:
        options.setdefault("oauth2-server-uri", f"{uri.rstrip('/')}/v1/oauth/tokens")
    if "s3.endpoint" in options:  # without a region the bucket's would be asked of AWS
        options.setdefault("s3.region", DEFAULT_REGION)
    options = {**file_io_properties(settings.timeout_s), **options}
    _check_storage(options, TimeLimit(settings.timeout_s))
    return connect(
        CATALOG,
        options,
        home=own_home,
        home_warehouse=home / WAREHOUSE if named is None else None,
        timeout_s=settings.timeout_s,
    )


def ensure_table(catalog: Catalog, spec: TableSpec) -> Table:
    """Load the table, made or brought to the schema of today where needed.

    Several processes may do so at once.

    Raises:
        SchemaError: the schema of today cannot read what the table's last one wrote.
        TableError: another writer changed columns so that those of today cannot be added.
        ConfigError: the folder of the warehouse cannot be made.
        TransientError: catalog or storage do not answer.
    """
    _check_storage(catalog.properties, TimeLimit(STORAGE_S))
    part = f"table {spec.name} of {_warehouse(catalog.properties)}"
    with MAKING, lake_errors(part):
        catalog.create_namespace_if_not_exists(NAMESPACE)
        table = load_table(catalog, spec.name)
        if table is None:
            try:
                return _create_table(catalog, spec)
            except FileNotFoundError as exc:  # of a folder that cannot be made
                raise ConfigError(f"{part}: {with_remedy(os_reason(exc))}") from exc
        try:
            return _evolve_table(table, spec)
        except CommitFailedException:  # another process was faster, and has perhaps done it
            return _evolve_table(catalog.load_table(table.name()), spec)


def check_schema(table: Table, schema: RecordSchema) -> None:
    """Refuse a schema that cannot read what the table's last one wrote.

    Raises:
        SchemaError: names field and reason.
    """
    before = table.properties.get(AVRO_SCHEMA_PROPERTY, schema.text)
    subject = f"table {table.name()[-1]}"
    try:
        if before != schema.text:
            check_compatible(schema.text, before, subject=subject)
    except (ValueError, LookupError, TypeError) as exc:
        raise SchemaError(
            f"{subject}: its property {AVRO_SCHEMA_PROPERTY} is no Avro schema ({before[:60]!r}): "
            "remove it with the engine that set it"
        ) from exc


def columns_as_read(table: Table, schema: Schema) -> Schema:
    """Return one of a table's schemas as it is read, with its types.

    A decimal that an older version made narrower is read as it will be after the next write.
    """
    spec = TABLES.get(table.name()[-1])
    today = {} if spec is None else {one.name: one.field_type for one in spec.schema.iceberg.fields}
    kinds = [_wider(one.field_type, today.get(one.name)) for one in schema.fields]
    if kinds == [one.field_type for one in schema.fields]:
        return schema
    fields = zip(schema.fields, kinds, strict=True)
    return Schema(
        *(field.model_copy(update={"field_type": kind}) for field, kind in fields),
        schema_id=schema.schema_id,
    )


def load_table(catalog: Catalog, name: str) -> Table | None:
    """Load the current state of a table; None where nothing was ever written to it."""
    with read_errors(f"table {name}", path=lambda: metadata_location(catalog, name)):
        try:
            table = catalog.load_table((NAMESPACE, name))
        except NoSuchTableError:
            return None
        current = table.metadata.current_snapshot_id
        if current is not None and table.current_snapshot() is None:
            raise ValueError(f"snapshot {current}, the current one, is not in it")
        return table


def metadata_location(catalog: Catalog, name: str) -> str | None:
    """Return where a table's metadata lie; only SQL catalogs can be asked without reading them."""
    if not isinstance(catalog, SharedSqlCatalog):
        return None
    return catalog.metadata_location((NAMESPACE, name))


def _warehouse(properties: Mapping[str, str]) -> str:
    warehouse = public_url(properties.get("warehouse", "of the catalog"))
    endpoint = properties.get("s3.endpoint")
    return f"the warehouse {warehouse}" + (f" at {public_url(endpoint)}" if endpoint else "")


def _check_storage(properties: Mapping[str, str], limit: TimeLimit) -> None:
    """Refuse an S3 that does not answer; its library tries for long, a table after the other.

    Raises:
        TransientError: names its address.
    """
    endpoint = properties.get("s3.endpoint")
    if endpoint is None or not properties.get("warehouse", "").startswith("s3"):
        return
    try:
        limit.call(httpx2.get, endpoint, timeout=limit.seconds, trust_env=False)
    except (httpx2.TimeoutException, httpx2.ConnectError, TimeoutError) as exc:
        reason = cause_text(exc) if isinstance(exc, httpx2.ConnectError) else limit.reason
        if "SSL" not in reason:  # the library of S3 may trust a certificate that is unknown here
            raise TransientError(f"{_warehouse(properties)}: {with_remedy(reason)}") from exc
    except httpx2.HTTPError:
        return  # it answers something: whoever reads or writes says what is wrong


def _wider(before: IcebergType, today: IcebergType | None) -> IcebergType:
    if not (isinstance(before, DecimalType) and isinstance(today, DecimalType)):
        return before
    return today if today.scale == before.scale and today.precision > before.precision else before


def _create_table(catalog: Catalog, spec: TableSpec) -> Table:
    schema = spec.schema.iceberg
    ids = {name: schema.find_field(name).field_id for name in spec.order}
    partitions = UNPARTITIONED_PARTITION_SPEC
    if spec.by_day:
        partitions = PartitionSpec(
            PartitionField(ids["timestamp"], 1000, DayTransform(), "timestamp_day"),
            PartitionField(ids["exchange"], 1001, IdentityTransform(), "exchange"),
        )
    return catalog.create_table_if_not_exists(
        (NAMESPACE, spec.name),
        schema=schema,
        partition_spec=partitions,
        sort_order=SortOrder(*(SortField(i, IdentityTransform()) for i in ids.values())),
        properties={**PROPERTIES, AVRO_SCHEMA_PROPERTY: spec.schema.text},
    )


def _evolve_table(table: Table, spec: TableSpec) -> Table:
    check_schema(table, spec.schema)
    if table.properties.get(AVRO_SCHEMA_PROPERTY) == spec.schema.text:
        return table
    try:
        with table.transaction() as transaction:
            with transaction.update_schema() as update:
                update.union_by_name(stored_schema(table, spec.schema))
            transaction.set_properties({AVRO_SCHEMA_PROPERTY: spec.schema.text})
    except (ResolveError, ValidationError, ValueError) as exc:
        raise TableError(
            f"table {'.'.join(table.name())}: another writer changed columns so that those of "
            f"today cannot be added: {reason_of(exc)}. Restore them with that engine"
        ) from exc
    return table


def _tell_of_tables_elsewhere(home: Path, warehouse: str, *, timeout_s: float) -> None:
    elsewhere = warehouse_elsewhere(
        home, warehouse=warehouse, namespace=NAMESPACE, timeout_s=timeout_s
    )
    if elsewhere is not None:
        message = "K2: the tables of the home %s stay in %s; K2_WAREHOUSE=%s is for new ones"
        LOG.warning(message, home, elsewhere, public_url(warehouse))


def _catalog_file(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        reason = os_reason(exc).removeprefix(f"{path}: ")
        raise ConfigError(f"K2_CATALOG_CONFIG={path}: {with_remedy(reason)}") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        # Its text quotes the line, which may hold a secret.
        line = getattr(getattr(exc, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 1}"
        raise ConfigError(
            f"K2_CATALOG_CONFIG={path}{where}: is not YAML: write `name: value` lines, texts with "
            "special characters in quotes"
        ) from None
    if not isinstance(options, Mapping):
        raise ConfigError(f"K2_CATALOG_CONFIG={path}: must hold `name: value` lines")
    return {str(name): str(value) for name, value in options.items()}


def _access_options(settings: Settings) -> dict[str, str]:
    """Return pyiceberg's options for whoever may use catalog and storage."""
    options = {
        "credential": settings.catalog_credential,
        "token": settings.catalog_token,
        "s3.endpoint": settings.s3_endpoint,
        "s3.access-key-id": settings.s3_access_key_id,
        "s3.secret-access-key": settings.s3_secret_access_key,
        "s3.session-token": settings.s3_session_token,
        "s3.region": settings.s3_region,
    }
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in options.items()
        if value is not None
    }


class TableCache:
    """Tables, loaded again only where the catalog has newer metadata; usable by any thread."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()

    def table(self, name: str) -> Table | None:
        """Return the current state of a table; None where nothing was ever written to it."""
        cached = self._tables.get(name)
        if cached is not None and cached.metadata_location == self._location(name):
            return cached
        table = load_table(self._catalog, name)
        with self._lock:
            if table is not None:
                self._tables[name] = table
        return table

    def _location(self, name: str) -> str | None:
        """A twentieth of the time to load a table."""
        with lake_errors(f"table {name}"):
            return metadata_location(self._catalog, name)

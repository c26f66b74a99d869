"""The files of a table at another place: the absolute paths in its metadata are rewritten.

Everything else stays as it is: snapshots and their ids, sequence numbers, tags, branches, table id
and properties, and the bytes of data files.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Any, Final
from uuid import uuid4

import fastavro
import pyarrow as pa
from pyarrow import parquet

# Of the column `file_path` of position deletes.
FILE_PATH_ID: Final = 2147483546
FILE_PATH: Final = "file_path"
LOCATION_PROPERTIES: Final = (
    "write.data.path",
    "write.metadata.path",
    "write.object-storage.path",
    "write.folder-storage.path",
)


def path_below(location: str, path: str) -> str:
    """Return a file's path relative to its table; one elsewhere gets a name of its own."""
    prefix = f"{location.rstrip('/')}/"
    if path.startswith(prefix):
        return path.removeprefix(prefix)
    return f"data/{sha256(path.encode()).hexdigest()[:16]}-{path.rpartition('/')[2]}"


@dataclass(frozen=True)
class Relocation:
    """A table's way from one location to another.

    Attributes:
        sizes: of files whose bytes changed on the way, by their old path.
    """

    before: str
    after: str
    sizes: Mapping[str, int]

    def path(self, old: str) -> str:
        """Return where a file is afterwards."""
        return f"{self.after.rstrip('/')}/{path_below(self.before, old)}"

    def manifest(self, content: bytes) -> bytes:
        """Return a manifest whose entries name the files where they are afterwards."""
        return _rewrite_avro(content, self._move_entry)

    def manifest_list(self, content: bytes) -> bytes:
        """Return a manifest list that names the manifests where they are afterwards."""
        return _rewrite_avro(content, self._move_manifest)

    def position_deletes(self, content: bytes) -> bytes:
        """Return a Parquet file of position deletes for the data files at their new place."""
        rows = parquet.read_table(BytesIO(content))
        index = rows.schema.get_field_index(FILE_PATH)
        paths = [self.path(old) for old in rows.column(FILE_PATH).to_pylist()]
        field = rows.schema.field(index)
        written = BytesIO()
        parquet.write_table(
            rows.set_column(index, field, pa.array(paths, field.type)), written, compression="zstd"
        )
        return written.getvalue()

    def metadata(self, content: bytes) -> tuple[str, bytes]:
        """Return a metadata file's name and content; earlier metadata files stay behind."""
        metadata = json.loads(content)
        metadata["location"] = self.after
        metadata["metadata-log"] = []
        for snapshot in metadata.get("snapshots", []):
            if "manifest-list" in snapshot:
                snapshot["manifest-list"] = self.path(snapshot["manifest-list"])
        for kind in ("statistics", "partition-statistics"):
            for one in metadata.get(kind, []):
                one["statistics-path"] = self.path(one["statistics-path"])
        properties = metadata.get("properties", {})
        for name in LOCATION_PROPERTIES:
            properties.pop(name, None)
        return f"00000-{uuid4()}.metadata.json", json.dumps(metadata).encode()

    def _move_manifest(self, record: dict[str, Any]) -> None:
        old = record["manifest_path"]
        record["manifest_path"] = self.path(old)
        record["manifest_length"] = self.sizes.get(old, record["manifest_length"])

    def _move_entry(self, record: dict[str, Any]) -> None:
        file = record["data_file"]
        old = file["file_path"]
        file["file_path"] = self.path(old)
        if file.get("referenced_data_file") is not None:
            file["referenced_data_file"] = self.path(file["referenced_data_file"])
        if old in self.sizes:
            file["file_size_in_bytes"] = self.sizes[old]
            self._move_bounds(file)

    def _move_bounds(self, file: dict[str, Any]) -> None:
        """The bounds of position deletes' paths are paths too, or beginnings of them: drop them."""
        for name in ("lower_bounds", "upper_bounds"):
            if file.get(name):
                file[name] = [one for one in file[name] if one["key"] != FILE_PATH_ID]


def _rewrite_avro(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return an Avro file with changed records; its schema and properties are those of before."""
    reader = fastavro.reader(BytesIO(content))
    header = {name: text for name, text in reader.metadata.items() if not name.startswith("avro.")}
    written = BytesIO()
    fastavro.writer(
        written,
        json.loads(reader.metadata["avro.schema"]),
        _changed(reader, change),
        codec=reader.metadata.get("avro.codec", "null"),
        metadata=header,
    )
    return written.getvalue()


def _changed(
    records: Iterator[Any], change: Callable[[dict[str, Any]], None]
) -> Iterator[dict[str, Any]]:
    for record in records:
        change(record)
        yield record

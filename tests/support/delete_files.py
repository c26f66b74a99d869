"""Delete files as an engine that merges on read leaves them: pyiceberg writes none itself."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles


class DeleteManifestWriter(ManifestWriterV2):
    """Writes a manifest of delete files."""

    def content(self) -> ManifestContent:
        """Return what the entries are."""
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class DeleteFiles(_FastAppendFiles):
    """Commits delete files, or that they are gone."""

    def of(self, files: list[DataFile], status: ManifestEntryStatus) -> "DeleteFiles":
        """Name the delete files of the commit."""
        self.files, self.status = files, status
        return self

    def _existing_manifests(self) -> list[ManifestFile]:
        metadata, location = self._transaction.table_metadata, self._transaction._table.location()
        output = self._io.new_output(f"{location}/metadata/{uuid4()}-deletes.avro")
        number = (
            metadata.last_sequence_number if self.status == ManifestEntryStatus.DELETED else None
        )
        with DeleteManifestWriter(
            metadata.spec(), metadata.schema(), output, self._snapshot_id, "deflate"
        ) as writer:
            for file in self.files:
                entry = ManifestEntry.from_args(
                    status=self.status,
                    snapshot_id=self._snapshot_id,
                    sequence_number=number,
                    file_sequence_number=number,
                    data_file=file,
                )
                writer.add_entry(entry)
        data = [one for one in super()._existing_manifests() if one.content == ManifestContent.DATA]
        return [*data, writer.to_manifest_file()]


def delete_first_row(table: Table, content: Any = DataFileContent.POSITION_DELETES) -> Table:
    """Delete the first row of each data file by a delete file, as merge-on-read does."""
    files = [_delete_file(table, task.file, content) for task in table.scan().plan_files()]
    return _commit(table, files, ManifestEntryStatus.ADDED)


def compact_deletes(table: Table, rows: pa.Table) -> Table:
    """Rewrite the table with these rows, and leave a manifest whose deletes are all deleted."""
    deletes = [
        entry.data_file
        for manifest in table.current_snapshot().manifests(table.io)
        if manifest.content == ManifestContent.DELETES
        for entry in manifest.fetch_manifest_entry(table.io)
    ]
    table.append(rows)
    old = {task.file for task in table.scan().plan_files() if task.delete_files}
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        for file in old:
            update.delete_data_file(file)
    return _commit(table, deletes, ManifestEntryStatus.DELETED)


def _commit(table: Table, files: list[DataFile], status: ManifestEntryStatus) -> Table:
    with table.transaction() as transaction:
        update = DeleteFiles(Operation.DELETE, transaction, table.io).of(files, status)
        update.commit()
    return table


def _delete_file(table: Table, file: DataFile, content: DataFileContent) -> DataFile:
    path = Path(file.file_path.removeprefix("file://")).with_name(f"{uuid4()}-deletes.parquet")
    rows = pa.table({"file_path": [file.file_path], "pos": pa.array([0], pa.int64())})
    pq.write_table(rows, path)
    return DataFile.from_args(
        content=content,
        file_path=f"file://{path}",
        file_format=FileFormat.PARQUET,
        partition=file.partition,
        record_count=1,
        file_size_in_bytes=path.stat().st_size,
        spec_id=file.spec_id,
        equality_ids=[1] if content == DataFileContent.EQUALITY_DELETES else None,
        key_metadata=None,
        column_sizes={},
        value_counts={},
        null_value_counts={},
        nan_value_counts={},
        lower_bounds={},
        upper_bounds={},
    )

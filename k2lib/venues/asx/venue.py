"""ASX as a venue: its files, and the reference data they need, behind what every venue offers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from k2lib.venues.asx.files import AsxFile, file_kind, find_files, read_file
from k2lib.venues.asx.reference import ReferenceData, find_reference, read_reference
from k2lib.venues.base import FileBatch, FileFacts, FileOptions, SourceFile


class AsxVenue:
    """Files of trades and quotes, one a company; a `FileVenue`."""

    asset_class: ClassVar[str] = "equities"

    def find_files(self, paths: Sequence[str | Path], options: FileOptions) -> list["CompanyFile"]:
        """Return the files that the paths mean, each once, in order."""
        references = _References(options.reference)
        return [CompanyFile(file, references) for file in find_files(paths, parts=options.parts)]


class _References:
    """The reference data met so far, by folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._read: dict[Path, ReferenceData] = {}

    def of(self, file: AsxFile) -> tuple[ReferenceData, bool]:
        """Return the reference data of a file, and whether it is met for the first time."""
        folder = self._folder or find_reference(file.paths[0])
        is_new = folder not in self._read
        if is_new:
            self._read[folder] = read_reference(folder)
        return self._read[folder], is_new


@dataclass(frozen=True)
class CompanyFile:
    """One company's file, or its parts; a `SourceFile`."""

    file: AsxFile
    references: _References

    @property
    def name(self) -> str:
        """The file's name as a report shows it, with its folder."""
        return self.file.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where it is on the disk."""
        return self.file.paths

    def open(self) -> FileFacts:
        """Look whether the file has trades or quotes.

        Raises:
            SourceError: it has neither.
        """
        return FileFacts(file_kind(self.file))

    def reference(self) -> Sequence[SourceFile]:
        """Return the companies of the file's folder, if no file before it needed them.

        Raises:
            SourceError: there is no reference data, or it is malformed.
        """
        data, is_new = self.references.of(self.file)
        return [ReferenceFile(data)] if is_new else []

    def read(self, ingested: datetime) -> Iterator[FileBatch]:
        """Read the file in chunks; see `read_file`."""
        data, _ = self.references.of(self.file)
        instrument = data.instrument(self.file.company_id)
        return read_file(self.file, instrument, ingested=ingested)


@dataclass(frozen=True)
class ReferenceFile:
    """The companies of one folder; a `SourceFile`."""

    data: ReferenceData

    @property
    def name(self) -> str:
        """The file's name as a report shows it, with its folder."""
        return f"{self.data.folder.name}/company_info.csv"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where it is on the disk."""
        return (self.data.folder / "company_info.csv",)

    def open(self) -> FileFacts:
        """Say that this is reference data: it is read already."""
        return FileFacts("reference")

    def reference(self) -> tuple[()]:
        """Return nothing: it needs none itself."""
        return ()

    def read(self, ingested: datetime) -> Iterator[FileBatch]:
        """Yield the companies, in file order."""
        yield FileBatch("reference", self.data.exchange, self.data.rows(ingested), [], 0)

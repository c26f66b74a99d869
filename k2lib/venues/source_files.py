"""What all venues' files have in common: the paths that mean them, and `exchange.txt`."""

import glob
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from k2lib.errors import SourceError

MARKER: Final = "exchange.txt"
MARKER_BYTES: Final = 256
GZIP_ERRORS: Final = (gzip.BadGzipFile, EOFError, zlib.error)


def expand_path(path: Path, suffixes: tuple[str, ...], *, without: str = "") -> list[Path]:
    """Return the files that a path means: a file, a folder's files, or what a glob matches.

    Args:
        suffixes: of files in a folder, in lower case; if no file of a glob has one, all count.
        without: folders of that name are left out.
    Returns:
        Files in order; the path itself where it means none.
    """
    try:
        if path.is_file():
            return [path]
        is_glob = not path.is_dir()
        if is_glob and not glob.has_magic(str(path)):
            return [path]
        found = (one for one in _matches(path, is_glob) if one.parent.name != without)
        files = sorted(one for one in found if one.is_file())
    except (OSError, ValueError):  # no name of a file, or no glob
        return [path]
    named = [file for file in files if file.name.lower().endswith(suffixes)]
    return named or (files if is_glob else []) or [path]


def is_folder(path: Path) -> bool:
    """Say whether the path is a folder; what can be no name of one is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_is_file(path: Path, name: str) -> None:
    """Refuse a pipe or a device: one may never end, or never begin, and no file is read twice.

    Args:
        name: the file's name in errors.
    Raises:
        SourceError: it is one.
        OSError: it cannot be looked at.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise SourceError(f"{name}: a pipe or a device: write its data into a file, and load that")


def _matches(path: Path, is_glob: bool) -> Iterator[Path]:
    if is_glob:
        return Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))
    return path.rglob("*")


@contextmanager
def open_lines(path: Path, name: str) -> Iterator[BufferedIOBase]:
    """Open a file of lines, unpacked if its name ends in .gz.

    Args:
        name: the file's name in errors.
    Raises:
        SourceError: it cannot be opened, or not be read on.
    """
    try:
        check_is_file(path, name)
        is_packed = path.name.lower().endswith(".gz")
        with gzip.open(path) if is_packed else path.open("rb") as opened:
            yield opened
    except IsADirectoryError as exc:
        raise SourceError(f"{name}: no .csv file in this folder") from exc
    except GZIP_ERRORS as exc:
        raise SourceError(f"{name}: not a whole gzip file: {exc}; get it again") from exc
    except OSError as exc:
        raise SourceError(f"{name}: cannot be read: {exc.strerror}") from exc


def read_marker(marker: Path) -> str:
    """Return the venue that an `exchange.txt` names.

    Raises:
        SourceError: it cannot be read, or names none.
    """
    with open_lines(marker, str(marker)) as opened:
        text = opened.read(MARKER_BYTES).decode("utf-8-sig", errors="replace").strip()
    if not re.fullmatch("[A-Z0-9_]+", text):
        raise SourceError(f"{marker}: {text!r} is no name of a venue (A-Z, 0-9, _)")
    return text

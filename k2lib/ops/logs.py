"""The logs of a home's services, as `k2 logs` shows them."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from k2lib.errors import ConfigError
from k2lib.ops.services import SUPERVISOR
from k2lib.reasons import file_errors

LOOK_S: Final = 0.2


def log_files(home: Path) -> dict[str, Path]:
    """Return the log of each service that was ever started in a home, by name."""
    with file_errors(f"the home {home}"):
        found = sorted((home / "services").glob("*/log"))
    return {file.parent.name: file for file in found}


def find_log(home: Path, name: str) -> Path:
    """Return the log of one service.

    Raises:
        ConfigError: it has none; names those that have.
    """
    files = log_files(home)
    if name not in files:
        names = ", ".join(files) or f"none; `k2 up` starts services, among them the {SUPERVISOR}"
        raise ConfigError(f"no log of {name} in the home {home}; there are {names}")
    return files[name]


def last_lines(log: Path, *, lines: int) -> list[str]:
    """Return the last lines of a log, those from before the last start first."""
    texts = [file.read_text(errors="replace") for file in _with_older(log) if file.exists()]
    return "".join(texts).splitlines()[-lines:] if lines else []


def follow(log: Path, *, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Yield each line that is written from now on, also after the service was started again.

    Args:
        pause: called with the seconds until the next look.
    """
    file, rest = log.open(errors="replace"), ""
    file.seek(0, 2)
    try:
        while True:
            text = file.read()
            rest += text
            *whole, rest = rest.split("\n")
            yield from whole
            if text:
                continue
            if _is_replaced(log, file.fileno()):
                file.close()
                file, rest = log.open(errors="replace"), ""
                continue
            pause(LOOK_S)
    finally:
        file.close()


def _with_older(log: Path) -> tuple[Path, Path]:
    return log.with_name("log.1"), log


def _is_replaced(log: Path, descriptor: int) -> bool:
    try:
        return not os.path.samestat(log.stat(), os.fstat(descriptor))
    except FileNotFoundError:  # between the end of a service and its start
        return False

"""`k2 reset`: delete a home, once nothing uses it."""

import shutil
from pathlib import Path

from k2lib.errors import ConfigError, OwnerError
from k2lib.ops.services import running
from k2lib.ops.status import writer_pid

MARKS = ("catalog.db", "run", "services", "warehouse")


def reset_home(home: Path) -> None:
    """Delete a home and all in it; a home that is not there is no error.

    Raises:
        OwnerError: a writer or the local services still use it.
        ConfigError: the folder does not look like a home.
    """
    if not home.exists():
        return
    pid = writer_pid(home)
    if pid is not None:
        raise OwnerError(f"process {pid} writes {home}: end it first")
    if running(home) is not None:
        raise OwnerError(f"Kafka and the registry run in {home}: `k2 down` first")
    strange = sorted(path.name for path in home.iterdir() if path.name not in MARKS)
    if strange:
        raise ConfigError(f"{home} is not only a home of ours; it holds {', '.join(strange[:5])}")
    shutil.rmtree(home)

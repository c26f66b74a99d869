"""Run several commands one after the other in one process, whoever its user is.

Arguments, as JSON: a list of the arguments of each. Prints a line of JSON for each: its exit code,
what it wrote on standard output and on standard error, and how long it took.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from k2lib.cli import main


@contextmanager
def _written(fd: int) -> Iterator[BinaryIO]:
    """Let what is written to a standard stream go to a file."""
    kept = os.dup(fd)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), fd)
        try:
            yield file
        finally:
            os.dup2(kept, fd)
            os.close(kept)


def run(arguments: list[str]) -> dict[str, object]:
    """Run one command."""
    sys.argv, code, began = ["k2", *arguments], 0, time.monotonic()
    with _written(1) as out, _written(2) as err:
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        texts = {"out": out, "err": err}
        seconds = time.monotonic() - began
        said = {name: os.pread(one.fileno(), 1 << 20, 0).decode() for name, one in texts.items()}
    return {"code": code, "seconds": seconds, **said}


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        sys.stdout.write(json.dumps(run(one)) + "\n")
        sys.stdout.flush()

"""Ten processes that open one home at the same moment, load the same files into it, and read it.

Arguments, as JSON: the settings of `K2.open`, and `folder` of ASX files. Prints a line of JSON for
each process: the rows that it reads in the end, and the error that its load ended with, or null.
The processes are forked, so that they begin together and the libraries are imported once.
"""

import json
import multiprocessing
import sys
from multiprocessing.synchronize import Barrier
from typing import Any

from k2lib import K2
from k2lib.errors import OwnerError

PROCESSES = 10


def load_and_read(settings: dict[str, Any], folder: str, start: Barrier) -> None:
    """Begin with the others."""
    start.wait()
    error = None
    with K2.open(**settings) as k2:
        try:
            report = k2.load_asx(folder)
            error = str(report.files) if report.failed else None
        except OwnerError as exc:
            error = str(exc)
        rows = k2.sql("SELECT count(*) FROM trades_v2").item()
    sys.stdout.write(json.dumps({"rows": rows, "error": error}) + "\n")
    sys.stdout.flush()


def main(settings: dict[str, Any], *, folder: str) -> None:
    """Start the processes, and wait for them."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(PROCESSES)
    processes = [
        context.Process(target=load_and_read, args=(settings, folder, start))
        for _ in range(PROCESSES)
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    sys.exit(max(abs(one.exitcode or 0) for one in processes))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

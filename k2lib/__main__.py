"""The program `k2`, and `python -m k2lib`."""

import os
import sys

from k2lib.cli import main
from k2lib.resilience.time_limit import runs_abandoned_call


def run() -> None:
    """Run the command line; its end waits for no call that was abandoned.

    The library of S3 tries on for half a minute, and Python waits for that.
    """
    try:
        main()
    except SystemExit as exc:
        if isinstance(exc.code, int) and runs_abandoned_call():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exc.code)
        raise


if __name__ == "__main__":
    run()

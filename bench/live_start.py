"""What the measured clients have in common: the symbols, and the moment from which they count."""

import sys

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CONNECTED = "connected"


def wait_for_go() -> None:
    """Tell the parent that trades come, and wait for its word that all of them are there."""
    print(CONNECTED, flush=True)
    sys.stdin.readline()

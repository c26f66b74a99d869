"""Draw `k2 top` in 80 and 160 columns into docs/img, while the offline exchange streams."""

import subprocess
import sys
import tempfile
from pathlib import Path

from support.live import streams
from support.paths import ROOT
from support.terminal import Terminal
from support.waiting import wait_until

SIZES = ((80, 24), (160, 48))
STREAM = ["-m", "k2lib", "stream", "binance", "--offline", "--rate", "60"]
TRADES = 1_000


def draw(home: Path) -> None:
    """Draw each size once the stream has filled the tables and the sparklines."""
    with subprocess.Popen(
        [sys.executable, *STREAM],
        env={"PATH": "/usr/bin:/bin", "K2_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: streams(home))
            draw_sizes(home)
        finally:
            process.terminate()
            process.wait()


def draw_sizes(home: Path) -> None:
    """Draw the screens of a home that is streamed to."""
    env = {"K2_HOME": str(home)}
    with (
        Terminal(["top"], columns=SIZES[0][0], lines=SIZES[0][1], env=env) as narrow,
        Terminal(["top"], columns=SIZES[1][0], lines=SIZES[1][1], env=env) as wide,
    ):
        wait_until(lambda: streams(home, TRADES), seconds=300)
        for (columns, _), terminal in zip(SIZES, (narrow, wide), strict=True):
            wait_until(lambda shown=terminal: "trades_v2 " in shown.text())
            terminal.save_picture(ROOT / "docs" / "img" / f"top-{columns}.png")
            terminal.press("q")
            terminal.wait_until_ended()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "offline")

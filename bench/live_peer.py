"""A venv of its own for cryptofeed, so that what it needs never meets what k2lib needs."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NEEDS = "3.13"


@dataclass(frozen=True)
class Peer:
    """A cryptofeed, and how many times its trades per CPU-second are the goal.

    `part`: the older one is so slow that it gets one frame in so many.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    goal: int
    part: int

    def python(self, folder: Path, base: str) -> Path:
        """Return the Python of its venv, made on first use."""
        python, done = folder / self.name / "bin" / "python", folder / self.name / ".installed"
        if not done.exists():
            subprocess.run([base, "-m", "venv", folder / self.name], check=True)
            install = ["-m", "pip", "install", "--quiet", *self.packages]
            subprocess.run([python, *install], check=True)
            done.touch()
        return python


NEW = Peer("cryptofeed", "bench.live_cryptofeed", ("cryptofeed==3.0.1", "aiokafka"), 2, 1)
OLD = Peer(
    "cryptofeed2",
    "bench.live_cryptofeed2",
    ("cryptofeed==2.4.1", "aiokafka", "setuptools<81"),
    20,
    30,
)


def choose_peer(folder: Path) -> tuple[Peer, Path]:
    """Return cryptofeed 3 where there is Python 3.13, else the newest for this Python."""
    base = base_python()
    if base is None:
        return OLD, OLD.python(folder, sys.executable)
    return NEW, NEW.python(folder, base)


def base_python() -> str | None:
    """Return the Python 3.13 named by PYTHON313, else the one on the path, if it runs."""
    named = os.environ.get("PYTHON313") or shutil.which(f"python{NEEDS}")
    if named is None:
        return None
    result = subprocess.run([named, "--version"], capture_output=True, text=True, check=False)
    return named if result.stdout.startswith(f"Python {NEEDS}.") else None

"""Where the tree, its tests and the caches of the tests are."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TESTS: Final = ROOT / "tests"
SUPPORT: Final = TESTS / "support"
CACHE: Final = ROOT / "build" / "cache"
CHROMIUM: Final = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")

"""A venv of its own for cryptofeed, so that what it needs never meets what k2lib needs."""

import os
import shutil
import subprocess
from pathlib import Path

PACKAGE = "cryptofeed==3.0.1"
NEEDS = "3.13"


def peer_python(folder: Path) -> Path | None:
    """Return the Python of cryptofeed's venv, made on first use; None without Python 3.13."""
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        base = base_python()
        if base is None:
            return None
        subprocess.run([base, "-m", "venv", folder], check=True)
        install = ["-m", "pip", "install", "--quiet", PACKAGE, "aiokafka"]
        subprocess.run([python, *install], check=True)
        (folder / ".installed").touch()
    return python


def base_python() -> str | None:
    """Return the Python 3.13 named by PYTHON313, else the one on the path, if it runs."""
    named = os.environ.get("PYTHON313") or shutil.which(f"python{NEEDS}")
    if named is None:
        return None
    told = subprocess.run([named, "--version"], capture_output=True, text=True, check=False)
    return named if told.stdout.startswith(f"Python {NEEDS}.") else None

"""Prometheus' own checks: of metrics, configuration and rules."""

import shutil
import subprocess
from pathlib import Path


def check_metrics(text: bytes) -> None:
    """Fail with what promtool finds in metrics in the text format."""
    promtool = shutil.which("promtool")
    assert promtool, "make test installs promtool"
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def promtool(*arguments: str, folder: Path) -> str:
    """Run promtool in a folder, and return what it said; fail unless it found all right."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

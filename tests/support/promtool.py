"""Prometheus' own check of metrics."""

import shutil
import subprocess


def check_metrics(text: bytes) -> None:
    """Fail with what promtool finds in metrics in the text format."""
    promtool = shutil.which("promtool")
    assert promtool, "make test installs promtool"
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")

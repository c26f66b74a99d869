"""Images that stand in for the official ones, made from Debian's packages.

A test can thus run what people pull from an image registry where none can be reached.
"""

import subprocess
from pathlib import Path

from support.docker_engine import DockerEngine, cache_folder

PYTHON = "python:3.11-slim-bookworm"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")


def python_image(engine: DockerEngine) -> str:
    """Return the name of the base image of Python, made at first (some 40 s) and kept.

    As the official one it has `python3` and `venv` and runs as root; it has no entry point.
    """
    if not engine.docker("images", "--quiet", PYTHON):
        root = _debian(cache_folder() / "python-root")
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            engine.docker("import", "-", PYTHON, stdin=tar.stdout.fileno())
        assert tar.returncode == 0, f"tar of {root} ended with {tar.returncode}"
        subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
    return PYTHON


def _debian(root: Path) -> Path:
    """Return a folder with a minimal Debian, from the mirror that apt uses here."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
    mirrors = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    mirror = next(name for name in mirrors if "security" not in name)
    wanted = f"--include={','.join(_PACKAGES)}"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", wanted, "bookworm", str(root), mirror],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, f"debootstrap: {made.stdout.strip().splitlines()[-1:]}"
    return root

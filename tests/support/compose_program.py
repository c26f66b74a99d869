"""Compose v2, which is no package of Debian: the installed one, or one built of its Go module."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.docker_engine import cache_folder

VERSION = "2.40.3"
MODULE = "github.com/docker/compose/v2"
BUILD_S = 900


def compose_program() -> list[str]:
    """Return the command of Compose v2: the installed one, else one that is built here, once."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _version(command).startswith("2"):
            return command
    folder = cache_folder() / f"compose-{VERSION}"
    if not (folder / "docker-compose").exists():
        _build(folder)
    return [str(folder / "docker-compose")]


def _version(command: list[str]) -> str:
    asked = [*command, "version", "--short"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False)
    return ended.stdout.strip().removeprefix("v") if ended.returncode == 0 else ""


def _build(folder: Path) -> None:
    assert shutil.which("go"), (
        f"neither Compose v2 nor Go is installed, which builds it: install Docker's plugin of "
        f"Compose {VERSION}, or Go 1.24 or newer"
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="k2-compose-") as source:
        path = Path(source)
        (path / "go.mod").write_text(
            f"module k2/compose\n\ngo 1.24\n\nrequire {MODULE} v{VERSION}\n"
        )
        (path / "main.go").write_text(
            f'package main\n\nimport _ "{MODULE}/cmd/compose"\n\nfunc main() {{}}\n'
        )
        target = folder / "docker-compose.part"
        flags = ["-trimpath", "-ldflags", f"-s -w -X {MODULE}/internal.Version=v{VERSION}"]
        for command in (
            ["go", "mod", "tidy"],
            ["go", "build", *flags, "-o", str(target), f"{MODULE}/cmd"],
        ):
            ended = subprocess.run(
                command,
                cwd=path,
                env={**os.environ, "CGO_ENABLED": "0"},
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_S,
            )
            assert ended.returncode == 0, f"{command[:3]}: {ended.stderr.strip()[-400:]}"
        target.rename(folder / "docker-compose")

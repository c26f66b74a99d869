"""A Docker engine of our own, reached by a Unix socket alone.

Its images stay from one run to the next, outside the checkout; its containers and volumes do not.
Run as a program it starts an engine and ends it, and says in one line why that cannot be done.

Starting and ending an engine changes the network of the machine while others connect to 127.0.0.1:
nothing else is tested beside it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

from support.waiting import wait_until

START_S = 60
STOP_S = 60


class NoEngine(Exception):
    """The engine is not installed, or does not start here; the message says which."""


def cache_folder() -> Path:
    """Return where images and parts of images are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "k2" / "docker"


class DockerEngine:
    """An engine from entering to leaving; `docker` runs the client on it.

    `folder` holds its socket and its log. A path to a Unix socket has at most 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "d.sock"
        self._pid_file = folder / "d.pid"
        self._log = folder / "dockerd.log"
        self._state = folder / "exec"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which a client reaches this engine and no other."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("DOCKER_")}
        return kept | {"DOCKER_HOST": f"unix://{self._socket}"}

    def __enter__(self) -> Self:
        for program in ("dockerd", "docker"):
            if shutil.which(program) is None:
                raise NoEngine(f"{program} is not installed (Debian: docker.io)")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={cache_folder() / 'engine'}",
                    f"--exec-root={self._state}",
                    f"--pidfile={self._pid_file}",
                    f"--host=unix://{self._socket}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._answers, START_S)
        except AssertionError as error:
            self._stop()
            raise NoEngine(f"dockerd did not answer: {error}") from None
        except NoEngine:
            self._stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if containers := self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", "--volumes", *containers)
            if volumes := self.docker("volume", "ls", "--quiet").split():
                self.docker("volume", "rm", *volumes)
            self.docker("network", "prune", "--force")
        finally:
            self._stop()

    def docker(self, *arguments: str, stdin: int | None = None) -> str:
        """Return what the client prints; one that fails is an error with what it said."""
        ended = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"docker {' '.join(arguments)}: {ended.stderr.strip()}"
        return ended.stdout.strip()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise NoEngine(f"dockerd ended with {self._process.returncode}: {' '.join(last)}")
        client = ["docker", "version", "--format", "{{.Server.Version}}"]
        asked = subprocess.run(client, env=self.environment, capture_output=True, check=False)
        return asked.returncode == 0

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def main() -> int:
    """Start an engine and end it; return 1 and say why where that cannot be done."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="k2-docker-") as folder:
        try:
            with DockerEngine(Path(folder)) as engine:
                print(
                    f"Docker engine {engine.docker('version', '--format', '{{.Server.Version}}')}"
                )
        except NoEngine as error:
            print(f"No Docker engine here: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

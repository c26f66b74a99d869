"""A Docker engine of our own, reached by a Unix socket alone, or one that runs already.

Its images stay from one run to the next, outside the checkout; its containers and volumes do not.
Starting and ending an engine changes the network of the machine while others connect to 127.0.0.1:
nothing else is tested beside it. `TEST_DOCKER_HOST`, as `unix:///folder/d.sock`, names an engine
that is to be used and left as it is.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from support.waiting import wait_until

START_S = 60
STOP_S = 60
CLIENT_S = 120
GIVEN = "TEST_DOCKER_HOST"


class NoEngine(Exception):
    """The engine is not installed, or does not start here; the message says which."""


def cache_folder() -> Path:
    """Return where images and parts of images are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "k2" / "docker"


class DockerEngine:
    """A running engine, on which `docker` runs the client."""

    def __init__(self, host: str) -> None:
        # Without BuildKit, which is no part of the client everywhere.
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("DOCKER_")},
            "DOCKER_HOST": host,
            "DOCKER_BUILDKIT": "0",
        }

    def docker(self, *arguments: str, stdin: int | None = None, seconds: float = CLIENT_S) -> str:
        """Return what the client prints; one that fails is an error with what it said."""
        ended = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        said = " ".join([*ended.stdout.splitlines()[-3:], ended.stderr.strip()])
        assert ended.returncode == 0, f"docker {' '.join(arguments)}: {said}"
        return ended.stdout.strip()

    def build(self, context: str, image: str, *options: str, seconds: float) -> None:
        """Make an image of a folder with a Dockerfile."""
        self.docker("build", "--quiet", f"--tag={image}", *options, context, seconds=seconds)


@contextmanager
def open_engine(folder: Path) -> Iterator[DockerEngine]:
    """Use the engine that is given, or start one and end it.

    Args:
        folder: for the socket and the log of one that is started.
    Raises:
        NoEngine: it does not start here.
    """
    host = os.environ.get(GIVEN)
    if host:
        yield DockerEngine(host)
    else:
        with OwnEngine(folder) as engine:
            yield engine


class OwnEngine(DockerEngine):
    """An engine from entering to leaving.

    `folder` holds its socket and its log. A path to a Unix socket has at most 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"unix://{folder / 'd.sock'}")
        self._socket = folder / "d.sock"
        self._pid_file = folder / "d.pid"
        self._log = folder / "dockerd.log"
        self._state = folder / "exec"
        self._process: subprocess.Popen[bytes] | None = None

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
            self.docker("image", "prune", "--force")
        finally:
            self._stop()

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

"""`docker-compose.yml` as it is, on images that stand in for the official ones."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from support.docker_engine import DockerEngine, cache_folder
from support.paths import ROOT
from support.stand_in import stand_in
from support.waiting import wait_until

from k2lib.ops.processes import free_port

VERSION = "2.40.3"
MODULE = "github.com/docker/compose/v2"
BUILD_S = 1200
# What the file publishes, and the variable that sets where.
PORTS = {
    "kafka": "K2_KAFKA_PORT",
    "registry": "K2_REGISTRY_PORT",
    "s3": "S3_PORT",
    "iceberg": "ICEBERG_PORT",
    "api": "K2_API_PORT",
    "lab": "LAB_PORT",
    "exchange": "EXCHANGE_PORT",
    "prometheus": "PROMETHEUS_PORT",
    "alertmanager": "ALERTMANAGER_PORT",
}
# There is nothing to make it of.
LEFT_OUT = "grafana"
EXCHANGE = {
    "K2_BINANCE_WS_URLS": "ws://exchange:9443",
    "K2_BINANCE_REST_URLS": "http://exchange:9443",
}
KEY = "only-on-this-machine"
STARTED_S = 300
Answer = dict[str, Any]


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


class ComposeStack:
    """The services of the file, as one project on an engine, with free ports on 127.0.0.1."""

    def __init__(self, engine: DockerEngine, folder: Path, *, project: str = "k2-test") -> None:
        self.engine = engine
        self.project = project
        self.ports = {name: free_port() for name in PORTS}
        self._override = folder / "images.yml"
        self._environment = {
            **engine.environment,
            **{PORTS[name]: str(port) for name, port in self.ports.items()},
            **EXCHANGE,
        }
        self._program = compose_program()
        images = {name: {"image": stand_in(_image(name))} for name in self.services}
        self._override.write_text(yaml.safe_dump({"services": images}))

    @cached_property
    def services(self) -> list[str]:
        """All services of the file that can be run here."""
        file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        return sorted(file["services"].keys() - {LEFT_OUT})

    def compose(self, *arguments: str, seconds: float = STARTED_S) -> str:
        """Return what Compose prints; a command that fails is an error with what it said."""
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(self._override)]
        ended = subprocess.run(
            [*self._program, "-p", self.project, *files, "--profile", "*", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert ended.returncode == 0, (
            f"compose {' '.join(arguments)}: {ended.stderr.strip()[-2000:]}"
        )
        return ended.stdout

    def up(self) -> None:
        """Start all services, and wait until each is healthy."""
        self.compose("up", "--detach", "--no-build", "--pull=never", *self.services)
        wait_until(lambda: not self.unhealthy(), STARTED_S)

    def unhealthy(self) -> dict[str, str]:
        """Return the services that are not healthy, or have not ended well, and their states."""
        states = {one["Service"]: one for one in self._listed()}
        texts = {name: _state(states.get(name)) for name in self.services}
        return {name: text for name, text in texts.items() if text not in ("healthy", "done")}

    def kill(self, service: str) -> None:
        """End the main process of a service as `kill -9` does, so that its engine restarts it."""
        container = self.compose("ps", "--quiet", service).strip()
        state = json.loads(self.engine.docker("inspect", container))[0]["State"]
        os.kill(state["Pid"], signal.SIGKILL)
        started = state["StartedAt"]

        def is_another() -> bool:
            now = json.loads(self.engine.docker("inspect", container))[0]["State"]
            return bool(now["Running"]) and now["StartedAt"] != started

        wait_until(is_another, STARTED_S)

    def get(self, path: str, *, service: str = "api", seconds: float = 60) -> Answer:
        """Return the JSON of a path of a service that is published."""
        url = f"http://127.0.0.1:{self.ports[service]}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return dict(json.load(answer))

    def try_get(self, path: str, *, service: str = "api") -> Answer | None:
        """Return what `get` returns; None where the service does not answer so."""
        try:
            return self.get(path, service=service)
        except (OSError, urllib.error.HTTPError):
            return None

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("down", "--volumes", "--timeout=20")

    def left(self) -> Mapping[str, str]:
        """Return what the engine still has of the project."""
        label = f"label=com.docker.compose.project={self.project}"
        kinds = {
            "containers": ("ps", "--all"),
            "volumes": ("volume", "ls"),
            "networks": ("network", "ls"),
        }
        found = {
            kind: self.engine.docker(*command, "--quiet", f"--filter={label}")
            for kind, command in kinds.items()
        }
        return {kind: ids for kind, ids in found.items() if ids}

    def _listed(self) -> list[Answer]:
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return [json.loads(line) for line in lines if line]


def _image(service: str) -> str:
    """Return the stand-in of a service: its own, or that of what it is a second program of."""
    shared = {"bucket": "s3", "stream": "k2", "sink": "k2", "api": "k2", "exchange": "k2"}
    return shared.get(service, service)


def _state(found: Answer | None) -> str:
    if found is None:
        return "missing"
    if found["State"] == "exited" and found["ExitCode"] == 0:
        return "done"
    return str(found["Health"] or found["State"])


def seconds_since(began: float) -> float:
    """Return the seconds since a time of `time.monotonic`, to a tenth."""
    return round(time.monotonic() - began, 1)

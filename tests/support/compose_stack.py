"""`docker-compose.yml` as it is, on images that stand in for the official ones."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from support.compose_program import compose_program
from support.docker_engine import DockerEngine
from support.paths import ROOT
from support.stand_in import stand_in
from support.waiting import wait_until

from k2lib.ops.processes import free_port

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

    @cached_property
    def containers(self) -> dict[str, str]:
        """The containers of the services; one that is started again stays the same."""
        lines = self.compose("ps", "--all", "--no-trunc", "--format", "json").splitlines()
        listed = [json.loads(line) for line in lines if line]
        return {one["Service"]: one["ID"] for one in listed}

    def states(self) -> dict[str, Answer]:
        """Return what the engine says of each service's container."""
        found = json.loads(self.engine.docker("inspect", *self.containers.values()))
        return {name: one["State"] for name, one in zip(self.containers, found, strict=True)}

    def unhealthy(self) -> dict[str, str]:
        """Return the services that are not healthy, or have not ended well, and their states."""
        texts = {name: _health(state) for name, state in self.states().items()}
        return {name: text for name, text in texts.items() if text not in ("healthy", "done")}

    def kill(self, service: str) -> None:
        """End the main process of a service as `kill -9` does; the engine starts it again."""
        before = self.states()[service]
        os.kill(before["Pid"], signal.SIGKILL)

        def is_another() -> bool:
            now = self.states()[service]
            return bool(now["Running"]) and now["StartedAt"] != before["StartedAt"]

        wait_until(is_another, STARTED_S)

    def memory(self) -> dict[str, str]:
        """Return the memory that each running service takes."""
        form = "{{.ID}} {{.MemUsage}}"
        lines = self.engine.docker("stats", "--no-stream", "--no-trunc", f"--format={form}")
        used = {one.split()[0]: one.split()[1] for one in lines.splitlines()}
        return {name: used[id_] for name, id_ in self.containers.items() if id_ in used}

    def run(self, service: str, *command: str, seconds: float = STARTED_S) -> str:
        """Return what a command prints that is run beside a service's process."""
        return self.compose("exec", "--no-TTY", service, *command, seconds=seconds)

    def get(self, path: str, *, service: str = "api", seconds: float = 60) -> Any:
        """Return the JSON of a path of a service that is published."""
        url = f"http://127.0.0.1:{self.ports[service]}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)

    def try_get(self, path: str, *, service: str = "api") -> Any:
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


def _image(service: str) -> str:
    """Return the stand-in of a service: its own, or that of what it is a second program of."""
    shared = {"bucket": "s3", "stream": "k2", "sink": "k2", "api": "k2", "exchange": "k2"}
    return shared.get(service, service)


def _health(state: Answer) -> str:
    if state["Status"] == "exited" and state["ExitCode"] == 0:
        return "done"
    return str(state["Health"]["Status"] if "Health" in state else state["Status"])

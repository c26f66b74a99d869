"""A real Prometheus and a real Alertmanager on loopback, which look often and wait for nothing."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from support.waiting import wait_until
from support.webhook_receiver import Receiver

from k2lib.ops.prometheus.config import write_config, write_targets

EVERY = "200ms"
# Thresholds that a fault passes within a second or two.
LOW = {"sink_behind": "100000|50", "freshness_slow": "5|2", "api_slow": "2.5|0.4"}


@dataclass(frozen=True)
class Watching:
    """Prometheus, Alertmanager, and what the receiver of alerts took."""

    folder: Path
    url: str
    receiver: Receiver

    def targets(self, targets: Mapping[str, str]) -> None:
        """Scrape these from now on, and wait until each was."""
        write_targets(self.folder / "targets", targets)
        wait_until(lambda: self.scraped() == set(targets))

    def scraped(self) -> set[str]:
        """Return the services that answered the last scrape."""
        return {one["metric"]["service"] for one in self.query("up == 1")}

    def query(self, query: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        answer = httpx2.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=60)
        return list(answer.raise_for_status().json()["data"]["result"])

    def statuses(self, name: str) -> list[str]:
        """Return what the receiver was told of an alert, in order."""
        alerts = [alert for body in [*self.receiver.accepted] for alert in body["alerts"]]
        return [one["status"] for one in alerts if one["labels"]["alertname"] == name]

    def wait_for(self, *names: str, status: str) -> None:
        """Wait until the receiver was told last that these alerts are so."""
        for name in names:
            wait_until(lambda name=name: self.statuses(name)[-1:] == [status], 150)


@contextmanager
def watching(folder: Path) -> Iterator[Watching]:
    """Start Alertmanager, then Prometheus; end both."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        manager, prometheus = _free_port(), _free_port()
        at = f"127.0.0.1:{manager}"
        write_config(folder, targets={}, alertmanager=at, webhook_url=receiver.url)
        _hurry(folder)
        stack.enter_context(_process(folder, "prometheus-alertmanager", _manager(manager)))
        stack.enter_context(_process(folder, "prometheus", _prometheus(prometheus)))
        wait_until(lambda: _ready(manager) and _ready(prometheus))
        yield Watching(folder, f"http://127.0.0.1:{prometheus}", receiver)


def _hurry(folder: Path) -> None:
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], EVERY)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    manager = yaml.safe_load((folder / "alertmanager.yml").read_text())
    manager["route"] |= {"group_wait": "50ms", "group_interval": EVERY}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(manager))
    for name in ("alerts.yml", "recording.yml"):
        rules = yaml.safe_load((folder / name).read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            old, _, new = LOW.get(rule.get("alert"), "").partition("|")
            expr = re.sub(rf" > {old}$", f" > {new}", rule["expr"]) if old else rule["expr"]
            rule["expr"] = expr.replace("[1m]", "[3s]")
            rule.pop("for", None)
        (folder / name).write_text(yaml.safe_dump(rules))


def _manager(port: int) -> list[str]:
    return [
        "--config.file=alertmanager.yml",
        "--storage.path=alertmanager",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]


def _prometheus(port: int) -> list[str]:
    return [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--query.lookback-delta=5s",
    ]


@contextmanager
def _process(folder: Path, name: str, options: list[str]) -> Iterator[None]:
    program = shutil.which(name)
    assert program, f"{name} is missing: make debian"
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/-/ready", timeout=60).status_code == 200
    except httpx2.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])

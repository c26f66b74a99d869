"""Where a reader finds the log: a cluster, or the embedded broker of a process that lives."""

import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from k2lib.errors import RecordError, TransientError
from k2lib.kafka.cluster import Cluster

CONNECT_S: Final = 0.25
KAFKA_PORT: Final = 9092


@dataclass(frozen=True)
class KafkaSource:
    """A cluster, and the Avro texts of its schema ids."""

    cluster: Cluster
    schema_text: Callable[[int], str] = field(compare=False)


FindLog = Callable[[], KafkaSource]


def no_log() -> KafkaSource:
    """Say that there is none.

    Raises:
        TransientError: always.
    """
    raise TransientError("no Kafka was given")


def embedded_path(home: Path) -> Path:
    """Return the file in which the embedded broker of a home tells readers where it is."""
    return home / "run" / "embedded.json"


def attach(home: Path) -> KafkaSource:
    """Find the embedded broker of a home's writer, in whatever process it lives.

    Raises:
        TransientError: no process writes the home.
    """
    told = _told(home)
    if told is None or not _lives(told["pid"]) or not answers(told["bootstrap"]):
        raise TransientError("no process writes this home: the lake is all there is")
    cluster = Cluster(told["bootstrap"], embedded_log=told["log"])
    return KafkaSource(cluster, _texts_told(home))


def answers(bootstrap: str, *, timeout_s: float = CONNECT_S) -> bool:
    """Say whether anything listens at one of the addresses of a cluster."""
    return any(_listens(address, timeout_s) for address in bootstrap.split(","))


def _told(home: Path) -> Mapping[str, Any] | None:
    try:
        told: Mapping[str, Any] = json.loads(embedded_path(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return told


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _listens(address: str, timeout_s: float) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        host, port = address, str(KAFKA_PORT)
    try:
        with socket.create_connection((host.strip("[] "), int(port)), timeout=timeout_s):
            return True
    except OSError:
        return False


def _texts_told(home: Path) -> Callable[[int], str]:
    texts: dict[str, str] = {}

    def text(schema_id: int) -> str:
        if str(schema_id) not in texts:
            texts.update((_told(home) or {}).get("schemas", {}))
        if str(schema_id) not in texts:
            raise RecordError(f"no schema has the id {schema_id}")
        return texts[str(schema_id)]

    return text

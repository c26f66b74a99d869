"""The embedded broker: librdkafka's mock cluster in the process of a home's one writer.

`run/embedded.json` in the home describes it to readers in other processes, which `attach` to it.
"""

import json
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

from k2lib.errors import ConfigError, OwnerError, RecordError, TransientError
from k2lib.kafka.cluster import EMBEDDED, TIMEOUT_S, Cluster, KafkaSource, is_reachable
from k2lib.kafka.producer import OPTIONS
from k2lib.kafka.registry import SchemaRegistry, unknown_schema
from k2lib.locks import Lock, holder_text, lock_holder, try_lock, writer_lock
from k2lib.reasons import file_errors, os_reason, with_remedy
from k2lib.schema.codec import SchemaId, SchemaText

WINDOW_BYTES: Final = 1_500_000


class EmbeddedBroker:
    """Owns a home: its lock, the broker, and the file that describes the broker to readers.

    The broker keeps about 5 MB a partition and drops the oldest silently: the pipeline waits for
    the sinks after every `WINDOW_BYTES`, so that at most two windows are unread.
    """

    window_bytes = WINDOW_BYTES

    def __init__(self, home: Path) -> None:
        """Take the home and start the broker.

        Raises:
            OwnerError: the home has an owner: this process, or another, named by its pid.
            ConfigError: the home cannot be written.
        """
        self._home = home
        self._lock = _own(home)
        self._path = embedded_path(home)
        client = Producer({"test.mock.num.brokers": 1, "log_level": 2} | OPTIONS)
        brokers = client.list_topics(timeout=TIMEOUT_S).brokers.values()
        self.client: Producer | None = client
        address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self.cluster = Cluster(address, embedded_log=f"{EMBEDDED}{uuid.uuid4()}")
        self._writing = threading.Lock()
        self.registry = SchemaRegistry(
            f"mock://{uuid.uuid4()}", on_registered=self._write_description
        )
        try:
            self._write_description()
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """End the broker and free the home; other clients must be closed before."""
        if self.client is not None:
            self.client.purge()
            self.client.close()
            self.client = None
        self.registry.close()
        self._path.unlink(missing_ok=True)
        self._lock.close()

    def _write_description(self) -> None:
        """Write pid, address, and today's schema ids and texts, as a whole file."""
        with self._writing:
            description = {
                "pid": os.getpid(),
                "bootstrap": self.cluster.bootstrap,
                "log": self.cluster.embedded_log,
                "schemas": {str(one): text for one, text in self.registry.texts().items()},
            }
            new = self._path.with_suffix(".new")
            with file_errors(f"the home {self._home}"):
                new.write_text(json.dumps(description), encoding="utf-8")
                new.replace(self._path)


def embedded_path(home: Path) -> Path:
    """Return the file that describes a home's embedded broker to readers."""
    return home / "run" / "embedded.json"


def attach(home: Path) -> KafkaSource:
    """Find the embedded broker of a home's writer, in whatever process it runs.

    Raises:
        TransientError: no process writes the home.
    """
    broker = _description(home)
    if broker is None or not _is_alive(broker["pid"]) or not is_reachable(broker["bootstrap"]):
        raise TransientError("no process writes this home: the lake is all there is")
    cluster = Cluster(broker["bootstrap"], embedded_log=broker["log"])
    return KafkaSource(cluster, _schema_texts(home))


def _own(home: Path) -> Lock:
    path = writer_lock(home)
    lock = try_lock(path)
    if lock is None:
        raise OwnerError(f"the home {home} is written by {holder_text(path)}: {_remedy(path)}")
    return lock


def _remedy(path: Path) -> str:
    if lock_holder(path) == os.getpid():
        return "use the K2 that writes it, close that one first, or take another home"
    return "write there, wait for it to end, or take another home with K2_HOME"


def _description(home: Path) -> Mapping[str, Any] | None:
    try:
        text = embedded_path(home).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise TransientError(f"the embedded broker's {with_remedy(os_reason(exc))}") from exc
    try:
        description: Mapping[str, Any] = json.loads(text)
        return {name: description[name] for name in ("pid", "bootstrap", "log", "schemas")}
    except (LookupError, TypeError, ValueError) as exc:
        path = embedded_path(home)
        raise TransientError(f"{path} is damaged: end the process that writes the home") from exc


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _schema_texts(home: Path) -> SchemaText:
    texts: dict[str, str] = {}

    def text(schema_id: SchemaId) -> str:
        if str(schema_id) not in texts:
            texts.update((_description(home) or {}).get("schemas", {}))
        if str(schema_id) not in texts:
            raise RecordError(unknown_schema(schema_id))
        return texts[str(schema_id)]

    return text

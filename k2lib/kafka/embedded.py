"""The embedded broker: librdkafka's mock cluster in the process of a home's one writer."""

import json
import os
import threading
import uuid
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from k2lib.errors import OwnerError
from k2lib.kafka.cluster import TIMEOUT_S, Cluster
from k2lib.kafka.producer import OPTIONS
from k2lib.kafka.registry import Registry
from k2lib.locks import Lock, lock_holder, try_lock, writer_lock

WINDOW_BYTES: Final = 1_500_000


class EmbeddedBroker:
    """Owns a home: its lock, the broker, and `run/embedded.json`, which tells readers of it.

    The broker keeps about 5 MB a partition and forgets the oldest silently: who produces
    waits for the sink after every `WINDOW_BYTES`, so that at most two windows are unread.
    """

    window_bytes = WINDOW_BYTES

    def __init__(self, home: Path) -> None:
        """Take the home and start the broker.

        Raises:
            OwnerError: another process owns the home; the message names its pid.
        """
        self._lock = _own(home)
        self._told = home / "run" / "embedded.json"
        client = Producer({"test.mock.num.brokers": 1, "log_level": 2} | OPTIONS)
        brokers = client.list_topics(timeout=TIMEOUT_S).brokers.values()
        self.client: Producer | None = client
        address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self.cluster = Cluster(address, embedded_log=f"embedded-{uuid.uuid4()}")
        self._telling = threading.Lock()
        self.registry = Registry(f"mock://{uuid.uuid4()}", on_registered=self.tell)
        self.tell()

    def tell(self) -> None:
        """Write pid, address, and the schema ids and texts of now, for readers."""
        with self._telling:
            told = {
                "pid": os.getpid(),
                "bootstrap": self.cluster.bootstrap,
                "log": self.cluster.embedded_log,
                "schemas": self.registry.known(),
            }
            written = self._told.with_suffix(".new")
            written.write_text(json.dumps(told), encoding="utf-8")
            written.replace(self._told)

    def close(self) -> None:
        """End the broker and free the home; other clients must be closed before."""
        if self.client is not None:
            self.client.purge()
            self.client.close()
            self.client = None
        self.registry.close()
        self._told.unlink(missing_ok=True)
        self._lock.close()


def _own(home: Path) -> Lock:
    path = writer_lock(home)
    lock = try_lock(path)
    if lock is None:
        raise OwnerError(
            f"the home {home} is written by process {lock_holder(path)}: write there, wait for "
            "it to end, or take another home with K2_HOME"
        )
    return lock

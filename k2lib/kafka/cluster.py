"""A Kafka cluster for its clients: address and options, topics, and the log ids of topics.

Offsets mean something only in one log: a topic that is deleted and created again is another log.
"""

import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection

# Documented names of confluent_kafka.admin, which its stubs do not re-export.
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined]

from k2lib.errors import ConfigError, TransientError
from k2lib.reasons import START_IT, with_remedy
from k2lib.schema.codec import SchemaText

TIMEOUT_S: Final = 10.0
CONNECT_S: Final = 0.25
REACH_S: Final = 2.0
NO_ANSWER: Final = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)
# A protocol may stand before it, as librdkafka allows.
ADDRESS: Final = re.compile(r"(?:\w+://)?(?:\[[\w:.%]+\]|[^\s:/@\[\]]+):(?P<port>\d{1,5})")
Client = TypeVar("Client")

# The log ids of embedded brokers begin with this; such a log dies with its process.
EMBEDDED: Final = "embedded-"


@dataclass(frozen=True)
class Cluster:
    """Address and client options.

    Attributes:
        embedded_log: the log of an embedded broker.
        timeout_s: how long it may take to answer.
    """

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    embedded_log: str | None = None
    timeout_s: float = TIMEOUT_S

    def client(self, **options: Any) -> dict[str, Any]:
        """Return a client's configuration: the cluster's options, then the given ones."""
        return {
            "bootstrap.servers": self.bootstrap,
            "log_level": 2,
            **self.options,
            **{name.replace("_", "."): value for name, value in options.items()},
        }

    def admin(self) -> AdminClient:
        """Return a new admin client.

        Raises:
            ConfigError: librdkafka does not know one of the options.
        """
        return self.open(AdminClient)

    def open(self, kind: Callable[[dict[str, Any]], Client], **options: Any) -> Client:
        """Return a new client of a kind; `options` as those of `client`.

        Raises:
            ConfigError: librdkafka does not know one of the options.
        """
        try:
            return kind(self.client(**options))
        except KafkaException as exc:
            raise ConfigError(
                f"options for Kafka at {self.bootstrap}: {exc.args[0].str()}: "
                "correct the file of K2_KAFKA_CONFIG, or what the settings of Kafka say"
            ) from exc

    def check_answers(self, admin: AdminClient) -> None:
        """Refuse a cluster that does not answer.

        Raises:
            TransientError: names its address.
        """
        if not is_reachable(self.bootstrap, timeout_s=min(self.timeout_s, REACH_S)):
            raise self.error("nothing listens there")
        self.metadata(admin)

    def metadata(
        self, client: AdminClient | Consumer, *, timeout_s: float | None = None
    ) -> ClusterMetadata:
        """Return the cluster id, and all topics with their partitions.

        Raises:
            TransientError: the cluster does not answer.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            return client.list_topics(timeout=timeout_s)
        except KafkaException as exc:
            error = exc.args[0]
            in_time = f"no answer within {timeout_s:g} s"
            raise self.error(in_time if error.code() in NO_ANSWER else error.str()) from exc

    def error(self, reason: str) -> TransientError:
        """Return the error of a cluster that does not answer."""
        return TransientError(f"Kafka at {self.bootstrap} does not answer: {reason}: {START_IT}")


def check_bootstrap(bootstrap: str, *, setting: str) -> None:
    """Refuse what is no address of a Kafka, or several joined by commas.

    Raises:
        ConfigError: names it and its setting.
    """
    for one in bootstrap.split(","):
        found = ADDRESS.fullmatch(one.strip())
        if found is None or not 0 < int(found["port"]) < 65536:
            shown = "…" if "@" in bootstrap else bootstrap
            raise ConfigError(f"{setting}={shown}: give host:port, several joined by commas")


@dataclass(frozen=True)
class KafkaSource:
    """What a reader needs: a cluster, and the Avro texts of its schema ids and GUIDs."""

    cluster: Cluster
    schema_text: SchemaText = field(compare=False)


# Finds the cluster to read; raises TransientError, which says why, where there is none.
FindLog = Callable[[], KafkaSource]


def no_log() -> KafkaSource:
    """Find no cluster.

    Raises:
        TransientError: always.
    """
    raise TransientError("no Kafka was given")


def is_reachable(bootstrap: str, *, timeout_s: float = CONNECT_S) -> bool:
    """Say whether anything listens at one of the addresses of a cluster."""
    return any(_listens(address, timeout_s) for address in bootstrap.split(","))


def _listens(address: str, timeout_s: float) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[] "), int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def log_ids(cluster: Cluster, admin: AdminClient, topics: Iterable[str]) -> dict[str, str]:
    """Return the log id of each topic: `<cluster id>/<topic id>`, or that of the embedded broker.

    Raises:
        TransientError: the cluster does not answer, or a topic is gone.
    """
    names = list(topics)
    if cluster.embedded_log is not None or not names:
        return dict.fromkeys(names, cluster.embedded_log or "")
    cluster_id = cluster.metadata(admin).cluster_id
    try:
        described = admin.describe_topics(TopicCollection(names), request_timeout=cluster.timeout_s)
        return {
            name: f"{cluster_id}/{topic.result().topic_id}" for name, topic in described.items()
        }
    except KafkaException as exc:
        raise cluster.error(f"its topics: {exc.args[0].str()}") from exc


def read_properties(path: Path | None, *, setting: str = "K2_KAFKA_CONFIG") -> dict[str, str]:
    """Read a file of properties: `name=value` lines, `#` comments.

    Args:
        setting: that names the file.
    Raises:
        ConfigError: it cannot be read, or a line is neither.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        reason = with_remedy(exc.strerror or str(exc))
        raise ConfigError(f"{setting}={path}: {reason}") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}={path}: is not UTF-8 text") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    stated = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    for number, line in stated:
        if "=" not in line:
            # The line itself may hold a password.
            raise ConfigError(f"{setting}={path}: line {number} is not name=value: correct it")
    return {name.strip(): value.strip() for name, value in (ln.split("=", 1) for _, ln in stated)}

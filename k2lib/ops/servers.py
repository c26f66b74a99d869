"""Apache Kafka and the Apicurio registry: configuration, start and health of each."""

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from k2lib.errors import ConfigError
from k2lib.ops.jars import JavaPrograms
from k2lib.ops.processes import HOST, ChildProcess, alive, free_port, spawn, tail, wait_for
from k2lib.resilience.time_limit import TimeLimit

READY_WITHIN_S = 90.0
KAFKA_TIMEOUT_S = 1.0
REGISTRY_TIMEOUT_S = 10.0
NO_ANSWER = (OSError, http.client.HTTPException, ValueError)
COMPATIBILITY = "BACKWARD"
REGISTRY_PATH = "/apis/ccompat/v7"
REGISTRY_JAR = "apicurio-registry-app-*-runner.jar"
JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
)

# One node, small: without the dedupe buffer's size the cleaner alone asks for 128 MB of heap, and
# with the default session timeout a killed broker waits 12 s until it may come back. No topic loses
# records by age unless it says so itself: the registry keeps its schemas in one that does not.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{client_port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs=data
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
log.segment.bytes=67108864
log.retention.bytes=536870912
log.retention.ms=-1
log.retention.check.interval.ms=60000
metadata.log.segment.bytes=16777216
metadata.max.retention.bytes=67108864
"""


class LocalServer(Protocol):
    """A program of a home: it keeps its data, its log and its settings in `folder`."""

    @property
    def key(self) -> str:
        """Its name in the home's service registry."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def folder(self) -> Path:
        """Its folder in the home."""

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""

    @property
    def address(self) -> str:
        """The address for clients."""

    def start(self, programs: JavaPrograms) -> ChildProcess:
        """Start it; it is not yet ready."""

    def answers(self) -> bool:
        """Return whether it answers a request that only a healthy server answers."""

    def ready(self) -> bool:
        """Finish its start-up; return False until that succeeds."""


@dataclass(frozen=True)
class KafkaServer:
    """An Apache Kafka broker that is its own controller.

    Attributes:
        client_port: at which clients reach it, where a proxy stands before it.
    """

    folder: Path
    port: int
    client_port: int | None = None
    key: ClassVar[str] = "kafka"
    name: ClassVar[str] = "Kafka broker"
    port_setting: ClassVar[str] = "K2_KAFKA_PORT"

    @property
    def address(self) -> str:
        """The value of `bootstrap.servers` for clients."""
        return f"{HOST}:{self.port}"

    def start(self, programs: JavaPrograms) -> ChildProcess:
        """Start the broker, formatting its folder the first time; it is not yet ready."""
        text = SERVER_PROPERTIES.format(
            host=HOST,
            port=self.port,
            client_port=self.client_port or self.port,
            controller_port=free_port(),
        )
        java = [programs.java, "-Xmx256m", *JVM, *_own_tmp(self.folder)]
        java += ["-Dlog4j2.level=WARN", "-cp", f"{programs.kafka}/*"]
        (self.folder / "server.properties").write_text(text)
        if not _meta(self.folder):
            _format(java, self.folder)
        return spawn([*java, "kafka.Kafka", "server.properties"], folder=self.folder)

    def answers(self) -> bool:
        """Return whether a broker answers, and is the one of this folder."""
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        try:
            cluster = client.list_topics(timeout=KAFKA_TIMEOUT_S)
        except KafkaException:
            return False
        return f"cluster.id={cluster.cluster_id}\n" in _meta(self.folder)

    def ready(self) -> bool:
        """Return whether it answers; it needs nothing else."""
        return self.answers()


@dataclass(frozen=True)
class RegistryServer:
    """An Apicurio schema registry that keeps its schemas in Kafka."""

    folder: Path
    port: int
    bootstrap: str
    key: ClassVar[str] = "registry"
    name: ClassVar[str] = "schema registry"
    port_setting: ClassVar[str] = "K2_REGISTRY_PORT"

    @property
    def address(self) -> str:
        """The URL for Confluent-style clients."""
        return f"http://{HOST}:{self.port}{REGISTRY_PATH}"

    def start(self, programs: JavaPrograms) -> ChildProcess:
        """Start the registry; it is not yet ready."""
        settings = {
            "quarkus.http.host": HOST,
            "quarkus.http.port": self.port,
            "quarkus.log.console.level": "WARN",
            "apicurio.storage.kind": "kafkasql",
            "apicurio.kafkasql.bootstrap.servers": self.bootstrap,
            # The default makes a start take half a minute.
            "apicurio.kafkasql.consumer.poll.timeout": 100,
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        java = [programs.java, "-Xmx384m", *JVM, *_own_tmp(self.folder), *options]
        (jar,) = programs.registry.glob(REGISTRY_JAR)
        return spawn([*java, "-jar", str(jar)], folder=self.folder)

    def answers(self) -> bool:
        """Return whether the registry answers, and its compatibility is BACKWARD."""
        return self._compatibility("GET") == COMPATIBILITY

    def ready(self) -> bool:
        """Set the compatibility, which comes back by way of Kafka after all older schemas."""
        body = json.dumps({"compatibility": COMPATIBILITY})
        return self._compatibility("PUT", body) == COMPATIBILITY and self.answers()

    def _compatibility(self, method: str, body: str | None = None) -> str | None:
        with contextlib.suppress(*NO_ANSWER):
            answer = TimeLimit(REGISTRY_TIMEOUT_S).call(self._ask, method, body)
            return answer.get("compatibilityLevel")
        return None

    def _ask(self, method: str, body: str | None) -> dict[str, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=REGISTRY_TIMEOUT_S)
        headers = {"Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, f"{REGISTRY_PATH}/config", body, headers)
            answer: dict[str, str] = json.loads(connection.getresponse().read())
            return answer


def http_answer(port: int, path: str, *, within_s: float) -> tuple[int, bytes]:
    """Return status and body of a server's whole answer to a GET; status 0 without one."""

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, port, timeout=within_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    with contextlib.suppress(*NO_ANSWER):
        return TimeLimit(within_s).call(ask)
    return 0, b""


def await_ready(server: LocalServer, process: ChildProcess) -> None:
    """Wait until a started server answers.

    Raises:
        ConfigError: it ended, or it does not answer; the message has the end of its log.
    """
    answered = wait_for(lambda: server.ready() or not alive(process), READY_WITHIN_S)
    log = f"the end of {server.folder / 'log'}:\n{tail(server.folder / 'log')}"
    if not alive(process):
        raise ConfigError(f"{server.name} ended while it started; {log}")
    if not answered:
        raise ConfigError(
            f"{server.name} (pid {process.pid}) does not answer at {server.address} within "
            f"{READY_WITHIN_S:.0f} s: try `k2 down`, then `k2 up`; {log}"
        )


def _format(java: list[str], folder: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = ["kafka.tools.StorageTool", "format", "-c", "server.properties"]
    command = [*java, *tool, f"--cluster-id={cluster_id}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{folder / 'data'} cannot be formatted: {done.stderr or done.stdout}")


def _meta(folder: Path) -> str:
    file = folder / "data" / "meta.properties"
    return file.read_text() if file.exists() else ""


def _own_tmp(folder: Path) -> list[str]:
    # What a killed JVM leaves there (unpacked native libraries) is cleared at the next start.
    tmp = folder / "tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    return [f"-Djava.io.tmpdir={tmp}"]

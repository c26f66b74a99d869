"""Apache Kafka as it runs beyond one machine: with TLS and SASL, or as three brokers."""

import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from support.paths import CACHE
from support.waiting import wait_until

from k2lib.ops.jars import JavaPrograms, fetch_servers
from k2lib.ops.processes import ChildProcess, free_port, spawn, stop
from k2lib.ops.servers import JVM, SERVER_PROPERTIES, RegistryServer

USER, PASSWORD = "k2", "kafka-secret-77"
LOGIN = "org.apache.kafka.common.security"
SECURE = """
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
SECURE://127.0.0.1:{secure},MUTUAL://127.0.0.1:{mutual}
advertised.listeners=BROKER://127.0.0.1:{port},SECURE://127.0.0.1:{secure},\
MUTUAL://127.0.0.1:{mutual}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,MUTUAL:SSL
listener.name.secure.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.secure.plain.sasl.jaas.config={login}.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
"""


@dataclass
class Broker:
    """One process of Kafka in a folder of its own.

    Attributes:
        properties: lines of its server.properties, of which the last of a name counts.
    """

    folder: Path
    properties: str
    cluster_id: str
    format_options: tuple[str, ...] = ()
    process: ChildProcess | None = field(default=None, init=False)

    def start(self, programs: JavaPrograms) -> None:
        """Start it, formatted the first time; it is not yet ready."""
        (self.folder / "server.properties").write_text(self.properties)
        java = [programs.java, "-Xmx256m", *JVM, "-Dlog4j2.level=WARN", "-cp"]
        java += [f"{programs.kafka}/*"]
        if not (self.folder / "data").exists():
            tool = ["kafka.tools.StorageTool", "format", "-c", "server.properties"]
            options = ["-t", self.cluster_id, *self.format_options]
            subprocess.run([*java, *tool, *options], cwd=self.folder, check=True, timeout=120)
        self.process = spawn([*java, "kafka.Kafka", "server.properties"], folder=self.folder)

    def end(self, *, grace_s: float = 0.0) -> None:
        """Kill it, at once without a time of grace."""
        if self.process is not None:
            stop(self.process, grace_s=grace_s)
            self.process = None


def _text(node: int, ports: Mapping[str, int], voters: str) -> str:
    text = SERVER_PROPERTIES.format(
        host="127.0.0.1",
        port=ports["port"],
        client_port=ports["port"],
        controller_port=ports["controller"],
    )
    return f"{text}\nnode.id={node}\ncontroller.quorum.voters={voters}\n"


def _answers(bootstrap: str, *, brokers: int) -> bool:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        return len(client.list_topics(timeout=2).brokers) >= brokers
    except KafkaException:
        return False


@dataclass(frozen=True)
class SecureKafka:
    """A broker with listeners for TLS and SASL, and a registry; all of one authority.

    Attributes:
        secure, mutual: its addresses for SASL over TLS, and for clients with a certificate.
    """

    folder: Path
    bootstrap: str
    secure: str
    mutual: str
    registry_url: str
    authority: trustme.CA

    @property
    def ca(self) -> Path:
        """The certificate of the authority."""
        return self.folder / "ca.pem"


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Start them; end them."""
    programs, authority = fetch_servers(CACHE / "java"), trustme.CA()
    ports = {name: free_port() for name in ("port", "controller", "secure", "mutual")}
    broker = folder / "broker"
    broker.mkdir()
    authority.cert_pem.write_to_path(broker / "ca.pem")
    write_identity(authority, "127.0.0.1", broker / "server.pem")
    text = _text(1, ports, f"1@127.0.0.1:{ports['controller']}")
    text += SECURE.format(**ports, folder=broker, login=LOGIN, user=USER, password=PASSWORD)
    scram = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
    kafka = Broker(broker, text, _cluster_id(), ("--add-scram", scram))
    bootstrap = f"127.0.0.1:{ports['port']}"
    (folder / "registry").mkdir()
    registry = RegistryServer(folder / "registry", free_port(), bootstrap)
    with ExitStack() as stack:
        stack.callback(kafka.end)
        kafka.start(programs)
        wait_until(lambda: _answers(bootstrap, brokers=1))
        process = registry.start(programs)
        stack.callback(lambda: stop(process, grace_s=0))
        wait_until(registry.ready, 90)
        yield SecureKafka(
            broker,
            bootstrap,
            f"127.0.0.1:{ports['secure']}",
            f"127.0.0.1:{ports['mutual']}",
            registry.address,
            authority,
        )


def write_identity(authority: trustme.CA, name: str, path: Path) -> None:
    """Write key and certificate as Kafka takes them: the key as PKCS #8."""
    leaf = authority.issue_cert(name)
    key = load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(text + b"".join(one.bytes() for one in leaf.cert_chain_pems))


@dataclass(frozen=True)
class ThreeBrokers:
    """Three brokers that are controllers too."""

    bootstrap: str
    brokers: list[Broker]


@contextmanager
def three_brokers(folder: Path) -> Iterator[ThreeBrokers]:
    """Start a cluster whose topics have three replicas, of which two must be in sync."""
    programs, cluster_id = fetch_servers(CACHE / "java"), _cluster_id()
    ports = [{"port": free_port(), "controller": free_port()} for _ in range(3)]
    voters = ",".join(
        f"{node}@127.0.0.1:{one['controller']}" for node, one in enumerate(ports, start=1)
    )
    replicas = "default.replication.factor=3\nmin.insync.replicas=2\n"
    brokers = []
    with ExitStack() as stack:
        for node, one in enumerate(ports, start=1):
            (folder / str(node)).mkdir()
            broker = Broker(folder / str(node), _text(node, one, voters) + replicas, cluster_id)
            stack.callback(broker.end)
            broker.start(programs)
            brokers.append(broker)
        bootstrap = ",".join(f"127.0.0.1:{one['port']}" for one in ports)
        wait_until(lambda: _answers(bootstrap, brokers=3))
        yield ThreeBrokers(bootstrap, brokers)


def _cluster_id() -> str:
    return uuid.uuid4().hex[:22]

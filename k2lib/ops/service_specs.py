"""What each service of `k2 up --with` is and needs: one definition for supervisor and docs."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from k2lib.errors import ConfigError
from k2lib.ops.jars import JavaPrograms
from k2lib.ops.object_store import CATALOG_FILE, MORE_PORTS, ObjectStoreServer, find_weed
from k2lib.ops.offline_rate import rate_of_home
from k2lib.ops.processes import HOST, STOP_GRACE_S, ChildProcess, spawn
from k2lib.ops.prometheus.config import write_config
from k2lib.ops.servers import (
    REGISTRY_PATH,
    KafkaServer,
    LocalServer,
    RegistryServer,
    http_answer,
)

ANSWER_S: Final = 5.0
# What of the lake or of Kafka is out of reach, the API says by 503; it works then too.
API_ANSWERS: Final = (200, 401, 503)
K2: Final = (sys.executable, "-m", "k2lib")


@dataclass(frozen=True)
class Stack:
    """The services of one home by name, and the port of each.

    Attributes:
        webhook_url: where Alertmanager posts alerts.
    """

    home: Path
    ports: Mapping[str, int]
    webhook_url: SecretStr | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.ports

    def folder(self, name: str) -> Path:
        """Return the folder of a service: its data, its settings, its log."""
        return self.home / "services" / name

    def address(self, name: str) -> str:
        """Return host and port of a service."""
        return f"{HOST}:{self.ports[name]}"

    @property
    def scraped(self) -> dict[str, str]:
        """The address of each service that has metrics, by name."""
        return {
            name: self.address(name)
            for name, spec in SPECS.items()
            if name in self and spec.has_metrics
        }


def _nothing(stack: Stack) -> None:
    return None


def _no_variables(stack: Stack) -> dict[str, str]:
    return {}


def _no_command(stack: Stack) -> list[str]:
    return []


@dataclass(frozen=True)
class ServiceSpec:
    """One service.

    Attributes:
        title: its name for people.
        program: what is run, as found on PATH; `package` is what has it.
        port: the one it listens on unless another one is named.
        question: what it is asked, to see that it works; for HTTP `GET` and the path.
        after: services that must answer first, where they are part of the stack.
        memory_mb: what it may take; a container of it is limited to that.
        more_ports: its other ports by name, as `port`; 0 takes a free one.
        stop_s: how long it may take to end.
        shows: what the answer has once it has begun to work.
        has_metrics: Prometheus scrapes /metrics at its port.
        command: the command line; `environment`: the variables that it is given besides.
        prepare: writes its files, before it starts and whenever services are added.
        answers: asks the question.
    """

    name: str
    title: str
    program: str
    package: str
    port: int
    question: str
    memory_mb: int
    after: tuple[str, ...] = ()
    has_metrics: bool = False
    more_ports: Mapping[str, int] = field(default_factory=dict)
    stop_s: float = STOP_GRACE_S
    statuses: tuple[int, ...] = (200,)
    shows: bytes = b""
    command: Callable[[Stack], list[str]] = field(default=_no_command, repr=False)
    environment: Callable[[Stack], dict[str, str]] = field(default=_no_variables, repr=False)
    prepare: Callable[[Stack], None] = field(default=_nothing, repr=False)
    answers: Callable[[Stack], bool] | None = field(default=None, repr=False)

    def works(self, stack: Stack) -> bool:
        """Return whether it answers its question."""
        if self.answers is not None:
            return self.answers(stack)
        path = self.question.removeprefix("GET ")
        status, body = http_answer(stack.ports[self.name], path, within_s=ANSWER_S)
        return status in self.statuses and self.shows in body


@dataclass(frozen=True)
class ProgramServer:
    """A service that is one program, started with the command line of its spec."""

    spec: ServiceSpec
    stack: Stack

    @property
    def key(self) -> str:
        """Its name in the home's service registry."""
        return self.spec.name

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.spec.title

    @property
    def folder(self) -> Path:
        """Its folder in the home."""
        return self.stack.folder(self.spec.name)

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""
        return self.stack.ports[self.spec.name]

    @property
    def address(self) -> str:
        """Host and port."""
        return self.stack.address(self.spec.name)

    def start(self, programs: JavaPrograms) -> ChildProcess:
        """Start it; it is not yet ready."""
        self.spec.prepare(self.stack)
        environment = {**os.environ, **self.spec.environment(self.stack)}
        return spawn(self.spec.command(self.stack), folder=self.folder, environment=environment)

    def answers(self) -> bool:
        """Return whether it answers its question."""
        return self.spec.works(self.stack)

    def ready(self) -> bool:
        """Return whether it answers; it needs nothing else."""
        return self.answers()


def make_server(spec: ServiceSpec, stack: Stack) -> LocalServer:
    """Return a service of a stack as a server that can be started and asked."""
    port = stack.ports[spec.name]
    if spec.name == KafkaServer.key:
        return KafkaServer(stack.folder(spec.name), port)
    if spec.name == RegistryServer.key:
        bootstrap = stack.address(KafkaServer.key)
        return RegistryServer(stack.folder(spec.name), port, bootstrap=bootstrap)
    if spec.name == ObjectStoreServer.key:
        return ObjectStoreServer(stack.folder(spec.name), stack.ports)
    return ProgramServer(spec, stack)


def _redis(stack: Stack) -> list[str]:
    options = {"--port": str(stack.ports["redis"]), "--bind": HOST, "--dir": ".", "--save": "60 1"}
    return ["redis-server", *(text for option in options.items() for text in option)]


def _redis_answers(stack: Stack) -> bool:
    import redis  # a tenth of a second, for the supervisor alone

    client = redis.Redis(
        HOST, stack.ports["redis"], socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
    )
    try:
        with client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _k2_variables(stack: Stack) -> dict[str, str]:
    variables = {"K2_HOME": str(stack.home), "K2_METRICS_HOST": HOST}
    if "redis" in stack:
        variables["K2_REDIS_URL"] = f"redis://{stack.address('redis')}/0"
    if "s3" in stack:
        variables["K2_CATALOG_CONFIG"] = str(stack.folder("s3") / CATALOG_FILE)
    if "alertmanager" in stack:
        variables["K2_ALERT_WEBHOOK_URL"] = ""  # or its receiver hears of each alert twice
    return variables


def _stream(stack: Stack) -> list[str]:
    # A table has one sink: where `sink` runs, the stream has none.
    return [*K2, "stream", "binance", *(["--no-sink"] if "sink" in stack else [])]


def _stream_variables(stack: Stack) -> dict[str, str]:
    variables = {**_k2_variables(stack), "K2_METRICS_PORT": str(stack.ports["stream"])}
    if "exchange" in stack:
        variables["K2_BINANCE_WS_URLS"] = f"ws://{stack.address('exchange')}"
        variables["K2_BINANCE_REST_URLS"] = f"http://{stack.address('exchange')}"
    return variables


def _exchange(stack: Stack) -> list[str]:
    rate = rate_of_home(stack.home, None)
    return [*K2, "simulate", "binance", f"--port={stack.ports['exchange']}", f"--rate={rate:g}"]


def _alertmanager(stack: Stack) -> list[str]:
    listen = f"--web.listen-address={stack.address('alertmanager')}"
    files = ["--config.file=alertmanager.yml", "--storage.path=data"]
    return ["prometheus-alertmanager", *files, listen, "--cluster.listen-address="]


def _prometheus(stack: Stack) -> list[str]:
    listen = f"--web.listen-address={stack.address('prometheus')}"
    return ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", listen]


def _write_config(name: str) -> Callable[[Stack], None]:
    def write(stack: Stack) -> None:
        url = stack.webhook_url
        write_config(
            stack.folder(name),
            targets=stack.scraped,
            alertmanager=stack.address("alertmanager") if "alertmanager" in stack else None,
            webhook_url=None if url is None else url.get_secret_value(),
        )

    return write


BOTH: Final = ("kafka", "registry")
LAKE: Final = (*BOTH, "s3")
SPECS: Final[Mapping[str, ServiceSpec]] = {
    spec.name: spec
    for spec in (
        ServiceSpec(
            name="kafka",
            title="Kafka broker",
            program="java",
            package="Debian: openjdk-17-jre-headless",
            port=19092,
            question="metadata of this home",
            memory_mb=1024,
        ),
        ServiceSpec(
            name="registry",
            title="schema registry",
            program="java",
            package="Debian: openjdk-17-jre-headless",
            port=18081,
            question=f"GET {REGISTRY_PATH}/config",
            memory_mb=768,
            after=("kafka",),
        ),
        ServiceSpec(
            name="s3",
            title="object store",
            program="weed",
            package="PyPI: k2lib[s3]",
            port=8333,
            question="GET /healthz, and /v1/config of the catalog",
            memory_mb=1024,
            more_ports=MORE_PORTS,
            stop_s=40.0,
        ),
        ServiceSpec(
            name="redis",
            title="Redis",
            program="redis-server",
            package="Debian: redis-server",
            port=16379,
            question="PING",
            memory_mb=192,
            command=_redis,
            answers=_redis_answers,
        ),
        ServiceSpec(
            name="exchange",
            title="offline exchange",
            program="k2 simulate binance",
            package="PyPI: k2lib",
            port=9443,
            question="GET /api/v3/ping",
            memory_mb=384,
            command=_exchange,
        ),
        ServiceSpec(
            name="sink",
            title="sinks",
            program="k2 sink",
            package="PyPI: k2lib",
            port=9464,
            question="GET /metrics",
            memory_mb=1536,
            after=LAKE,
            has_metrics=True,
            command=lambda stack: [*K2, "sink", f"--metrics-port={stack.ports['sink']}"],
            environment=_k2_variables,
        ),
        ServiceSpec(
            name="stream",
            title="live feed",
            program="k2 stream binance",
            package="PyPI: k2lib",
            port=9465,
            question="GET /metrics",
            memory_mb=768,
            after=(*LAKE, "redis", "exchange"),
            has_metrics=True,
            shows=b"k2_feed_messages_received_total{",
            command=_stream,
            environment=_stream_variables,
        ),
        ServiceSpec(
            name="api",
            title="HTTP API",
            program="k2 api",
            package="PyPI: k2lib",
            port=8000,
            question="GET /ready",
            memory_mb=2048,
            after=LAKE,
            has_metrics=True,
            statuses=API_ANSWERS,
            command=lambda stack: [
                *(*K2, "api", f"--host={HOST}", f"--port={stack.ports['api']}", "--quiet")
            ],
            environment=_k2_variables,
        ),
        ServiceSpec(
            name="alertmanager",
            title="Alertmanager",
            program="prometheus-alertmanager",
            package="Debian: prometheus-alertmanager",
            port=9093,
            question="GET /-/ready",
            memory_mb=128,
            command=_alertmanager,
            prepare=_write_config("alertmanager"),
        ),
        ServiceSpec(
            name="prometheus",
            title="Prometheus",
            program="prometheus",
            package="Debian: prometheus",
            port=9090,
            question="GET /-/ready",
            memory_mb=512,
            command=_prometheus,
            prepare=_write_config("prometheus"),
        ),
    )
}
CHOICES: Final = tuple(name for name in SPECS if name not in BOTH)


def check_names(names: Iterable[str], ports: Iterable[str]) -> None:
    """Refuse services, and names of ports, that do not exist.

    Raises:
        ConfigError: names them, and those that exist.
    """
    more = [name for spec in SPECS.values() for name in spec.more_ports]
    unknown = [name for name in names if name not in SPECS]
    unknown += [name for name in ports if name not in (*SPECS, *more)]
    if unknown:
        raise ConfigError(f"no service {', '.join(unknown)}; there are {', '.join(SPECS)}")


def _is_there(spec: ServiceSpec) -> bool:
    if spec.name == ObjectStoreServer.key:
        return find_weed() is not None
    return not spec.package.startswith("Debian") or shutil.which(spec.program) is not None


def check_programs(names: Iterable[str]) -> None:
    """Refuse to start services whose programs are missing; Java is looked for with its files.

    Raises:
        ConfigError: names each program and its package.
    """
    missing = [
        f"{spec.program} ({spec.package})"
        for spec in map(SPECS.__getitem__, names)
        if not _is_there(spec)
    ]
    if missing:
        raise ConfigError(f"not found on PATH: {'; '.join(missing)}")

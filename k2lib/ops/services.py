"""Run Apache Kafka and a schema registry as local processes of one home: up, status, down.

A supervisor, where one runs, keeps other services in the same service registry; `down` ends all.
Their data and logs, in `<home>/services/kafka` and `<home>/services/registry`, survive `down`.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from k2lib.errors import ConfigError, DamagedFileError, OwnerError, TransientError
from k2lib.locks import (
    Lock,
    holder_text,
    locked,
    make_private,
    replace_file,
    try_lock,
    writer_lock,
)
from k2lib.ops.jars import JavaPrograms, OnStep, default_cache, fetch_servers
from k2lib.ops.processes import (
    STOP_GRACE_S,
    ChildProcess,
    alive,
    free_port,
    is_free,
    stop,
    unregistered,
)
from k2lib.ops.servers import KafkaServer, LocalServer, RegistryServer, await_ready
from k2lib.ops.service_specs import SPECS
from k2lib.reasons import file_errors

SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class StartedService:
    """A service's process and its port."""

    port: int
    pid: int
    birth: str

    @property
    def process(self) -> ChildProcess:
        """The process, which may be gone."""
        return ChildProcess(self.pid, self.birth)

    @property
    def is_running(self) -> bool:
        """Whether that very process still runs."""
        return alive(self.process)


@dataclass(frozen=True)
class RunningServices:
    """The home's service registry, from `up` to `down`: a service whose process ended stays in it.

    Attributes:
        started: when all services answered first; None before.
    """

    entries: Mapping[str, StartedService] = field(default_factory=dict)
    started: datetime | None = None

    def running(self, service: str) -> StartedService | None:
        """Return a service's entry if its process runs."""
        entry = self.entries.get(service)
        return entry if entry is not None and entry.is_running else None

    def with_entry(self, service: str, entry: StartedService) -> "RunningServices":
        """Return the registry with a service that was started just now."""
        return replace(self, entries={**self.entries, service: entry})

    def without_dead(self) -> "RunningServices":
        """Return the registry with the services whose processes run."""
        return RunningServices(
            {name: entry for name, entry in self.entries.items() if entry.is_running}
        )

    def all_started(self) -> "RunningServices":
        """Return the registry with the time since when all answer: now."""
        return replace(self, started=datetime.now(UTC))


def read_running_services(home: Path) -> RunningServices:
    """Read a home's service registry; without a file it is empty.

    Raises:
        ConfigError: the file cannot be read.
        DamagedFileError: it is damaged.
    """
    file = _file(home)
    with file_errors(f"the home {home}"):
        try:
            data = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return RunningServices()
    try:
        values = json.loads(data)
        started = values.pop("started")
        if values.pop("folder", _folder_id(home)) != _folder_id(home):
            return RunningServices()  # this home is a copy: they are those of the first one
        entries = {name: StartedService(**entry) for name, entry in values.items()}
        return RunningServices(entries, datetime.fromisoformat(started) if started else None)
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise DamagedFileError(
            f"{file} is damaged: end the Java processes of `k2 up` if they run, and delete the file"
        ) from exc


def write_running_services(home: Path, services: RunningServices) -> None:
    """Write a home's service registry in one step; an empty one leaves no file."""
    file = _file(home)
    if not services.entries:
        file.unlink(missing_ok=True)
        return
    entries = {name: asdict(entry) for name, entry in services.entries.items()}
    started = services.started.isoformat() if services.started else None
    values = {**entries, "started": started, "folder": _folder_id(home)}
    replace_file(file, json.dumps(values, indent=2))


def _folder_id(home: Path) -> list[int]:
    """Return what a folder keeps where it is moved on its disk, and a copy does not have."""
    status = _file(home).parent.stat()
    return [status.st_dev, status.st_ino]


def _file(home: Path) -> Path:
    return home / "run" / "services.json"


@dataclass(frozen=True)
class Services:
    """Addresses and processes of running services, for clients."""

    bootstrap: str
    registry_url: str
    kafka_pid: int
    registry_pid: int
    started: datetime


@dataclass(frozen=True)
class ServiceStatus:
    """The current state of one service; `disk_bytes` counts blocks on disk.

    One with an address that does not run has ended by itself.
    """

    name: str
    running: bool
    answers: bool
    pid: int | None
    address: str | None
    disk_bytes: int
    folder: str


@dataclass(frozen=True)
class ServicesStatus:
    """The current state of both services."""

    kafka: ServiceStatus
    registry: ServiceStatus

    def to_json(self) -> dict[str, object]:
        """Return plain values for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class StoppedService:
    """A service that was ended; `killed` if SIGTERM did not end it."""

    name: str
    pid: int
    killed: bool


def up(
    home: Path,
    *,
    kafka_port: int,
    registry_port: int,
    jar_cache: Path | None = None,
    on_step: OnStep = lambda _: None,
) -> Services:
    """Start what does not run yet and return once both answer; what runs is left as it is.

    Args:
        kafka_port: 0 picks a free one, as with `registry_port`. While one of the two runs, the
            other comes back at the port it had.
        jar_cache: where the Java programs are kept; by default in a folder all homes share.
        on_step: called with a line of text at each step.
    Raises:
        ConfigError: Java, Maven or a port is missing, or a service does not start.
        DamagedFileError: the home's service registry is damaged.
        OwnerError: an embedded broker serves this home.
    """
    home = home.resolve()
    with (
        file_errors(f"the home {home}"),
        locked(services_lock(home)),
        without_embedded_owner(home),
    ):
        read_running_services(home)  # a damaged file stops it before anything is fetched
        programs = fetch_servers(jar_cache or default_cache(), on_step=on_step)
        ports = {"kafka": kafka_port, "registry": registry_port}
        _start_missing(home, ports, programs=programs, on_step=on_step)
    services = running(home)
    if services is None:
        raise ConfigError(f"a service ended as soon as it had started; see {home / 'services'}")
    return services


def down(home: Path) -> list[StoppedService]:
    """End the services of a home, the last one first; their data stay.

    An empty list says that nothing ran.
    """
    home = home.resolve()
    if not (home / "run").exists():
        return []
    # Without the lock, which its threads may wait for.
    stopped = [_stop(SUPERVISOR, read_running_services(home).running(SUPERVISOR))]
    with locked(services_lock(home)):
        entries = read_running_services(home).entries
        ordered = [*reversed(list(SPECS)), *(name for name in entries if name not in SPECS)]
        stopped += [_stop(name, entries.get(name)) for name in ordered]
        stopped += [_stop_unregistered(folder) for folder in (home / "services").glob("*")]
        write_running_services(home, RunningServices())
        request_file(home).unlink(missing_ok=True)
    return [one for one in stopped if one is not None]


def running(home: Path) -> Services | None:
    """Return the services that `up` left in a home; None if one of them is gone or not ready."""
    services = read_running_services(home)
    kafka, registry = services.running("kafka"), services.running("registry")
    if kafka is None or registry is None or services.started is None:
        return None
    at_kafka, at_registry = _servers(home, kafka.port, registry.port)
    return Services(
        at_kafka.address, at_registry.address, kafka.pid, registry.pid, services.started
    )


def started(home: Path) -> tuple[KafkaServer, RegistryServer] | None:
    """Return the services that `up` started in a home and `down` did not end, running or not."""
    services = read_running_services(home)
    return _started_servers(home, services) if KafkaServer.key in services.entries else None


def check_running(home: Path, *, bootstrap: str) -> None:
    """Refuse the services that `up` started in a home where one does not run.

    Another program, or another home, may have its port by now.

    Args:
        bootstrap: the address of Kafka that its clients have.
    Raises:
        TransientError: names the service, its address and a remedy.
    """
    services = read_running_services(home)
    for server in _started_servers(home, services):
        address = bootstrap if server.key == KafkaServer.key else server.address
        if services.running(server.key) is None or server.address != address:
            raise TransientError(
                f"the {server.name} of the home {home} at {address} does not answer: its "
                "process ended: start it again by `k2 up`, or go on without it after `k2 down`"
            )


def status(home: Path) -> ServicesStatus:
    """Return whether each service runs and answers, and its size on disk."""
    home = home.resolve()
    services = read_running_services(home)
    kafka, registry = _started_servers(home, services)
    return ServicesStatus(
        _status(kafka, services.entries.get("kafka")),
        _status(registry, services.entries.get("registry")),
    )


def _start_missing(
    home: Path, ports: dict[str, int], *, programs: JavaPrograms, on_step: OnStep
) -> None:
    services = read_running_services(home)
    servers = _servers(home, *(_choose_port(services, name, port) for name, port in ports.items()))
    missing = [server for server in servers if services.running(server.key) is None]
    _check_ports(missing)
    with contextlib.ExitStack() as undo:
        undo.callback(_forget_started, home, services)
        for server in servers:
            if server in missing:
                on_step(f"{server.name} starts at {server.address}")
                undo.callback(stop, _start(home, server, programs))
            await_ready(server, read_running_services(home).entries[server.key].process)
            on_step(f"{server.name} answers at {server.address}")
        if missing or services.started is None:
            write_running_services(home, read_running_services(home).all_started())
        undo.pop_all()


def _forget_started(home: Path, before: RunningServices) -> None:
    """Write the registry as it was; one that never answered has only what runs."""
    keep_dead = before.started is not None
    write_running_services(
        home, before if keep_dead else read_running_services(home).without_dead()
    )


def _start(home: Path, server: LocalServer, programs: JavaPrograms) -> ChildProcess:
    make_private(server.folder.parent)
    server.folder.mkdir(exist_ok=True)
    process = server.start(programs)
    entry = StartedService(server.port, process.pid, process.birth)
    write_running_services(home, read_running_services(home).with_entry(server.key, entry))
    return process


def _servers(home: Path, kafka_port: int, registry_port: int) -> tuple[KafkaServer, RegistryServer]:
    kafka = KafkaServer(home / "services" / KafkaServer.key, kafka_port)
    folder = home / "services" / RegistryServer.key
    return kafka, RegistryServer(folder, registry_port, bootstrap=kafka.address)


def _started_servers(home: Path, services: RunningServices) -> tuple[KafkaServer, RegistryServer]:
    return _servers(home, _port(services, "kafka"), _port(services, "registry"))


def _choose_port(services: RunningServices, service: str, configured: int) -> int:
    # The clients of a service that still runs, and the registry itself, know the other's port.
    current = _port(services, service) if services.without_dead().entries else 0
    return current or configured or free_port()


def _port(services: RunningServices, service: str) -> int:
    entry = services.entries.get(service)
    return 0 if entry is None else entry.port


def _check_ports(servers: list[KafkaServer | RegistryServer]) -> None:
    for server in servers:
        if not is_free(server.port):
            raise ConfigError(
                f"port {server.port} for the {server.name} is in use by another program: "
                f"end that, or set {server.port_setting} to a free port"
            )


def _stop(service: str, entry: StartedService | None) -> StoppedService | None:
    if entry is None or not entry.is_running:
        return None
    grace_s = SPECS[service].stop_s if service in SPECS else STOP_GRACE_S
    killed = not stop(entry.process, grace_s=grace_s)
    return StoppedService(service, entry.pid, killed=killed)


def _stop_unregistered(folder: Path) -> StoppedService | None:
    process = unregistered(folder)
    if process is None:
        return None
    return StoppedService(folder.name, process.pid, killed=not stop(process))


def _status(server: LocalServer, entry: StartedService | None) -> ServiceStatus:
    is_running = entry is not None and entry.is_running
    return ServiceStatus(
        name=server.name,
        running=is_running,
        answers=is_running and server.answers(),
        pid=entry.pid if entry is not None and is_running else None,
        address=None if entry is None else server.address,
        disk_bytes=_disk_bytes(server.folder),
        folder=str(server.folder),
    )


def _disk_bytes(folder: Path) -> int:
    # Blocks, not lengths: Kafka's index files are long and mostly holes.
    return sum(_blocks(file) * 512 for file in folder.rglob("*"))


def _blocks(file: Path) -> int:
    try:
        return file.lstat().st_blocks
    except FileNotFoundError:
        return 0


def request_file(home: Path) -> Path:
    """Return the file that says which services a supervisor keeps, from `up` to `down`."""
    return home / "run" / "stack.json"


def services_lock(home: Path) -> Path:
    """Return the lock of whoever starts or ends services of a home."""
    return home / "run" / "services.lock"


def without_embedded_owner(home: Path) -> Lock:
    """Lock out the embedded broker of a home, to start services there.

    Raises:
        OwnerError: one runs.
    """
    path = writer_lock(home)
    lock = try_lock(path)
    if lock is None:
        raise OwnerError(
            f"{holder_text(path)} serves {home} with its embedded broker: end it, then "
            "run `k2 up` again"
        )
    return lock

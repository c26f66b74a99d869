"""Run Apache Kafka and a schema registry as local processes of one home: up, status, down.

Their data and logs, in `<home>/services/kafka` and `<home>/services/registry`, survive `down`.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from k2lib.errors import ConfigError, OwnerError
from k2lib.locks import Lock, lock_holder, try_lock, writer_lock
from k2lib.ops.jars import Jars, default_cache, jars
from k2lib.ops.processes import Process, alive, free_port, is_free, locked, stop
from k2lib.ops.servers import Kafka, Registry, Server, await_ready


@dataclass(frozen=True)
class Entry:
    """A process that was started, and the port it was given."""

    port: int
    pid: int
    birth: str

    @property
    def process(self) -> Process:
        """The process, which may be gone."""
        return Process(self.pid, self.birth)

    @property
    def lives(self) -> bool:
        """Whether that very process still runs."""
        return alive(self.process)


@dataclass(frozen=True)
class Ledger:
    """Entries by service; `started` is set once all of them have answered."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    started: datetime | None = None

    def living(self, service: str) -> Entry | None:
        """Return a service's entry if its process runs."""
        entry = self.entries.get(service)
        return entry if entry is not None and entry.lives else None

    def with_entry(self, service: str, entry: Entry) -> "Ledger":
        """Return the ledger with one more start, not yet answered."""
        return Ledger({**self.entries, service: entry})

    def without_dead(self) -> "Ledger":
        """Return the ledger with the entries whose processes run."""
        return Ledger({name: entry for name, entry in self.entries.items() if entry.lives})

    def all_started(self) -> "Ledger":
        """Return the ledger with the time since when all answer."""
        return replace(self, started=self.started or datetime.now(UTC))


def read_ledger(home: Path) -> Ledger:
    """Read a home's ledger; a home without one has an empty ledger."""
    try:
        told = json.loads(_file(home).read_text())
    except FileNotFoundError:
        return Ledger()
    started = told.pop("started")
    entries = {name: Entry(**entry) for name, entry in told.items()}
    return Ledger(entries, datetime.fromisoformat(started) if started else None)


def write_ledger(home: Path, ledger: Ledger) -> None:
    """Write a home's ledger in one step; an empty one leaves no file."""
    file = _file(home)
    if not ledger.entries:
        file.unlink(missing_ok=True)
        return
    entries = {name: asdict(entry) for name, entry in ledger.entries.items()}
    started = ledger.started.isoformat() if ledger.started else None
    part = file.with_suffix(".part")
    part.write_text(json.dumps({**entries, "started": started}, indent=2))
    part.replace(file)


def _file(home: Path) -> Path:
    return home / "run" / "services.json"


Listener = Callable[[str], None]


@dataclass(frozen=True)
class Services:
    """What a client needs to know of the running services."""

    bootstrap: str
    registry_url: str
    kafka_pid: int
    registry_pid: int
    started: datetime


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now; `disk_bytes` is what its files occupy."""

    name: str
    running: bool
    answers: bool
    pid: int | None
    address: str | None
    disk_bytes: int
    folder: str


@dataclass(frozen=True)
class Status:
    """Both services as they are now."""

    kafka: ServiceStatus
    registry: ServiceStatus

    def as_json(self) -> dict[str, object]:
        """Return plain values for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Stopped:
    """A service that was ended; `killed` if it did not end when asked to."""

    name: str
    pid: int
    killed: bool


def up(
    home: Path,
    *,
    kafka_port: int,
    registry_port: int,
    jar_cache: Path | None = None,
    on_event: Listener = lambda _: None,
) -> Services:
    """Start what does not run yet and return once both answer; what runs is left as it is.

    Args:
        kafka_port: 0 picks a free one, as with `registry_port`. While one of the two runs, the
            other comes back at the port it had.
        jar_cache: where the Java programs are kept; by default in a folder all homes share.
        on_event: is told of each step, in words.
    Raises:
        ConfigError: Java, Maven or a port is missing, or a service does not start.
        OwnerError: an embedded broker serves this home.
    """
    home = home.resolve()
    with locked(_lock(home)), _without_embedded_owner(home):
        found = jars(jar_cache or default_cache(), on_event=on_event)
        asked = {"kafka": kafka_port, "registry": registry_port}
        _start_missing(home, asked, found=found, on_event=on_event)
    services = running(home)
    if services is None:
        raise ConfigError(f"a service ended as soon as it had started; see {home / 'services'}")
    return services


def down(home: Path) -> list[Stopped]:
    """End the services of a home; their data stay. An empty list says that nothing ran."""
    home = home.resolve()
    if not (home / "run").exists():
        return []
    with locked(_lock(home)):
        ledger = read_ledger(home)
        # The registry first: it is the one that would miss the other.
        stopped = [_stopped(name, ledger.living(name)) for name in ("registry", "kafka")]
        write_ledger(home, Ledger())
    return [one for one in stopped if one is not None]


def running(home: Path) -> Services | None:
    """Return the services that `up` left in a home; None if one of them is gone or not ready."""
    ledger = read_ledger(home)
    kafka, registry = ledger.living("kafka"), ledger.living("registry")
    if kafka is None or registry is None or ledger.started is None:
        return None
    at_kafka, at_registry = _servers(home, kafka.port, registry.port)
    return Services(at_kafka.address, at_registry.address, kafka.pid, registry.pid, ledger.started)


def status(home: Path) -> Status:
    """Look at each service: does it run, does it answer, what does it occupy on disk?"""
    home = home.resolve()
    ledger = read_ledger(home)
    kafka, registry = _servers(home, *(_port(ledger, name) for name in ("kafka", "registry")))
    return Status(
        _status(kafka, ledger.living("kafka")), _status(registry, ledger.living("registry"))
    )


def _start_missing(home: Path, asked: dict[str, int], *, found: Jars, on_event: Listener) -> None:
    ledger = read_ledger(home)
    servers = _servers(home, *(_chosen(ledger, name, port) for name, port in asked.items()))
    missing = [server for server in servers if ledger.living(server.key) is None]
    _check_ports(missing)
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: write_ledger(home, read_ledger(home).without_dead()))
        for server in servers:
            if server in missing:
                on_event(f"{server.name} starts at {server.address}")
                undo.callback(stop, _started(home, server, found))
            await_ready(server, read_ledger(home).entries[server.key].process)
            on_event(f"{server.name} answers at {server.address}")
        write_ledger(home, read_ledger(home).all_started())
        undo.pop_all()


def _started(home: Path, server: Server, found: Jars) -> Process:
    server.folder.mkdir(parents=True, exist_ok=True)
    process = server.start(found)
    entry = Entry(server.port, process.pid, process.birth)
    write_ledger(home, read_ledger(home).with_entry(server.key, entry))
    return process


def _servers(home: Path, kafka_port: int, registry_port: int) -> tuple[Kafka, Registry]:
    kafka = Kafka(home / "services" / Kafka.key, kafka_port)
    folder = home / "services" / Registry.key
    return kafka, Registry(folder, registry_port, bootstrap=kafka.address)


def _chosen(ledger: Ledger, service: str, asked: int) -> int:
    # The clients of a service that still runs, and the registry itself, know the other's port.
    known = _port(ledger, service) if ledger.without_dead().entries else 0
    return known or asked or free_port()


def _port(ledger: Ledger, service: str) -> int:
    entry = ledger.entries.get(service)
    return 0 if entry is None else entry.port


def _check_ports(servers: list[Kafka | Registry]) -> None:
    for server in servers:
        if not is_free(server.port):
            raise ConfigError(
                f"port {server.port} for the {server.name} is in use by another program: "
                f"end that, or set {server.port_setting} to a free port"
            )


def _stopped(service: str, entry: Entry | None) -> Stopped | None:
    if entry is None:
        return None
    return Stopped(service, entry.pid, killed=not stop(entry.process))


def _status(server: Server, entry: Entry | None) -> ServiceStatus:
    return ServiceStatus(
        name=server.name,
        running=entry is not None,
        answers=entry is not None and server.answers(),
        pid=None if entry is None else entry.pid,
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


def _lock(home: Path) -> Path:
    return home / "run" / "services.lock"


def _without_embedded_owner(home: Path) -> Lock:
    path = writer_lock(home)
    lock = try_lock(path)
    if lock is None:
        raise OwnerError(
            f"process {lock_holder(path)} serves {home} with its embedded broker: end it, then "
            "run `k2 up` again"
        )
    return lock

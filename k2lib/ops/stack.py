"""Start the services of a home under a supervisor, add to them, and read how they are."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from k2lib.addresses import lower_scheme
from k2lib.errors import ConfigError, DamagedFileError
from k2lib.locks import locked, make_private, replace_file
from k2lib.ops.home_lake import check_lake
from k2lib.ops.jars import OnStep, default_cache, fetch_servers
from k2lib.ops.processes import POLL_S, free_port, is_free, spawn, tail
from k2lib.ops.service_specs import BOTH, SPECS, check_names, check_programs
from k2lib.ops.services import (
    SUPERVISOR,
    RunningServices,
    StartedService,
    read_running_services,
    request_file,
    services_lock,
    without_embedded_owner,
    write_running_services,
)
from k2lib.reasons import file_errors
from k2lib.settings import Settings

HEALTHY: Final = "healthy"
FAILED: Final = "failed"
UP_WITHIN_S: Final = 240.0


@dataclass(frozen=True)
class StackRequest:
    """The services that a supervisor keeps running, with their ports.

    Attributes:
        number: another one with each `k2 up`; a service that failed is then tried again.
    """

    ports: Mapping[str, int]
    number: int = 0

    @property
    def services(self) -> dict[str, int]:
        """The port of each service, without those of its parts."""
        return {name: port for name, port in self.ports.items() if name in SPECS}


@dataclass(frozen=True)
class ServiceState:
    """How a service is, as its supervisor sees it.

    Attributes:
        state: waiting, starting, healthy, silent, restarting or failed; ended or unwatched without
            a supervisor.
        health: what it was asked, and what came of it.
        restarts: how often it was started again.
        since: when `state` began.
    """

    name: str
    state: str
    port: int
    pid: int | None = None
    health: str = ""
    restarts: int = 0
    since: str = ""


@dataclass(frozen=True)
class StackStatus:
    """The services of a home, and the supervisor that keeps them; None if it has ended."""

    supervisor_pid: int | None
    services: tuple[ServiceState, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def start_stack(
    settings: Settings,
    names: Iterable[str],
    *,
    ports: Mapping[str, int],
    jar_cache: Path | None = None,
    on_step: OnStep = lambda _: None,
) -> StackStatus:
    """Start services that do not run yet, and return once all are healthy.

    Args:
        names: besides Kafka, the registry, and what was started before.
        ports: those that are not the usual ones; 0 picks a free one.
        jar_cache: as of `k2lib.ops.services.up`.
    Raises:
        ConfigError: an unknown name, a missing program, a port in use, or a service that fails.
        OwnerError: an embedded broker serves this home.
    """
    home = settings.home.resolve()
    requested = set(names)
    check_names(requested, ports)
    if "s3" in requested:
        check_lake(settings)
    cache = (jar_cache or default_cache()).resolve()
    with (
        file_errors(f"the home {home}"),
        locked(services_lock(home)),
        without_embedded_owner(home),
    ):
        running = read_running_services(home)
        before = read_request(home)
        requested |= {*BOTH, *before.ports}
        ordered = [name for name in SPECS if name in requested]
        check_programs(ordered)
        fetch_servers(cache, on_step=on_step)
        chosen = _choose_ports(settings, ordered, ports, before=before, running=running)
        request = StackRequest(chosen, time.time_ns())
        write_request(home, request)
        if running.running(SUPERVISOR) is None:
            _start_supervisor(home, settings, cache)
    return _await_healthy(home, request, on_step=on_step)


def read_stack_status(home: Path) -> StackStatus | None:
    """Return how the services of a home are; None where no supervisor was started."""
    home = home.resolve()
    request = read_request(home)
    if not request.ports:
        return None
    running = read_running_services(home)
    supervisor = running.running(SUPERVISOR)
    states = _read_states(home, number=request.number)
    found = (
        states.get(name, ServiceState(name, "waiting", port))
        for name, port in request.services.items()
    )
    if supervisor is not None:
        return StackStatus(supervisor.pid, tuple(found))
    return StackStatus(None, tuple(_unwatched(one, running) for one in found))


def _unwatched(one: ServiceState, running: RunningServices) -> ServiceState:
    entry = running.running(one.name)
    pid, state = (None, "ended") if entry is None else (entry.pid, "unwatched")
    return ServiceState(one.name, state, one.port, pid, "its supervisor ended: k2 up", one.restarts)


def read_request(home: Path) -> StackRequest:
    """Return which services a home's supervisor keeps; none before the first, or after `down`.

    Raises:
        DamagedFileError: the file that says so is damaged.
    """
    values = _read_json(request_file(home))
    if values is None or not read_running_services(home).entries:
        return StackRequest({})
    try:
        ports = {str(name): int(port) for name, port in values["ports"].items()}
        return StackRequest(ports, int(values["number"]))
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise _damaged(request_file(home)) from exc


def write_request(home: Path, request: StackRequest) -> None:
    """Tell a home's supervisor which services it keeps."""
    make_private(home / "run")
    _write_json(request_file(home), asdict(request))


def write_states(home: Path, number: int, states: Iterable[ServiceState]) -> None:
    """Write how the services are, and which request was read last."""
    values = {"number": number, "services": [asdict(one) for one in states]}
    _write_json(_states_file(home), values)


def _read_states(home: Path, *, number: int) -> dict[str, ServiceState]:
    """Return the states that were written since a request was read; none before."""
    values = _read_json(_states_file(home)) or {"number": 0, "services": []}
    try:
        if values["number"] != number:
            return {}
        return {one["name"]: ServiceState(**one) for one in values["services"]}
    except (LookupError, TypeError) as exc:
        raise _damaged(_states_file(home)) from exc


def _choose_ports(
    settings: Settings,
    names: Iterable[str],
    ports: Mapping[str, int],
    *,
    before: StackRequest,
    running: RunningServices,
) -> dict[str, int]:
    usual = {
        "kafka": settings.kafka_port,
        "registry": settings.registry_port,
        "api": settings.api_port,
    }
    chosen: dict[str, int] = {}
    for name in names:
        entry = running.running(name)
        current = {} if entry is None else {**before.ports, name: entry.port}
        defaults = {name: usual.get(name, SPECS[name].port), **SPECS[name].more_ports}
        for one in defaults:
            port = current.get(one)
            if port and ports.get(one, port) not in (0, port):
                raise ConfigError(f"--port {one}={ports[one]}: it has port {port}: `k2 down` first")
            default = ports.get(one, before.ports.get(one, defaults[one]))
            chosen[one] = port or default or _free_port_besides(chosen)
            if entry is None and not is_free(chosen[one]):
                raise ConfigError(
                    f"port {chosen[one]} for {SPECS[name].title} is in use by another program: "
                    f"end that, or name another one: --port {one}=0 takes a free one"
                )
    return chosen


def _free_port_besides(chosen: Mapping[str, int]) -> int:
    return next(port for port in iter(free_port, 0) if port not in chosen.values())


def _start_supervisor(home: Path, settings: Settings, cache: Path) -> None:
    folder = home / "services" / SUPERVISOR
    make_private(folder.parent)
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "k2lib.ops.supervisor", str(home), str(cache)]
    process = spawn(command, folder=folder, environment=_environment(settings))
    entry = StartedService(0, process.pid, process.birth)
    write_running_services(home, read_running_services(home).with_entry(SUPERVISOR, entry))


def _environment(settings: Settings) -> dict[str, str]:
    """Services have folders of their own: paths from the present one are made absolute."""
    environment = dict(os.environ)
    for name, value in settings:
        if isinstance(value, Path):
            environment[f"K2_{name.upper()}"] = str(value.absolute())
    warehouse = settings.warehouse
    if warehouse is not None and ":" not in lower_scheme(warehouse):
        environment["K2_WAREHOUSE"] = str(Path(warehouse).expanduser().absolute())
    return environment


def _await_healthy(home: Path, request: StackRequest, *, on_step: OnStep) -> StackStatus:
    end = time.monotonic() + UP_WITHIN_S
    shown: dict[str, str] = {}
    while True:
        supervisor = read_running_services(home).running(SUPERVISOR)
        states = _read_states(home, number=request.number)
        for one in states.values():
            if shown.get(one.name) != one.state:
                shown[one.name] = one.state
                on_step(f"{SPECS[one.name].title} at port {one.port}: {one.state}")
        if supervisor is None:
            raise ConfigError(f"the supervisor ended; the end of its log: {_log(home, SUPERVISOR)}")
        if all(name in states and states[name].state == HEALTHY for name in request.services):
            return StackStatus(supervisor.pid, tuple(states[name] for name in request.services))
        failed = [one for one in states.values() if one.state == FAILED]
        if failed or time.monotonic() > end:
            raise ConfigError(_not_healthy(home, request, failed or list(states.values())))
        time.sleep(POLL_S)


def _not_healthy(home: Path, request: StackRequest, states: list[ServiceState]) -> str:
    wrong = next((one for one in states if one.state != HEALTHY), None)
    if wrong is None:
        return f"the supervisor does not begin; the end of its log: {_log(home, SUPERVISOR)}"
    return (
        f"{SPECS[wrong.name].title} is not healthy ({wrong.state}; {wrong.health}): mend what "
        f"`k2 logs {wrong.name}` says, then `k2 up`; the end of it: {_log(home, wrong.name)}"
    )


def _log(home: Path, name: str) -> str:
    return tail(home / "services" / name / "log", lines=2)


def _states_file(home: Path) -> Path:
    return home / "run" / "stack-states.json"


def _read_json(file: Path) -> dict[str, Any] | None:
    with file_errors(str(file)):
        try:
            values = json.loads(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as exc:
            raise _damaged(file) from exc
    if not isinstance(values, dict):
        raise _damaged(file)
    return values


def _damaged(file: Path) -> DamagedFileError:
    return DamagedFileError(f"{file} is damaged: `k2 down`, delete the file, then `k2 up`")


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    replace_file(file, json.dumps(values, indent=2))

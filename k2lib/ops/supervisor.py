"""The process that keeps a home's services running, each by a thread; `k2 up --with` starts it.

It ends on SIGTERM and leaves the services running: `k2 down` ends them, whether it lives or not.
One that is started again takes over what runs.
"""

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from k2lib.locks import locked
from k2lib.ops.jars import JavaPrograms, fetch_servers
from k2lib.ops.processes import ChildProcess, alive, stop, unregistered
from k2lib.ops.service_specs import BOTH, SPECS, ServiceSpec, Stack, make_server
from k2lib.ops.services import (
    StartedService,
    read_running_services,
    services_lock,
    write_running_services,
)
from k2lib.ops.stack import (
    FAILED,
    HEALTHY,
    ServiceState,
    StackRequest,
    read_request,
    write_states,
)
from k2lib.resilience.backoff import delays
from k2lib.settings import read_settings

LOOK_S: Final = 0.1


@dataclass(frozen=True)
class SupervisorLimits:
    """When a service is started again, and when no more.

    Attributes:
        ask_s: between two questions to a service.
        silent_s: how long a service may answer nothing, then it is ended and started again.
        start_s: the same from its start to its first answer.
        end_s: how long it then has to end by itself.
        restarts: so many within `within_s`; at the next one it has failed.
        first_restarts: the same for one that has not answered since its first start.
        first_s, cap_s: the first and the longest wait before a restart.
    """

    ask_s: float = 1.0
    silent_s: float = 30.0
    start_s: float = 90.0
    end_s: float = 5.0
    restarts: int = 5
    first_restarts: int = 2
    within_s: float = 600.0
    first_s: float = 0.25
    cap_s: float = 8.0


class Supervisor:
    """Keeps the services running that the home's request names, until `end` is set."""

    def __init__(
        self,
        home: Path,
        programs: JavaPrograms,
        *,
        specs: Mapping[str, ServiceSpec] = SPECS,
        limits: SupervisorLimits | None = None,
    ) -> None:
        self.home = home
        self.programs = programs
        self.specs = specs
        self.limits = limits or SupervisorLimits()
        self.end = threading.Event()
        self.request = StackRequest({})
        self.stack = Stack(home, {})
        self._keepers: list[ServiceKeeper] = []
        self._states: dict[str, ServiceState] = {}
        self._writing = threading.Lock()

    def run(self) -> None:
        """Keep the services running; return once `end` is set."""
        while not self.end.wait(LOOK_S):
            request = read_request(self.home)
            if request.number != self.request.number and request.ports:
                self._take(request)
        for keeper in self._keepers:
            keeper.starting.acquire()  # a process that is being started gets into the registry

    def set_state(self, name: str, **changes: object) -> None:
        """Note and write what has changed of a service."""
        with self._writing:
            before = self._states.get(name) or ServiceState(name, "", self.stack.ports[name])
            now = replace(before, **changes)  # type: ignore[arg-type]
            if now.state != before.state:
                now = replace(now, since=datetime.now(UTC).isoformat(timespec="seconds"))
                say(f"{name}: {now.state}" + (f": {now.health}" if now.health else ""))
            if now != before:
                self._states[name] = now
                write_states(self.home, self.request.number, self._states.values())

    def restarts(self, name: str) -> int:
        """Return how often a service was started again."""
        return self._states[name].restarts

    def is_healthy(self, name: str) -> bool:
        """Return whether a service answers; one that is not of the stack is no hindrance."""
        state = self._states.get(name)
        return name not in self.stack or (state is not None and state.state == HEALTHY)

    def note_healthy(self) -> None:
        """Let clients find Kafka and the registry, once both answer."""
        if not all(map(self.is_healthy, BOTH)):
            return
        with locked(services_lock(self.home)):
            services = read_running_services(self.home)
            if services.started is None:
                write_running_services(self.home, services.all_started())

    def _take(self, request: StackRequest) -> None:
        before, settings = set(self._states), read_settings({"home": self.home})
        with self._writing:
            self.stack = Stack(self.home, request.ports, settings.alert_webhook_url)
            self.request = request
            write_states(self.home, request.number, self._states.values())
        for name in self.specs:
            if name in self.stack and name not in before:
                self.set_state(name, state="waiting")
                keeper = ServiceKeeper(self, self.specs[name])
                self._keepers.append(keeper)
                threading.Thread(target=keeper.run, name=name, daemon=True).start()


class ServiceKeeper:
    """Starts one service, asks it, and starts it again when it died or answers no more."""

    def __init__(self, supervisor: Supervisor, spec: ServiceSpec) -> None:
        self.starting = threading.Lock()
        self._supervisor = supervisor
        self._spec = spec
        self._limits = supervisor.limits
        self._restarts: deque[float] = deque()
        self._has_answered = False
        self._number = supervisor.request.number
        self._command: list[object] = []

    def run(self) -> None:
        """Keep it running until the supervisor ends."""
        process = self._adopt()
        while not self._supervisor.end.is_set():
            process = process or self._start_in_turn()
            why = None if process is None else self._watch(process)
            process = None
            if why is not None and why and not self._may_restart(why):
                self._fail(why)

    def _adopt(self) -> ChildProcess | None:
        """Take over the process that an earlier supervisor left; end one that it did not note."""
        entry = read_running_services(self._supervisor.home).running(self._spec.name)
        stray = unregistered(self._supervisor.stack.folder(self._spec.name))
        if stray is not None and (entry is None or entry.pid != stray.pid):
            stop(stray)
        return None if entry is None else entry.process

    def _start_in_turn(self) -> ChildProcess | None:
        """Start it once the services answer that come before it; None if that never was."""
        while not all(map(self._supervisor.is_healthy, self._spec.after)):
            if self._supervisor.end.wait(LOOK_S):
                return None
        with self.starting:
            if self._supervisor.end.is_set():
                return None
            self._set(state="starting", health="", pid=None)
            return self._start()

    def _start(self) -> ChildProcess:
        home, stack = self._supervisor.home, self._supervisor.stack
        self._command = self._command_of(stack)
        server = make_server(self._spec, stack)
        server.folder.mkdir(exist_ok=True)
        process = server.start(self._supervisor.programs)
        entry = StartedService(server.port, process.pid, process.birth)
        with locked(services_lock(home)):
            write_running_services(home, read_running_services(home).with_entry(server.key, entry))
        return process

    def _watch(self, process: ChildProcess) -> str | None:
        """Return why it must be started again, "" where nothing is wrong; None at the end."""
        self._set(pid=process.pid)
        answered, was_healthy, ask_at = time.monotonic(), False, 0.0
        while not self._supervisor.end.wait(LOOK_S):
            if not alive(process):
                return "ended"
            if self._has_new_command():
                stop(process, grace_s=self._spec.stop_s)
                return ""
            if time.monotonic() < ask_at:
                continue
            ask_at = time.monotonic() + self._limits.ask_s
            server = make_server(self._spec, self._supervisor.stack)
            if server.answers() if was_healthy else server.ready():
                answered, was_healthy = time.monotonic(), True
                self._has_answered = True
                self._set(state=HEALTHY, health=self._spec.question)
                self._supervisor.note_healthy()
                continue
            silent = time.monotonic() - answered
            limit = self._limits.silent_s if was_healthy else self._limits.start_s
            if silent > limit:
                stop(process, grace_s=self._limits.end_s)
                return f"gave no answer for {limit:g} s and was ended"
            if was_healthy and silent > self._limits.ask_s and alive(process):
                self._set(state="silent", health=f"{self._spec.question}: no answer")
        return None

    def _has_new_command(self) -> bool:
        """Where services were added, write its files; return whether it must be started anew."""
        stack, number = self._supervisor.stack, self._supervisor.request.number
        if number == self._number:
            return False
        self._number = number
        self._spec.prepare(stack)
        before, self._command = self._command, self._command_of(stack)
        return bool(before) and before != self._command

    def _command_of(self, stack: Stack) -> list[object]:
        return [*self._spec.command(stack), self._spec.environment(stack)]

    def _may_restart(self, why: str) -> bool:
        """Wait a little and count the restart; return False where there were too many."""
        limits, now = self._limits, time.monotonic()
        while self._restarts and self._restarts[0] < now - limits.within_s:
            self._restarts.popleft()
        if len(self._restarts) >= self._most_restarts:
            return False
        self._restarts.append(now)
        total = self._supervisor.restarts(self._spec.name) + 1
        count = f"restart {len(self._restarts)} of {self._most_restarts} in {limits.within_s:g} s"
        self._set(state="restarting", health=f"{why}; {count}", pid=None, restarts=total)
        waits = delays(limits.first_s, limits.cap_s)
        wait_s = [next(waits) for _ in self._restarts][-1]
        self._supervisor.end.wait(wait_s)
        return True

    @property
    def _most_restarts(self) -> int:
        return self._limits.restarts if self._has_answered else self._limits.first_restarts

    def _fail(self, why: str) -> None:
        """Say that it has failed, and wait for the next `k2 up`."""
        limits = self._limits
        reason = f"{why} after {self._most_restarts} restarts in {limits.within_s:g} s"
        self._set(state=FAILED, health=f"{reason}: k2 up tries again", pid=None)
        while not self._supervisor.end.wait(LOOK_S):
            if self._supervisor.request.number != self._number:
                self._number = self._supervisor.request.number
                self._restarts.clear()
                return

    def _set(self, **changes: object) -> None:
        self._supervisor.set_state(self._spec.name, **changes)


def say(text: str) -> None:
    """Write a line into the supervisor's log."""
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")
    sys.stdout.flush()


def main() -> None:
    """Keep the services of the home named first; the Java programs lie in the folder named next."""
    home, cache = map(Path, sys.argv[1:])
    supervisor = Supervisor(home, fetch_servers(cache))
    signal.signal(signal.SIGTERM, lambda number, frame: supervisor.end.set())
    supervisor.run()


if __name__ == "__main__":
    main()

"""The processes of a chaos run: started, killed, stopped, started again, and how they progress."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from bench.chaos_proxy import HOST
from k2lib.ops.processes import ChildProcess, alive, stop
from k2lib.ops.servers import LocalServer

END_S: Final = 40.0
RESTART_S: Final = 0.3
PROBE_S: Final = 0.3

Progress = Callable[[], object]


class Victim(Protocol):
    """What faults are done to."""

    name: str

    @property
    def pid(self) -> int | None:
        """Its process, None while it has none."""

    def tick(self) -> None:
        """Start it again where it has ended."""

    def killed(self) -> None:
        """Note that its end is wanted."""

    def progress(self) -> object:
        """Return what changes when it gets on; None where nothing can be said now."""

    def end(self) -> None:
        """End it for good."""


@dataclass
class Program:
    """A command that runs for ever, or again and again with a pause between.

    Attributes:
        look: says how far it is; without it that is the number of runs that ended well.
        stderr: the last lines of runs that ended by themselves, and not well.
    """

    name: str
    command: list[str]
    folder: Path
    environment: Mapping[str, str]
    look: Progress | None = None
    again_s: float = RESTART_S
    done: int = 0
    failed: list[str] = field(default_factory=list)
    _child: subprocess.Popen[bytes] | None = None
    _killed: bool = False
    _ended_at: float = float("-inf")

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def log(self) -> Path:
        """What it printed, all its runs one after the other."""
        return self.folder / f"{self.name.replace(' ', '-')}.log"

    def progress(self) -> object:
        return self.done if self.look is None else self.look()

    def tick(self) -> None:
        if self._child is not None and (code := self._child.poll()) is not None:
            self._note_end(code)
        if self._child is None and time.monotonic() - self._ended_at >= self.again_s:
            self.start()

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._killed = False

    def killed(self) -> None:
        """Note that its end is wanted."""
        self._killed = True

    def run_once(self, seconds: float) -> int:
        """Let it end by itself and run it once more, whole; return its exit code."""
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
            self.end()
        self.start()
        assert self._child is not None
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            self.end()

    def end(self) -> None:
        if self._child is None:
            return
        if self._child.poll() is None:
            self.killed()
            self._child.send_signal(signal.SIGCONT)
            self._child.send_signal(signal.SIGINT)
            try:
                self._child.wait(END_S)
            except subprocess.TimeoutExpired:
                self.failed.append(f"did not end within {END_S:g} s of Ctrl-C")
                self._child.send_signal(signal.SIGUSR1)  # the reader prints where it is
                self._child.kill()
                self._child.wait()
        self._child = None

    def _note_end(self, code: int) -> None:
        self._ended_at = time.monotonic()
        self._child = None
        if code == 0:
            self.done += 1
        elif not self._killed:
            lines = self.log.read_text(errors="replace").splitlines() or [""]
            self.failed.append(f"exit code {code}: {lines[-1][:200]}")


@dataclass
class Service:
    """Kafka or the registry: a process that is no child of ours."""

    name: str
    start: Callable[[], ChildProcess]
    look: Progress
    server: LocalServer
    failed: list[str] = field(default_factory=list)
    process: ChildProcess | None = None
    _killed: bool = False

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and alive(self.process) else None

    def progress(self) -> object:
        return self.look()

    def killed(self) -> None:
        """Note that its end is wanted."""
        self._killed = True

    def tick(self) -> None:
        if self.pid is not None:
            return
        if self.process is not None and not self._killed:
            self.failed.append("ended by itself")
        self.process, self._killed = self.start(), False

    def end(self) -> None:
        if (pid := self.pid) is not None and self.process is not None:
            os.kill(pid, signal.SIGCONT)
            stop(self.process)


def answers(port: int, request: bytes, begin: bytes) -> Progress:
    """Return a probe: the time of an answer that begins so, None without one."""

    def probe() -> object:
        try:
            with socket.create_connection((HOST, port), timeout=PROBE_S) as connection:
                connection.sendall(request)
                return time.monotonic() if connection.recv(100).startswith(begin) else None
        except OSError:
            return None

    return probe


def free_ports(count: int) -> list[int]:
    """Return ports below those that the system gives to clients, where nobody listens."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), k=1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            break
    return found

"""Start, watch and stop child processes that outlive the command which started them."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from k2lib.errors import ConfigError, TransientError

HOST = "127.0.0.1"
# Below the ephemeral range: a client that retries on a closed ephemeral port can connect to itself.
FREE_PORTS = range(20_000, 32_000)
LOG_TAIL_LINES = 8
STOP_GRACE_S = 20.0
KILL_GRACE_S = 10.0
POLL_S = 0.05
# The shell ends at once, so that init reaps the child and no parent has to. The file has the pid
# even if whoever started the shell is killed before it reads it.
_LAUNCH = '"$@" </dev/null >log 2>&1 & echo $! >pid; cat pid'


@dataclass(frozen=True)
class ChildProcess:
    """A process that was started here; its birth distinguishes it from a later one of its pid."""

    pid: int
    birth: str


def birth(pid: int) -> str | None:
    """Return when the process began, as the system writes it; None if it is gone or a zombie."""
    if not Path("/proc/self/stat").exists():
        return _birth_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _birth_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return answer.partition(" ")[2] if answer and not answer.startswith("Z") else None


def alive(process: ChildProcess) -> bool:
    """Return whether this very process still runs."""
    return birth(process.pid) == process.birth


def spawn(
    command: list[str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> ChildProcess:
    """Start a command in a session of its own; it writes to `log`, the log before to `log.1`.

    Args:
        environment: all variables that it has; those of this process without it.
    """
    log = folder / "log"
    if log.exists():
        log.replace(folder / "log.1")
    shell = ["/bin/sh", "-c", _LAUNCH, "sh", *command]
    done = subprocess.run(
        shell,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    pid = int(done.stdout)
    return ChildProcess(pid, birth(pid) or "gone")


def unregistered(folder: Path) -> ChildProcess | None:
    """Return the process that `spawn` started in a folder, if it runs there still.

    It finds what was started just before its starter was killed; None where there is no /proc.
    """
    try:
        pid = int((folder / "pid").read_text())
        is_there = Path(f"/proc/{pid}/cwd").resolve(strict=True) == folder.resolve()
    except (OSError, ValueError):
        return None
    born = birth(pid)
    return ChildProcess(pid, born) if is_there and born is not None else None


def stop(process: ChildProcess, *, grace_s: float = STOP_GRACE_S) -> bool:
    """End a process and wait until it is gone.

    Returns:
        True if SIGTERM ended it, False if it needed SIGKILL.
    Raises:
        TransientError: SIGKILL does not end it either.
    """
    if _gone_after(process, signal.SIGTERM, grace_s):
        return True
    if _gone_after(process, signal.SIGKILL, KILL_GRACE_S):
        return False
    raise TransientError(f"process {process.pid} does not end, not even by SIGKILL: try again")


def _gone_after(process: ChildProcess, number: signal.Signals, wait_s: float) -> bool:
    if not alive(process):
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    return wait_for(lambda: not alive(process), wait_s)


def wait_for(condition: Callable[[], bool], wait_s: float) -> bool:
    """Wait until a condition is true, at most for `wait_s`; return whether it became true."""
    end = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


def tail(log: Path, *, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of a log, or a note that it is empty."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.rstrip().splitlines()[-lines:]) or "(its log is empty)"


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Pick a port that nothing listens on."""
    for port in random.sample(FREE_PORTS, k=100):
        if is_free(port):
            return port
    raise ConfigError(f"no free port between {FREE_PORTS.start} and {FREE_PORTS.stop} on {HOST}")

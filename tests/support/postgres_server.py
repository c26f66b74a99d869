"""A real PostgreSQL on loopback, run by a user who may do nothing else."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from support.redis_server import free_port
from support.waiting import wait_until

# Debian keeps the programs of each version beside each other, outside PATH.
DEBIAN = Path("/usr/lib/postgresql")
USER, PASSWORD = "k2", "postgres-secret-9e"
SYSTEM_USER = "postgres"


class PostgresServer:
    """A server with a user of ours, from now to its end.

    Its folder is no other test's: whoever runs it may not enter those of root.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._as_user: dict[str, Any] = _as_user()
        self._folder = Path(tempfile.mkdtemp(prefix="k2-postgres-"))
        if self._as_user:
            shutil.chown(self._folder, SYSTEM_USER)
        self._process: subprocess.Popen[bytes] | None = None
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run("initdb", "-D", "data", "-U", USER, "-A", "scram-sha-256", "--pwfile=password")
        password.unlink()

    def uri(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        """Return the address of a database as a catalog has it."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", "data", *settings],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._as_user,
            )
        wait_until(self._answers)

    def stop(self) -> None:
        """End it at once, with the connections to it; one that does not run stays so."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: its processes end without a checkpoint
            self._process.wait()
            self._process = None

    def make_database(self, name: str) -> str:
        """Make a database and return its address."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.uri(name)

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "postgres ended"
        try:
            psycopg.connect(self.uri(), connect_timeout=60).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [_program(name), *arguments],
            cwd=self._folder,
            check=True,
            capture_output=True,
            timeout=120,
            **self._as_user,
        )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


def _as_user() -> dict[str, Any]:
    """Return how to start a process as another user where this one is root, whom it refuses."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam(SYSTEM_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _program(name: str) -> str:
    found = [*sorted(DEBIAN.glob(f"*/bin/{name}")), shutil.which(name)]
    assert found[0] is not None, f"{name} is missing: make debian"
    return str(found[0])

"""The services of a home: kept running, started again when they die or hang, ended to the last."""

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import yaml
from support.documents import OPERATIONS_DOC, rows, section
from support.lake_audit import audit as lake_audit
from support.paths import CACHE, ROOT
from support.waiting import wait_until

from k2lib import K2
from k2lib.audit import audit
from k2lib.cli.home import SERVICES
from k2lib.errors import ConfigError, K2Error
from k2lib.ops import processes, services
from k2lib.ops.jars import JavaPrograms
from k2lib.ops.logs import find_log, follow, last_lines
from k2lib.ops.servers import http_answer
from k2lib.ops.service_specs import CHOICES, SPECS, ServiceSpec, Stack
from k2lib.ops.stack import (
    ServiceState,
    StackRequest,
    read_stack_status,
    start_stack,
    write_request,
)
from k2lib.ops.supervisor import Supervisor, SupervisorLimits
from k2lib.settings import read_settings

JAVA = CACHE / "java"
QUICK = SupervisorLimits(ask_s=0.05, first_s=0.01, cap_s=0.02)
NO_JAVA = JavaPrograms("java", Path("kafka"), Path("registry"))


def pages(name: str, *options: str) -> ServiceSpec:
    """Return a service that serves its folder as pages."""

    def command(stack: Stack) -> list[str]:
        server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
        return [*server, *options, str(stack.ports[name])]

    return ServiceSpec(name, name, "python", "Python", 0, "GET /", 16, command=command)


class Watched:
    """A supervisor in a thread of this process, with services of a test's own."""

    def __init__(self, home: Path, specs: Mapping[str, ServiceSpec]) -> None:
        self.home = home
        self.ports = {name: processes.free_port() for name in specs}
        self.specs = specs
        self.number = 0

    @contextlib.contextmanager
    def running(self, limits: SupervisorLimits = QUICK) -> Iterator[None]:
        """Keep the services running for a while; they outlive it."""
        supervisor = Supervisor(self.home, NO_JAVA, specs=self.specs, limits=limits)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            yield
        finally:
            supervisor.end.set()
            thread.join()

    def ask_for(self, *names: str) -> None:
        """Ask for services, as `k2 up` does."""
        self.number += 1
        # An entry keeps the request valid, as the supervisor's own does.
        entry = services.StartedService(0, 0, "gone")
        found = services.read_running_services(self.home).with_entry(services.SUPERVISOR, entry)
        services.write_running_services(self.home, found)
        write_request(self.home, StackRequest({n: self.ports[n] for n in names}, self.number))

    def state(self, name: str) -> ServiceState | None:
        """Return how the supervisor sees a service now."""
        return read_states(self.home).get(name)

    def wait_for(self, name: str, state: str, *, restarts: int = 0) -> ServiceState:
        """Wait until a service is in a state, after so many restarts."""
        wait_until(lambda: is_so(self.state(name), state, restarts))
        found = self.state(name)
        assert found is not None
        return found


def read_states(home: Path) -> dict[str, ServiceState]:
    """Return the states that a supervisor wrote last."""
    file = home / "run" / "stack-states.json"
    values = json.loads(file.read_text())["services"] if file.exists() else []
    return {one["name"]: ServiceState(**one) for one in values}


def is_so(found: ServiceState | None, state: str, restarts: int) -> bool:
    """Say whether a service is in a state, after so many restarts."""
    return found is not None and (found.state, found.restarts) == (state, restarts)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Make a home with services; end all of them after the test."""
    (tmp_path / "run").mkdir()
    (tmp_path / "services").mkdir()
    yield lambda *specs: Watched(tmp_path, {spec.name: spec for spec in specs})
    services.down(tmp_path)


def test_a_service_that_dies_is_started_again_and_counted(
    watched: Callable[..., Watched],
) -> None:
    home = watched(pages("web"))
    home.ask_for("web")
    with home.running():
        first = home.wait_for("web", "healthy")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        second = home.wait_for("web", "healthy", restarts=1)
    assert second.pid not in (None, first.pid) and second.port == first.port


def test_a_service_that_hangs_is_ended_and_started_again(watched: Callable[..., Watched]) -> None:
    home = watched(pages("web"))
    home.ask_for("web")
    with home.running(replace(QUICK, silent_s=1.0, end_s=0.1)):
        pid = home.wait_for("web", "healthy").pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: (found := home.state("web")) is not None and found.restarts > 0)
        wait_until(lambda: (found := home.state("web")) is not None and found.state == "healthy")
    assert processes.birth(pid) is None


def test_a_service_that_always_dies_has_failed_until_the_next_up(
    watched: Callable[..., Watched],
) -> None:
    home = watched(pages("web", "--no-such-option"))
    home.ask_for("web")
    with home.running():
        failed = home.wait_for("web", "failed", restarts=2)
        assert failed.health == "ended after 2 restarts in 600 s: k2 up tries again"
        home.ask_for("web")
        home.wait_for("web", "failed", restarts=4)
    assert "no-such-option" in "\n".join(last_lines(find_log(home.home, "web"), lines=50))


def test_a_service_that_dies_again_and_again_has_failed(watched: Callable[..., Watched]) -> None:
    home = watched(pages("web"))
    home.ask_for("web")
    with home.running(replace(QUICK, restarts=3)):
        for times in range(4):
            pid = home.wait_for("web", "healthy", restarts=times).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        assert "after 3 restarts" in home.wait_for("web", "failed", restarts=3).health


def test_a_service_is_healthy_once_its_answer_shows_that_it_works(
    watched: Callable[..., Watched],
) -> None:
    home = watched(replace(pages("web"), shows=b"ready.txt"))
    home.ask_for("web")
    with home.running():
        home.wait_for("web", "starting")
        wait_until(lambda: http_answer(home.ports["web"], "/", within_s=60)[0] == 200)
        assert home.wait_for("web", "starting").health == ""
        (home.home / "services" / "web" / "ready.txt").touch()
        home.wait_for("web", "healthy")


def test_a_new_supervisor_takes_over_what_runs(watched: Callable[..., Watched]) -> None:
    home = watched(pages("web"))
    home.ask_for("web")
    with home.running():
        first = home.wait_for("web", "healthy")
    (home.home / "run" / "stack-states.json").unlink()
    with home.running():
        assert home.wait_for("web", "healthy").pid == first.pid


def test_a_service_that_is_added_starts_and_one_with_new_options_starts_anew(
    watched: Callable[..., Watched],
) -> None:
    plain, other = pages("web"), pages("web", "--protocol=HTTP/1.1")
    spec = replace(
        plain, command=lambda stack: (other if "other" in stack else plain).command(stack)
    )
    home = watched(spec, pages("other"), pages("third"))
    home.ask_for("web", "third")
    with home.running():
        first, third = home.wait_for("web", "healthy"), home.wait_for("third", "healthy")
        home.ask_for("web", "third", "other")
        home.wait_for("other", "healthy")
        wait_until(lambda: (found := home.state("web")) is not None and found.pid != first.pid)
        home.wait_for("web", "healthy")
        assert home.wait_for("third", "healthy").pid == third.pid


def test_a_service_waits_for_those_before_it(watched: Callable[..., Watched]) -> None:
    home = watched(pages("first", "--no-such-option"), replace(pages("next"), after=("first",)))
    home.ask_for("first", "next")
    with home.running():
        home.wait_for("first", "failed", restarts=2)
        home.wait_for("next", "waiting")


def test_down_ends_what_was_started_but_not_noted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "services" / "web").mkdir(parents=True)
    process = processes.spawn(["sleep", "60"], folder=tmp_path / "services" / "web")
    assert [one.pid for one in services.down(tmp_path)] == [process.pid]
    assert not processes.alive(process)


def test_a_log_is_followed_over_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "services" / "web" / "log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n")

    def restart(seconds: float) -> None:
        log.replace(log.with_name("log.1"))
        log.write_text("three\n")

    assert last_lines(find_log(tmp_path, "web"), lines=1) == ["two"]
    assert next(follow(log, pause=restart)) == "three"
    assert last_lines(log, lines=2) == ["two", "three"]


@pytest.mark.parametrize(
    ("names", "ports", "message"),
    [
        (["redis", "nosuch"], {}, "no service nosuch; there are kafka, registry, s3, "),
        ([], {"nosuch": 1}, "no service nosuch; "),
    ],
)
def test_an_unknown_service_is_named_with_the_known_ones(
    tmp_path: Path, names: list[str], ports: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start_stack(read_settings({"home": tmp_path / "home"}), names, ports=ports)
    assert not (tmp_path / "home").exists()


def test_missing_programs_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as told:
        start_stack(read_settings({"home": tmp_path}), ["redis", "prometheus"], ports={})
    text = str(told.value)
    assert "redis-server (Debian: redis-server); prometheus (Debian: prometheus)" in text
    assert "\n" not in text


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    settings = read_settings({"home": tmp_path})
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = {"kafka": 0, "registry": 0, "redis": port}
        with pytest.raises(ConfigError, match=f"port {port} for Redis is in use .*--port redis=0"):
            start_stack(settings, ["redis"], ports=ports, jar_cache=JAVA)


def test_a_running_service_keeps_its_port(watched: Callable[..., Watched]) -> None:
    home = watched(pages("web")).home
    process = processes.spawn(["sleep", "60"], folder=home / "services")
    entry = services.StartedService(20001, process.pid, process.birth)
    services.write_running_services(home, services.RunningServices({"redis": entry}))
    ports = {"kafka": 0, "registry": 0, "redis": 20002}
    with pytest.raises(ConfigError, match="--port redis=20002: it has port 20001: `k2 down` first"):
        start_stack(read_settings({"home": home}), ["redis"], ports=ports, jar_cache=JAVA)


@pytest.mark.parametrize(
    ("option", "message"),
    [("redis", "--port redis: write NAME=PORT"), ("redis=99999", "--port redis=99999: write NAME")],
)
def test_a_wrong_port_is_one_line(
    run: Callable[..., tuple[int, str, str]], option: str, message: str
) -> None:
    code, _, err = run("up", "--port", option)
    assert code == 1 and message in err


def test_the_log_of_an_unknown_service_is_one_line(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "home" / "services" / "redis").mkdir(parents=True)
    (tmp_path / "home" / "services" / "redis" / "log").touch()
    code, _, err = run("logs", "nosuch")
    assert code == 1 and "no log of nosuch in the home " in err and "there are redis" in err


def test_the_services_of_the_documents_are_those_that_are_specified() -> None:
    told = {row[0]: row[1:] for row in rows(section(OPERATIONS_DOC, "Services"))}
    assert told == {
        f"`{spec.name}`": [
            f"`{spec.program}`",
            spec.package,
            str(spec.port),
            spec.question,
            ", ".join(spec.after),
            f"{spec.memory_mb}",
        ]
        for spec in SPECS.values()
    }
    assert SERVICES.split(", ") == list(CHOICES)


def test_the_containers_are_limited_to_what_the_services_may_take() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {name: megabytes(compose[name]["mem_limit"]) for name in SPECS} == {
        spec.name: spec.memory_mb for spec in SPECS.values()
    }


def test_the_containers_publish_the_ports_of_the_services() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    published = {name: compose[name].get("ports", []) for name in SPECS}
    for name, told in published.items():
        if told:
            assert any(f"-{SPECS[name].port}}}:" in one for one in told), (name, told)
    assert sum(map(bool, published.values())) > 5


def megabytes(text: str) -> int:
    """Return a size as Compose writes it, in MB."""
    return int(text[:-1]) * {"m": 1, "g": 1024}[text[-1]]


NAMES = ("redis", "exchange", "sink", "stream", "api", "alertmanager", "prometheus")


def stored(home: Path) -> int:
    """Return how many trades the audit finds in the lake."""
    found = lake_audit(home)
    return 0 if found is None else len(found.column())


@pytest.mark.stack
@pytest.mark.slow
def test_each_killed_service_comes_back_the_audit_holds_and_down_leaves_nothing(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    settings = read_settings({"home": tmp_path / "home"})
    home, ports = settings.home, dict.fromkeys(("kafka", "registry", *NAMES), 0)
    try:
        started = start_stack(settings, NAMES, ports=ports, jar_cache=JAVA)
        assert {one.state for one in started.services} == {"healthy"}
        wait_until(lambda: stored(home) > 0, 120)
        for name in ("kafka", "registry", *NAMES):
            killed = state_of(home, name)
            assert killed.pid is not None
            os.kill(killed.pid, signal.SIGKILL)
            wait_until(lambda name=name, killed=killed: is_back(home, name, killed), 120)
        wait_until(lambda: all(one.state == "healthy" for one in states(home)), 120)
        assert all(one.restarts >= 1 for one in states(home))
        code, out, _ = run("status", "--json")
        told = json.loads(out)["stack"]["services"]
        assert (code, {one["name"] for one in told}) == (0, set(ports))
        before = stored(home)
        wait_until(lambda: stored(home) > before, 120)
        # It reads the file of its targets some seconds after it answers.
        url = f"http://127.0.0.1:{state_of(home, 'prometheus').port}/api/v1/targets"
        wait_until(lambda: len(httpx2.get(url).json()["data"]["activeTargets"]) == 3)
        report = audit(home)
        assert report.first_difference is None, report.first_difference
        found = services.read_running_services(home).entries
        os.kill(found[services.SUPERVISOR].pid, signal.SIGKILL)
    finally:
        services.down(home)
    assert not [one for one in found.values() if one.is_running]
    assert all(processes.is_free(one.port) for one in started.services)
    assert not [one for one in Path("/proc").glob("[0-9]*") if is_in(one, home)]


@pytest.mark.stack
@pytest.mark.slow
def test_a_lake_in_the_object_store_outlives_its_kill_and_its_keys_are_in_two_files_alone(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    settings = read_settings({"home": tmp_path / "home"})
    home, names = settings.home, ("s3", "exchange", "sink", "stream")
    ports = dict.fromkeys(("kafka", "registry", *names, *SPECS["s3"].more_ports), 0)
    try:
        start_stack(settings, names, ports=ports, jar_cache=JAVA)
        wait_until(lambda: rows_of(home) > 0, 120)
        killed = state_of(home, "s3")
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: is_back(home, "s3", killed), 120)
        before = rows_of(home)
        wait_until(lambda: rows_of(home) > before, 120)
        report = audit(home)
        assert report.first_difference is None, report.first_difference
        secret = secret_of(home)
        assert not [one for one in Path("/proc").glob("[0-9]*") if tells(one, secret)]
        for name in (services.SUPERVISOR, "s3"):  # it takes half a minute to end by itself
            os.kill(services.read_running_services(home).entries[name].pid, signal.SIGKILL)
    finally:
        services.down(home)
    holding = [one for one in home.rglob("*") if one.is_file() and secret in one.read_bytes()]
    assert {file.name for file in holding} == {"s3.json", "catalog.yml"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in holding} == {0o600}
    code, out, err = run("status")
    assert code == 1 and "which does not run: start it by `k2 up --with s3`" in err
    assert "Kafka" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "has its tables in catalog.db"),
        ({"catalog_uri": "http://127.0.0.1:1"}, "K2_CATALOG_URI and --with s3 name two catalogs"),
    ],
)
def test_a_home_has_one_lake(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    (tmp_path / "catalog.db").touch()
    with pytest.raises(ConfigError, match=message):
        start_stack(read_settings({"home": tmp_path, **settings}), ["s3"], ports={})


def rows_of(home: Path) -> int:
    """Return how many trades K2 finds in the lake; -1 while it is out of reach."""
    try:
        with K2.open(home=home) as k2:
            return int(k2.sql("select count(*) from lake.trades_v2").item())
    except K2Error:
        return -1


def secret_of(home: Path) -> bytes:
    """Return the secret of a home's object store."""
    (identity,) = json.loads((home / "services/s3/s3.json").read_text())["identities"]
    return str(identity["credentials"][0]["secretKey"]).encode()


def tells(process: Path, secret: bytes) -> bool:
    """Say whether a process has a secret in its command line or its variables."""
    try:
        return any(secret in (process / name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False


def states(home: Path) -> tuple[ServiceState, ...]:
    """Return how each service of a home is."""
    status = read_stack_status(home)
    assert status is not None
    return status.services


def state_of(home: Path, name: str) -> ServiceState:
    """Return how one service of a home is."""
    return next(one for one in states(home) if one.name == name)


def is_back(home: Path, name: str, killed: ServiceState) -> bool:
    """Say whether a killed service was started again; of some, whether it answers."""
    now = state_of(home, name)
    must_answer = name in ("kafka", "registry", "s3")
    return now.pid not in (None, killed.pid) and (now.state == "healthy" or not must_answer)


def is_in(process: Path, home: Path) -> bool:
    """Say whether a process works in a folder of a home."""
    try:
        return (process / "cwd").resolve(strict=True).is_relative_to(home.resolve())
    except OSError:
        return False

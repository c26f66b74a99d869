import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from support.paths import CACHE
from support.waiting import wait_until

from k2lib import K2
from k2lib.client import choose_kafka
from k2lib.errors import ConfigError, OwnerError, TransientError
from k2lib.kafka.embedded import EmbeddedBroker
from k2lib.ops import jars, processes, services
from k2lib.ops.services import Services
from k2lib.settings import read_settings

JAVA = CACHE / "java"
LONG = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}'
TEXT = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}'


def up(home: Path, *, kafka_port: int = 0, jar_cache: Path = JAVA) -> Services:
    return services.up(home, kafka_port=kafka_port, registry_port=0, jar_cache=jar_cache)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose services the tests below share; each test brings up what it needs."""
    folder = tmp_path_factory.mktemp("services") / "home"
    yield folder
    services.down(folder)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], processes.ChildProcess]]:
    """Start shell lines as processes of their own and end them after the test."""
    with contextlib.ExitStack() as stack:

        def start(line: str) -> processes.ChildProcess:
            process = processes.spawn(["/bin/sh", "-c", line], folder=tmp_path)
            stack.callback(processes.stop, process, grace_s=0.0)
            return process

        yield start


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_a_moved_home_has_its_services_and_a_copy_has_none(
    tmp_path: Path, child: Callable[[str], processes.ChildProcess]
) -> None:
    process = child("exec sleep 60")
    entry = services.StartedService(1, process.pid, process.birth)
    written = services.RunningServices({"kafka": entry})
    (tmp_path / "home" / "run").mkdir(parents=True)
    services.write_running_services(tmp_path / "home", written)
    copy = Path(shutil.copytree(tmp_path / "home", tmp_path / "copy"))
    moved = (tmp_path / "home").rename(tmp_path / "moved")
    assert services.read_running_services(moved) == written
    assert services.read_running_services(copy) == services.RunningServices()
    assert services.down(copy) == []
    assert processes.alive(process)


def write_killed(home: Path, *, port: int) -> None:
    """Write what `up` left in a home whose processes are gone, as after a restart of a machine."""
    entry = services.StartedService(port, os.getpid(), "another time")
    (home / "run").mkdir(parents=True, exist_ok=True)
    services.write_running_services(
        home, services.RunningServices({"kafka": entry, "registry": entry}).all_started()
    )


def test_killed_services_count_until_they_are_ended(tmp_path: Path) -> None:
    write_killed(tmp_path, port=1)
    settings = read_settings({"home": tmp_path})
    assert str(choose_kafka(settings)) == "Kafka local services (127.0.0.1:1)"
    assert services.down(tmp_path) == []
    assert choose_kafka(settings).mode == "embedded"


def test_a_failing_up_leaves_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    write_killed(tmp_path, port=1)
    before = services.read_running_services(tmp_path)
    with pytest.raises(ConfigError):
        up(tmp_path, jar_cache=tmp_path / "cache")
    assert services.read_running_services(tmp_path) == before


def test_nobody_connects_to_the_port_of_killed_services(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        write_killed(tmp_path, port=other.getsockname()[1])
        other.settimeout(0)
        with K2.open(home=tmp_path) as k2:
            told = k2.complete_to("trades_v2").reason
            with pytest.raises(TransientError, match="`k2 up`"):
                assert k2.pipeline
        with pytest.raises(BlockingIOError):
            other.accept()
    assert told is not None and f"of the home {tmp_path} at 127.0.0.1:" in told


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, value)
    assert producer.flush(60) == 0


def first_value(bootstrap: str, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(60)
    consumer.close()
    return message.value() if message else None


def test_home_without_services_has_none_running(tmp_path: Path) -> None:
    seen = services.status(tmp_path)
    assert services.running(tmp_path) is None
    assert services.down(tmp_path) == []
    assert not (seen.kafka.running or seen.registry.running or seen.kafka.disk_bytes)


def test_up_is_refused_while_an_embedded_owner_lives(tmp_path: Path) -> None:
    with closing(EmbeddedBroker(tmp_path)), pytest.raises(OwnerError) as told:
        up(tmp_path)
    assert f"this process serves {tmp_path} with its embedded broker" in str(told.value)
    assert services.running(tmp_path) is None


def test_missing_java_and_maven_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = r"(?s)PATH: Java 17 or newer .*openjdk-17.*conda.*Maven 3.8 .*apt-get install maven"
    with pytest.raises(ConfigError, match=wanted) as told:
        up(tmp_path / "home", jar_cache=tmp_path / "cache")
    assert "\n" not in str(told.value)


def test_missing_maven_alone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "java", """echo 'openjdk version "17.0.15"' >&2""")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConfigError, match="not found on PATH: Maven"):
        up(tmp_path / "home", jar_cache=tmp_path / "cache")


def test_old_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "java", """echo 'java version "1.8.0_402"' >&2""")
    program(tmp_path / "bin", "mvn", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConfigError, match="bin/java is Java 8: install Java 17 or newer"):
        up(tmp_path / "home", jar_cache=tmp_path / "cache")


def test_failing_download_tells_what_maven_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "java", """echo 'openjdk version "21"' >&2""")
    program(tmp_path / "bin", "mvn", "echo '[ERROR] unknown host'; echo '[ERROR] -X'; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConfigError, match=r"is there a network\? unknown host$"):
        up(tmp_path / "home", jar_cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/servers"))


def test_process_that_took_over_a_pid_is_left_alone(
    tmp_path: Path, child: Callable[[str], processes.ChildProcess]
) -> None:
    other = child("exec sleep 60")
    entry = {"port": 1, "pid": other.pid, "birth": "another time"}
    (tmp_path / "run").mkdir()
    ledger = {"kafka": entry, "registry": entry, "started": "2014-03-10T00:00:00+00:00"}
    (tmp_path / "run" / "services.json").write_text(json.dumps(ledger))
    assert services.running(tmp_path) is None
    assert services.down(tmp_path) == []
    assert processes.alive(other)


def test_process_that_ignores_sigterm_is_killed(
    child: Callable[[str], processes.ChildProcess], tmp_path: Path
) -> None:
    stubborn = child("trap '' TERM; echo ready; while :; do sleep 1; done")
    assert processes.wait_for(lambda: "ready" in processes.tail(tmp_path / "log"), 10)
    assert processes.stop(stubborn, grace_s=0.2) is False
    assert not processes.alive(stubborn)


@pytest.mark.stack
def test_up_twice_keeps_the_processes(home: Path) -> None:
    first = up(home)
    assert up(home) == first == services.running(home)


@pytest.mark.stack
def test_status_tells_pids_addresses_and_disk_use(home: Path) -> None:
    running = up(home)
    seen = services.status(home)
    assert (seen.kafka.pid, seen.kafka.address) == (running.kafka_pid, running.bootstrap)
    assert (seen.registry.pid, seen.registry.address) == (
        running.registry_pid,
        running.registry_url,
    )
    assert seen.kafka.answers and seen.registry.answers
    assert 10_000 < seen.kafka.disk_bytes < 50_000_000
    assert json.loads(json.dumps(seen.to_json()))["registry"]["running"] is True


@pytest.mark.stack
def test_services_listen_on_one_loopback_address_only(home: Path) -> None:
    running = up(home)
    ports = [int(running.bootstrap.rpartition(":")[2]), urlsplit(running.registry_url).port]
    for port in ports:
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.2", port))


@pytest.mark.stack
def test_registry_refuses_an_incompatible_schema(home: Path) -> None:
    with SchemaRegistryClient({"url": up(home).registry_url}) as registry:
        registry.register_schema("refused-value", Schema(LONG, "AVRO"))
        with pytest.raises(SchemaRegistryError) as told:
            registry.register_schema("refused-value", Schema(TEXT, "AVRO"))
    assert told.value.http_status_code == 409


@pytest.mark.stack
def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* in use .* K2_KAFKA_PORT"):
            up(tmp_path, kafka_port=port)
    assert not (tmp_path / "run" / "services.json").exists()


@pytest.mark.stack
def test_killed_broker_comes_back_once_where_it_was(home: Path) -> None:
    before = up(home)
    produce(before.bootstrap, "killed", b"kept")
    os.kill(before.kafka_pid, signal.SIGKILL)
    wait_until(lambda: processes.birth(before.kafka_pid) is None)
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(up, [home, home])
    assert one == other
    assert one.kafka_pid != before.kafka_pid
    assert (one.bootstrap, one.registry_pid) == (before.bootstrap, before.registry_pid)
    assert first_value(one.bootstrap, "killed") == b"kept"


@pytest.mark.stack
def test_messages_and_schemas_survive_down_and_up(home: Path) -> None:
    before = up(home)
    produce(before.bootstrap, "survivors", b"kept")
    with SchemaRegistryClient({"url": before.registry_url}) as registry:
        number = registry.register_schema("survivors-value", Schema(LONG, "AVRO"))
    services.down(home)
    after = up(home)
    with SchemaRegistryClient({"url": after.registry_url}) as registry:
        assert registry.get_latest_version("survivors-value").schema_id == number
    assert first_value(after.bootstrap, "survivors") == b"kept"


@pytest.mark.stack
def test_down_leaves_no_process_behind(home: Path) -> None:
    before = up(home)
    stopped = {one.name: one.pid for one in services.down(home)}
    assert stopped == {"registry": before.registry_pid, "kafka": before.kafka_pid}
    assert processes.birth(before.kafka_pid) is processes.birth(before.registry_pid) is None
    assert not (home / "run" / "services.json").exists()
    assert services.down(home) == []


@pytest.mark.stack
def test_failed_start_is_undone_and_quotes_the_log(tmp_path: Path) -> None:
    real = jars.fetch_servers(JAVA)
    broken = tmp_path / "cache" / real.kafka.parent.relative_to(JAVA)
    (broken / "registry").mkdir(parents=True)
    (broken / "kafka").symlink_to(real.kafka)
    (broken / "registry" / "apicurio-registry-app-0-runner.jar").touch()
    with pytest.raises(ConfigError, match=r"(?s)registry ended while it started.*corrupt jarfile"):
        up(tmp_path / "home", jar_cache=tmp_path / "cache")
    assert not (tmp_path / "home" / "run" / "services.json").exists()
    assert processes.is_free(_kafka_port(tmp_path / "home"))


def _kafka_port(home: Path) -> int:
    text = (home / "services" / "kafka" / "server.properties").read_text()
    return int(text.partition("BROKER://127.0.0.1:")[2].partition(",")[0])

"""What runs in a chaos run: Kafka, registry, Redis, exchange and programs, each behind a proxy."""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from bench.chaos_check import newest_metadata
from bench.chaos_faults import TICK_S, Chaos
from bench.chaos_processes import Program, Progress, Service, answers, free_ports
from bench.chaos_proxy import HOST, Proxies, Proxy
from bench.homes import new_home
from bench.measure import SYMBOLS
from k2lib.ops.jars import default_cache, fetch_servers
from k2lib.ops.servers import REGISTRY_PATH, KafkaServer, LocalServer, RegistryServer, await_ready
from k2lib.simulator import write_samples

BEGIN_S: Final = 120.0
COMMIT_S: Final = 0.5
RATE: Final = 50
TRADES: Final = 400


@dataclass(frozen=True)
class Lab:
    """All that runs in one chaos run."""

    home: Path
    files: Path
    chaos: Chaos
    load: Program
    programs: list[Program]
    services: list[Service]
    exchange_port: int
    bootstrap: str
    registry_url: str
    environment: Mapping[str, str]

    def last_ids(self) -> dict[str, int]:
        """Return the last id of each symbol that the exchange has made."""
        with urlopen(f"http://{HOST}:{self.exchange_port}/control/truth", timeout=5) as answer:
            truth: Any = json.load(answer)
        return {symbol: int(one["last_id"]) for symbol, one in truth.items()}


@contextmanager
def lab(build: Path, *, seed: int, jar_cache: Path | None) -> Iterator[Lab]:
    """Start everything; end it by its pids."""
    draw = random.Random(seed)
    with new_home(build.resolve(), f"bench-chaos-{seed}") as folder, ExitStack() as undo:
        home, files, logs = folder / "home", folder / "asx", build.resolve() / "chaos" / str(seed)
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        ports = dict(zip(("kafka", "registry", "redis", "exchange"), _pairs(), strict=True))
        write_samples(files, seed=seed, companies=2, days=1, trades_per_day=TRADES)
        proxies = undo.enter_context(Proxies())
        open_ = {
            name: proxies.open(target, port=port, draw=draw)
            for name, (target, port) in ports.items()
        }
        commit = partial(newest_metadata, home)
        services = _services(folder, ports, jar_cache or default_cache(), commit)
        for service in services:
            undo.callback(service.end)
            service.tick()
            _await(service)
        environment = _environment(home, ports)
        programs = _programs(logs, home, files, ports, environment)
        for program in programs:
            undo.callback(program.end)
        stream = next(one for one in programs if one.name == "stream")
        links: dict[str, tuple[Proxy, Progress]] = {
            "network of Kafka": (open_["kafka"], commit),
            "network of the registry": (open_["registry"], commit),
            "network of Redis": (open_["redis"], stream.progress),
            "network of the exchange": (open_["exchange"], stream.progress),
        }
        chaos = Chaos([*services, *programs[:-2]], links, draw=draw)
        _wait_for_first(chaos, commit, stream.progress)
        for program in programs[-2:]:
            chaos.join(program)
        yield Lab(
            home,
            files,
            chaos,
            load=next(one for one in programs if one.name == "load"),
            programs=programs,
            services=services,
            exchange_port=ports["exchange"][0],
            bootstrap=f"{HOST}:{ports['kafka'][1]}",
            registry_url=f"http://{HOST}:{ports['registry'][0]}{REGISTRY_PATH}",
            environment=environment,
        )


def _pairs() -> list[tuple[int, int]]:
    found = free_ports(8)
    return list(zip(found[::2], found[1::2], strict=True))


def _wait_for_first(chaos: Chaos, *facts: Progress) -> None:
    deadline = time.monotonic() + BEGIN_S
    while not all(fact() is not None for fact in facts):
        chaos.tick()
        assert time.monotonic() < deadline, f"no first commit within {BEGIN_S:g} s"
        time.sleep(TICK_S)


def _services(
    folder: Path, ports: Mapping[str, tuple[int, int]], cache: Path, commit: Progress
) -> list[Service]:
    jars = fetch_servers(cache)
    kafka = KafkaServer(folder / "services" / "kafka", *ports["kafka"])
    registry = RegistryServer(
        folder / "services" / "registry", ports["registry"][0], bootstrap=kafka.address
    )
    get = f"GET {REGISTRY_PATH}/config HTTP/1.0\r\n\r\n".encode()
    looks = {"broker": commit, "registry": answers(registry.port, get, b"HTTP/1")}
    servers: tuple[LocalServer, LocalServer] = (kafka, registry)
    for server in servers:
        server.folder.mkdir(parents=True)
    return [
        Service(name, partial(server.start, jars), look, server)
        for (name, look), server in zip(looks.items(), servers, strict=True)
    ]


def _await(service: Service) -> None:
    assert service.process is not None
    await_ready(service.server, service.process)


def _environment(home: Path, ports: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    inherited = {name: one for name, one in os.environ.items() if not name.startswith("K2_")}
    exchange, redis, kafka, registry = (
        f"{HOST}:{ports[name][1]}" for name in ("exchange", "redis", "kafka", "registry")
    )
    return inherited | {
        "K2_HOME": str(home),
        "K2_KAFKA_BOOTSTRAP": kafka,
        "K2_SCHEMA_REGISTRY_URL": f"http://{registry}{REGISTRY_PATH}",
        "K2_REDIS_URL": f"redis://{redis}/0",
        "K2_BINANCE_WS_URLS": f"ws://{exchange}",
        "K2_BINANCE_REST_URLS": f"http://{exchange}",
        "K2_COMMIT_INTERVAL_S": str(COMMIT_S),
    }


def _programs(
    logs: Path,
    home: Path,
    files: Path,
    ports: Mapping[str, tuple[int, int]],
    environment: Mapping[str, str],
) -> list[Program]:
    k2 = [sys.executable, "-m", "k2lib"]
    commit = partial(newest_metadata, home)
    other = {
        **environment,
        "K2_HOME": str(home.with_name("other")),
        "K2_CATALOG_URI": f"sqlite:///{home / 'catalog.db'}?timeout=30",
        "K2_WAREHOUSE": f"file://{home / 'warehouse'}",
    }
    symbols, port = ",".join(SYMBOLS), str(ports["exchange"][0])
    exchange = ["simulate", "binance", "--symbols", symbols, "--rate", str(RATE), "--port", port]
    redis = ["redis-server", "--port", str(ports["redis"][0]), "--bind", HOST, "--save", ""]
    feed = partial(last_time, home / "run" / "feed.json")

    def program(name: str, *words: str, look: Progress | None = None, **options: Any) -> Program:
        env = options.pop("env", environment)
        return Program(name, [*k2, *words], logs, env, look, **options)

    return [
        Program("Redis", redis, logs, environment, answers(ports["redis"][0], b"PING\r\n", b"+")),
        program("exchange", *exchange, look=feed),
        program("stream", "stream", "binance", "--symbols", symbols, look=feed),
        program("sink", "sink", look=commit),
        program("load", "load", "asx", str(files), again_s=1.0),
        Program(
            "reader",
            [sys.executable, "-m", "bench.chaos_reader"],
            logs,
            environment,
            partial(size_of, logs / "reader.log"),
        ),
        # Last: these two need the home and the catalog of the others.
        program("maintenance", "maintain", again_s=2.0),
        program("sink of another home", "sink", look=commit, env=other),
    ]


def last_time(status: Path) -> object:
    """Return the newest trade's time that a stream has told of; None where it has told of none."""
    try:
        symbols = json.loads(status.read_bytes())["status"]["symbols"]
    except (OSError, ValueError):
        return None
    return max((one["last_time"] for one in symbols if one["last_time"]), default=None)


def size_of(log: Path) -> object:
    """Return how much was printed so far."""
    return log.stat().st_size if log.exists() else None

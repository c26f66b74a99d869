"""Frames a second, and CPU from the socket until Kafka has acknowledged, beside two others.

The others: receiving alone, and cryptofeed with its Kafka back end. Each reads the same streams
of the same exchange, one after the other, and finds its frames waiting: all go as fast as they can.
Run: python -m bench.live_frames [FRAMES]
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka.admin import AdminClient

from bench.homes import kafka_in, new_home
from bench.live_exchange import exchange
from bench.live_peer import Peer, choose_peer
from bench.measure import CONNECTED, SYMBOLS, Figure, machine, median_of
from k2lib.client import K2
from k2lib.kafka.topics import create_topics, topic_name
from k2lib.schema.records import TRADE
from k2lib.settings import read_settings

FRAMES = 300_000
ROUNDS = 3
RATE = 25_000
LIMIT_S = 120.0
PEER_TOPICS = ("trades-BINANCE-BTC-USDT", "trades-BINANCE-ETH-USDT")
TOPIC = topic_name("crypto", "trades", "BINANCE_SIM")


def run(build: Path, *, frames: int = FRAMES, rounds: int = ROUNDS) -> list[str]:
    """Measure in rounds and return the report's lines."""
    peer, python = choose_peer(build / "peers")
    with new_home(build, "bench-live") as home, kafka_in(home) as services:
        done = [_round(home, services.bootstrap, peer, python, frames) for _ in range(rounds)]
    return [machine(), *_report(done, frames, peer)]


def _round(home: Path, bootstrap: str, peer: Peer, python: Path, frames: int) -> dict[str, Figure]:
    ours = Path(sys.executable)
    _empty(bootstrap)
    figures = {
        "bare": _measure("bench.live_bare", ours, home, bootstrap, frames),
        "k2": _measure("bench.live_feed", ours, home, bootstrap, frames),
    }
    _check(home, figures["k2"].rows)
    theirs = _measure(peer.module, python, home, bootstrap, frames, peer.part)
    return {**figures, "cryptofeed": theirs}


def _measure(
    module: str, python: Path, home: Path, bootstrap: str, frames: int, part: int = 1
) -> Figure:
    """Run a client on an exchange of its own that keeps its frames until there are enough.

    Args:
        part: of so many frames it gets one, at that part of the rate.
    """
    environment = {
        **os.environ,
        "K2_HOME": str(home),
        "BOOTSTRAP": bootstrap,
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    with exchange(RATE / part, home) as one:
        environment |= {"SSL_CERT_FILE": one.ca, "REQUESTS_CA_BUNDLE": one.ca}
        command = [str(python), "-m", module, one.ws, one.rest, str(frames // part)]
        with subprocess.Popen(
            command, env=environment, stdin=PIPE, stdout=PIPE, text=True
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            limit = threading.Timer(LIMIT_S, child.kill)
            limit.start()
            if child.stdout.readline() == f"{CONNECTED}\n":
                one.hold(frames / RATE)
                time.sleep(frames / RATE)
            output, _ = child.communicate("go\n")
            limit.cancel()
    if child.returncode:
        raise RuntimeError(f"{module} ended with {child.returncode}")
    (figure,) = (Figure(**fields) for fields in json.loads(output))
    return figure


def _check(home: Path, rows: int) -> None:
    """See that Kafka has every id between the first and the last, once each."""
    with K2(read_settings({"home": home}), with_sinks=False) as k2:
        trades = k2.pipeline.unread(TOPIC, TRADE)
    assert trades.num_rows >= rows, f"{trades.num_rows} of {rows} trades in Kafka"
    for symbol in SYMBOLS:
        ids = trades.filter(pc.equal(trades["symbol"], symbol))["source_sequence"]
        assert _count(ids) == len(ids) == len(pc.unique(ids)), f"{symbol}: ids are missing"


def _count(ids: pa.ChunkedArray) -> int:
    ends = pc.min_max(ids).as_py()
    return int(ends["max"] - ends["min"] + 1)


def _report(rounds: list[dict[str, Figure]], frames: int, peer: Peer) -> list[str]:
    middle = {
        way: median_of([one[way] for one in rounds], lambda figure: figure.us_per_row)
        for way in rounds[0]
    }
    rates = sorted(one["k2"].rows / one["k2"].wall_s for one in rounds)
    return [
        f"{frames:,} waiting frames of {len(SYMBOLS)} symbols; k2lib: every id in Kafka, once",
        *(f"{one}, {one.us_per_row / 10:.2f} CPU-s per 100,000" for one in middle.values()),
        f"{rates[len(rates) // 2]:,.0f} frames/s (goal 50,000); rounds: {_join(rates, ',.0f')}",
        _ratio("of bare receiving per CPU-second (goal 0.4)", rounds, "bare"),
        _ratio(f"times {peer.packages[0]} per CPU-second (goal {peer.goal})", rounds, "cryptofeed"),
    ]


def _ratio(name: str, rounds: list[dict[str, Figure]], way: str) -> str:
    """Compare within each round, because the machine's speed drifts from one to the next."""
    values = sorted(one[way].us_per_row / one["k2"].us_per_row for one in rounds)
    return f"{values[len(values) // 2]:.2f} {name}; rounds: {_join(values, '.2f')}"


def _join(values: list[float], form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def _empty(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    names = admin.list_topics(timeout=10).topics
    topics = [name for name in names if name.startswith(("market.", "trades-"))]
    for done in admin.delete_topics(topics).values() if topics else ():
        done.result()
    create_topics(admin, PEER_TOPICS)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES
    print("\n".join(run(Path("build"), frames=count)))

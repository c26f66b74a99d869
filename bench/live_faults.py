"""Minutes of random faults under a live feed, and then every id of the exchange accounted for.

On the embedded broker and on Kafka. Run: python -m bench.live_faults [SECONDS] [SEED]
"""

import sys
import time
from pathlib import Path

from bench.homes import kafka_in, new_home
from bench.measure import SYMBOLS, machine
from k2lib import K2
from k2lib.feed.options import FeedOptions, StreamLimits
from k2lib.notebook.venue import offline_venue
from k2lib.query.engine import Engine
from k2lib.simulator import OfflineExchange, chaos

SECONDS = 300.0
RATE = 100.0
LOOK_S = 0.5
EXPLAINED_S = 120.0
QUICK = FeedOptions(
    limits=StreamLimits(first_delay_s=0.5, longest_delay_s=5.0, stale_s=2.0, breaker_rest_s=3.0),
    upgrade_s=5.0,
)
IDS = """
    SELECT source_sequence FROM lake.trades_v2
    WHERE symbol = ? AND source_sequence <= ? ORDER BY source_sequence
"""


def run(build: Path, *, seconds: float = SECONDS, seed: int = 1) -> list[str]:
    """Run both and return the report's lines; a trade that is missing or twice is an error."""
    with new_home(build, "bench-faults") as home:
        embedded = verify(home, "embedded", seconds, seed)
    with new_home(build, "bench-faults") as home, kafka_in(home):
        kafka = verify(home, "Kafka", seconds, seed)
    title = f"{machine()}; {seconds:g} s of all the faults at random times, seed {seed}"
    return [title, embedded, kafka]


def verify(home: Path, kafka: str, seconds: float, seed: int) -> str:
    """Stream under faults until the lake explains every id, and compare with the exchange's ids."""
    script = chaos(seed, seconds, hosts=2)
    with (
        OfflineExchange(SYMBOLS, rate=RATE, hosts=2, script=script) as exchange,
        K2.open(home=home) as k2,
        k2.feed(SYMBOLS, venue=offline_venue(exchange), options=QUICK) as feed,
    ):
        feed.wait(seconds)
        exchange.fault("heal")
        last = {symbol: exchange.truth(symbol).last_id for symbol in SYMBOLS}
        _wait_for(k2, last)
        found = [_account(k2.engine, exchange, symbol, last[symbol]) for symbol in SYMBOLS]
        gaps = k2.sql("SELECT state, count(*) AS n FROM gaps GROUP BY ALL ORDER BY ALL")
        reconnects = feed.status().reconnects
    gap_counts = ", ".join(f"{count} {state}" for state, count in gaps.iter_rows())
    title = f"{kafka}: {len(script)} faults, {reconnects} reconnects"
    return f"{title}, gaps {gap_counts}; {'; '.join(found)}"


def _wait_for(k2: K2, last: dict[str, int]) -> None:
    deadline = time.monotonic() + EXPLAINED_S
    while True:
        counted = k2.contiguity()
        rows = {row["symbol"]: row for row in counted.iter_rows(named=True)}
        if all(
            rows[symbol]["last_id"] >= end and not rows[symbol]["unexplained"]
            for symbol, end in last.items()
        ):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not explained after {EXPLAINED_S:g} s: {counted.to_dicts()}")
        time.sleep(LOOK_S)


def _account(engine: Engine, exchange: OfflineExchange, symbol: str, last: int) -> str:
    ids = engine.sql(IDS, [symbol, last])["source_sequence"].to_list()
    void = exchange.truth(symbol).void
    made = set(range(ids[0], last + 1)) - void
    if len(ids) != len(set(ids)) or set(ids) != made:
        lost, twice = len(made - set(ids)), len(ids) - len(set(ids))
        raise AssertionError(f"{symbol}: {lost} lost, {twice} twice, of {len(made)}")
    never = len([one for one in void if ids[0] <= one <= last])
    return f"{symbol} {len(made):,} ids, each once, {never} never published"


if __name__ == "__main__":
    chosen_s = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    chosen_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print("\n".join(run(Path("build"), seconds=chosen_s, seed=chosen_seed)))

"""Processes of one lake killed, stopped and cut off at random; afterwards all is accounted for.

On a Kafka, a registry and a Redis of its own: a load, a stream from the offline exchange, a sink, a
sink of another home, a reader and maintenance. Checked without k2lib, see `bench.chaos_check`.
What each printed stays in build/chaos/SEED. Run: python -m bench.chaos --seed N --minutes M
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from bench.chaos_check import check, missing_ids, read_log, unreferenced
from bench.chaos_lab import Lab, lab
from bench.chaos_processes import Program
from bench.measure import load_average, machine

SETTLE_S: Final = 20.0
LEAST_S: Final = 10.0
HEAL_S: Final = 120.0
LOOK_S: Final = 1.0
GRACE_MINUTES: Final = 11
TRACEBACK: Final = b"Traceback (most recent call last)"


def run(build: Path, *, seed: int, minutes: float, jar_cache: Path | None = None) -> list[str]:
    """Do it, and return the report's lines.

    Raises:
        AssertionError: something is lost, twice, missing, or has not healed.
    """
    began, before = time.monotonic(), load_average()
    with lab(build, seed=seed, jar_cache=jar_cache) as one:
        set_up_s = time.monotonic() - began
        one.chaos.run(max(60 * minutes - SETTLE_S - set_up_s, LEAST_S))
        wrong = one.chaos.heal(HEAL_S)
        found, more = _settle_and_check(one)
        wrong += more
        failures = [f"{p.name}: {line}" for p in one.programs for line in p.failed]
        lines = [f"{name}: {tally}" for name, tally in one.chaos.tallies.items()]
        lines += [f"{p.name}: {p.done} runs ended well" for p in one.programs if p.done]
    n_faults = sum(sum(tally.faults.values()) for tally in one.chaos.tallies.values())
    title = f"seed {seed}: {n_faults} faults, {time.monotonic() - began:.0f} s in all"
    report = [machine(), f"before: {before}", title, *lines, *found, *failures]
    if wrong:
        raise AssertionError("\n".join([*report, "WRONG:", *wrong]))
    return [*report, "0 lost, 0 twice, offsets contiguous, no live file missing, none left over"]


def _settle_and_check(one: Lab) -> tuple[list[str], list[str]]:
    """Load once more, wait for the exchange's ids, end all programs, and check twice."""
    wrong: list[str] = []
    if (code := one.load.run_once(HEAL_S)) != 0:
        wrong.append(f"the last load ended with {code}: {_last_line(one.load.log)}")
    last = one.last_ids()
    deadline = time.monotonic() + HEAL_S
    while any(missing_ids(one.home, last).values()) and time.monotonic() < deadline:
        one.chaos.tick()
        time.sleep(LOOK_S)
    for program in reversed(one.programs):
        program.end()
    log = read_log(one.bootstrap, one.registry_url)
    found, more = check(one.home, last=last, files=one.files, log=log)
    later = _program("later", [sys.executable, "-m", "bench.chaos_later", str(GRACE_MINUTES)], one)
    if (code := later.run_once(HEAL_S)) != 0:
        wrong.append(f"maintenance at the end: {_last_line(later.log)}")
    _, after = check(one.home, last=last, files=one.files, log=log)
    left = unreferenced(one.home)
    wrong += [*more, *(f"after maintenance: {line}" for line in after if line not in more)]
    wrong += [f"{len(left)} files that nothing needs, first {left[0]}"] if left else []
    ended = [p.name for p in one.programs if TRACEBACK in p.log.read_bytes()]
    wrong += [f"a traceback in the log of {name}" for name in ended]
    return found, wrong


def _program(name: str, command: list[str], one: Lab) -> Program:
    return Program(name, command, one.load.folder, one.environment)


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").splitlines() or [""])[-1][:300]


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    chosen = parser.parse_args()
    print("\n".join(run(Path("build"), seed=chosen.seed, minutes=chosen.minutes)))


if __name__ == "__main__":
    main()

"""Processes of one lake killed, stopped and cut off at random; afterwards all is accounted for.

On a Kafka, a registry and a Redis of its own: a load, a stream from the offline exchange, a sink, a
sink of another home, a reader and maintenance. `k2lib.audit` counts what they leave behind.
What each printed stays in build/chaos/SEED. Run: python -m bench.chaos --seed N --minutes M
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from bench.chaos_check import missing_ids
from bench.chaos_lab import Lab, lab
from bench.chaos_processes import Program
from bench.measure import load_average, machine
from k2lib.audit import AuditReport, audit
from k2lib.settings import Settings

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
    before = _audit(one, grace_s=3600)
    wrong += _differences(before)
    later = _program("later", [sys.executable, "-m", "bench.chaos_later", str(GRACE_MINUTES)], one)
    if (code := later.run_once(HEAL_S)) != 0:
        wrong.append(f"maintenance at the end: {_last_line(later.log)}")
    after = _audit(one, grace_s=0)
    wrong += [f"after maintenance: {line}" for line in _differences(after)]
    wrong += [
        f"{symbol}: {missing} of the exchange's ids are lost"
        for symbol, missing in missing_ids(one.home, last).items()
        if missing
    ]
    ended = [p.name for p in one.programs if TRACEBACK in p.log.read_bytes()]
    wrong += [f"a traceback in the log of {name}" for name in ended]
    found = [f"audit: {report.summary}" for report in (before, after)]
    return [*found, *after.equations], wrong


def _audit(one: Lab, *, grace_s: float) -> AuditReport:
    settings = Settings(
        home=one.home, kafka_bootstrap=one.bootstrap, schema_registry_url=one.registry_url
    )
    return audit(settings, [one.files], grace_s=grace_s)


def _differences(report: AuditReport) -> list[str]:
    """Say what is different, and what was not checked: nothing may be."""
    return [
        f"{check.name}, {check.table}: {check.result}"
        for check in report.checks
        if check.state != "held"
    ]


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

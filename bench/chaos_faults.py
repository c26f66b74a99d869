"""Faults drawn at random: SIGKILL, SIGSTOP, network; and how long each victim takes to heal."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from bench.chaos_processes import Progress, Victim
from bench.chaos_proxy import FAULTS, Proxy

TICK_S: Final = 0.05
EVERY_S: Final = (0.2, 1.2)
STOP_S: Final = (0.3, 3.0)
FIRST_COMMIT_S: Final = 5.0
REST_S: Final = 3.0
# How often each is drawn; a broker or a registry takes seconds to come back.
WEIGHTS: Final = {"stream": 4, "sink": 5, "sink of another home": 3, "load": 3, "exchange": 2}


@dataclass(frozen=True)
class Pending:
    """A fault after which its victim has not yet got on."""

    since: float
    before: object
    progress: Progress


@dataclass
class Tally:
    """What was done to one victim, and how long it took at worst to get on again."""

    faults: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0

    def __str__(self) -> str:
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return f"{done or 'no fault'}; worst time to heal {self.worst_s:.1f} s"


class Chaos:
    """Draws faults, lets each victim heal, and measures how long that takes."""

    def __init__(
        self,
        victims: list[Victim],
        links: Mapping[str, tuple[Proxy, Progress]],
        *,
        draw: random.Random,
    ) -> None:
        self.victims = victims
        self.tallies = {name: Tally() for name in [*(one.name for one in victims), *links]}
        self._links = links
        self._draw = draw
        self._pending: dict[str, Pending] = {}
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._armed: dict[str, tuple[float, object]] = {}
        self._rests: dict[str, float] = {}

    def join(self, victim: Victim) -> None:
        """Take in one more."""
        self.victims.append(victim)
        self.tallies[victim.name] = Tally()

    def run(self, seconds: float) -> None:
        """Do faults for so long."""
        until, following = time.monotonic() + seconds, 0.0
        while (now := time.monotonic()) < until:
            self.tick()
            if now >= following:
                self._fault()
                following = now + self._draw.uniform(*EVERY_S)
            time.sleep(TICK_S)

    def heal(self, seconds: float) -> list[str]:
        """End all faults and wait until everyone has got on; name those that have not."""
        deadline = time.monotonic() + seconds
        self._armed.clear()
        while (self._pending or self._due) and time.monotonic() < deadline:
            self.tick()
            time.sleep(TICK_S)
        now = time.monotonic()
        return [
            f"{name} has not got on for {now - one.since:.0f} s"
            for name, one in self._pending.items()
        ]

    def tick(self) -> None:
        """Start what has ended, end faults that are over, and note who has got on."""
        now = time.monotonic()
        due = [one for one in self._due if one[0] <= now]
        self._due = [one for one in self._due if one[0] > now]
        for _, end in due:
            end()
        for victim in self.victims:
            victim.tick()
            self._kill_after_commit(victim, now)
        for name, one in list(self._pending.items()):
            value = one.progress()
            if value is not None and value != one.before:
                del self._pending[name]
                self.tallies[name].worst_s = max(self.tallies[name].worst_s, now - one.since)
                self._rests[name] = now + REST_S

    def _fault(self) -> None:
        free = [one for one in self.victims if one.name not in self._busy() and one.pid]
        links = [name for name in self._links if name not in self._busy()]
        choices: list[Victim | str] = [*free, *links]
        if not choices:
            return
        names = [one if isinstance(one, str) else one.name for one in choices]
        (chosen,) = self._draw.choices(choices, [WEIGHTS.get(name, 1) for name in names])
        if isinstance(chosen, str):
            self._cut(chosen)
        elif chosen.name in ("sink", "sink of another home") and self._draw.random() < 0.3:
            self._armed[chosen.name] = (time.monotonic() + FIRST_COMMIT_S, chosen.progress())
        elif self._draw.random() < 0.6:
            self._kill(chosen, "SIGKILL")
        else:
            self._stop(chosen)

    def _busy(self) -> set[str]:
        now = time.monotonic()
        resting = {name for name, until in self._rests.items() if until > now}
        return self._pending.keys() | self._armed.keys() | resting

    def _kill(self, victim: Victim, kind: str) -> None:
        if (pid := victim.pid) is not None:
            self._note(victim.name, kind, victim.progress)
            victim.killed()
            os.kill(pid, signal.SIGKILL)

    def _kill_after_commit(self, victim: Victim, now: float) -> None:
        armed = self._armed.get(victim.name)
        if armed is not None and (now > armed[0] or victim.progress() != armed[1]):
            del self._armed[victim.name]
            self._kill(victim, "SIGKILL after a commit")

    def _stop(self, victim: Victim) -> None:
        pid = victim.pid
        if pid is None:
            return
        self._note(victim.name, "SIGSTOP", victim.progress)
        os.kill(pid, signal.SIGSTOP)

        def resume() -> None:
            if victim.pid == pid:
                os.kill(pid, signal.SIGCONT)

        self._later(resume)

    def _cut(self, name: str) -> None:
        proxy, progress = self._links[name]
        mode = self._draw.choice(FAULTS)
        self._note(name, mode, progress)
        proxy.set(mode)
        self._later(partial(proxy.set, "pass"))

    def _later(self, end: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + self._draw.uniform(*STOP_S), end))

    def _note(self, name: str, kind: str, progress: Progress) -> None:
        self.tallies[name].faults[kind] += 1
        self._pending[name] = Pending(time.monotonic(), progress(), progress)

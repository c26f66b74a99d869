"""Which of several hosts to try next."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from k2lib.errors import ConfigError
from k2lib.resilience.breaker import Breaker, Circuit, Memory

BANNED: Final = (403, 451)
LIMITED: Final = (418, 429)
PAUSE_S: Final = 60.0


@dataclass(frozen=True)
class HostVerdict:
    """What a refusal says of a host: `lasting`, it will refuse for good; how long to rest it."""

    lasting: bool
    pause_s: float | None


def judge_status(status: int, retry_after: str | None) -> HostVerdict:
    """Decide by an HTTP status whether and when a host may be tried again.

    Args:
        retry_after: the header, if there was one; only seconds are understood.
    """
    asked_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    if status in LIMITED:
        return HostVerdict(lasting=False, pause_s=asked_s or PAUSE_S)
    return HostVerdict(lasting=status in BANNED, pause_s=asked_s)


def ignore_change(url: str, state: Circuit) -> None:
    """Listen to no change of a breaker."""


class Hosts:
    """Hosts in order of preference, with a breaker, a rest and perhaps a ban each.

    A change of a breaker, also that a rest is over, is reported within the next call.

    Args:
        urls: the preferred one first.
        clock: seconds; comparable from one process to the next where memories are kept.
        rest_s: how long an open breaker rests.
        memories: what an earlier process knew, by URL; of other URLs nothing is taken.
        on_change: called with the URL and its breaker's new state, once a change.
    Raises:
        ConfigError: there is no URL.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        clock: Callable[[], float],
        memories: Mapping[str, Memory] = MappingProxyType({}),
        rest_s: float = 30.0,
        on_change: Callable[[str, Circuit], None] = ignore_change,
    ) -> None:
        if not urls:
            raise ConfigError("there is no host to connect to; give at least one URL")
        self._clock = clock
        self._on_change = on_change
        self._breakers = {
            url: Breaker(rest_s=rest_s, clock=clock, memory=memories.get(url)) for url in urls
        }
        self._reported = dict.fromkeys(urls, Circuit.CLOSED)
        self._pauses: dict[str, float] = {}
        self._banned: dict[str, str] = {}
        # The hosts that failed since the last success, the newest failure last.
        self._failed: dict[str, None] = {}
        self._round: set[str] = set()

    @property
    def banned(self) -> Mapping[str, str]:
        """Return the reasons of the banned hosts, by URL."""
        return MappingProxyType(self._banned)

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """Return the breakers, by URL."""
        return MappingProxyType(self._breakers)

    def pick(self, *, without: Collection[str] = ()) -> str | None:
        """Choose the host of the next attempt, not one of `without`; None where none may be tried.

        One that has not failed since the last success comes first, then one whose breaker is
        closed, then the one whose failure is the oldest, then the order of the URLs.
        """
        self._tell_changes()
        ranked = sorted(filter(self._open_to_try, self._breakers), key=self._rank)
        chosen = (url for url in ranked if url not in without and self._breakers[url].allows())
        return next(chosen, None)

    def opens_in_s(self) -> float | None:
        """Say in how many seconds a host may be tried, 0 for now; None if all are banned."""
        self._tell_changes()
        now = self._clock()
        times = [self._opens_at(url) for url in self._breakers if url not in self._banned]
        return max(0.0, min(times) - now) if times else None

    def all_tried(self) -> bool:
        """Say whether each host that may be tried now has failed in this round.

        A round begins with `begin_round` and with each success.
        """
        return all(url in self._round for url in self._breakers if self._open_to_try(url))

    def begin_round(self) -> None:
        """Let each host be tried once more, as after a wait."""
        self._round.clear()

    def failed(self, url: str) -> None:
        """Count a failed attempt."""
        self._breakers[url].failed()
        self._failed.pop(url, None)
        self._failed[url] = None
        self._round.add(url)
        self._tell_changes()

    def succeeded(self, url: str) -> None:
        """Count a success, best when data has come, not when only a connection stands."""
        self._breakers[url].succeeded()
        self._failed.clear()
        self._round.clear()
        self._tell_changes()

    def answered(self, url: str) -> None:
        """Count an answer that is no data but shows that the host is well; it ends a trial too."""
        self._breakers[url].succeeded()
        self._tell_changes()

    def ban(self, url: str, reason: str) -> None:
        """Never choose this host again in this run."""
        self._banned.setdefault(url, reason)

    def pause(self, url: str, seconds: float) -> None:
        """Leave this host alone for so long, as it asked; a longer pause of it stays."""
        self._pauses[url] = max(self._pauses.get(url, 0.0), self._clock() + seconds)

    def _open_to_try(self, url: str) -> bool:
        return url not in self._banned and self._opens_at(url) <= self._clock()

    def _opens_at(self, url: str) -> float:
        return max(self._pauses.get(url, 0.0), self._breakers[url].retry_at or 0.0)

    def _rank(self, url: str) -> tuple[bool, bool, int]:
        failed = url in self._failed
        age = list(self._failed).index(url) if failed else 0
        return (failed, self._breakers[url].state is not Circuit.CLOSED, age)

    def _tell_changes(self) -> None:
        for url, breaker in self._breakers.items():
            if breaker.state is not self._reported[url]:
                self._reported[url] = breaker.state
                self._on_change(url, breaker.state)

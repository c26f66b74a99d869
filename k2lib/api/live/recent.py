"""Which ids came lately: a bounded memory, for streams that show each record once."""

from collections.abc import Sequence
from typing import Final

KEPT: Final = 100_000


class Recent:
    """Remembers at least the last so many ids, and at most twice as many."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._new: set[str] = set()
        self._old: set[str] = set()

    def are_new(self, ids: Sequence[str]) -> list[bool]:
        """Say of each whether it came for the first time, and remember all of them."""
        return [self._is_new(one) for one in ids]

    def _is_new(self, one: str) -> bool:
        if one in self._new or one in self._old:
            return False
        if len(self._new) >= self._kept:
            self._new, self._old = set(), self._new
        self._new.add(one)
        return True

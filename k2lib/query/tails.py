"""The tails of a process: one for each table that was asked for, on the Kafka there is now."""

import threading
from collections.abc import Callable
from typing import Final

from pyiceberg.table import Table

from k2lib.closing import Closing
from k2lib.errors import TransientError
from k2lib.lake.tables import TABLES
from k2lib.log.source import FindLog, LogSource, no_log
from k2lib.query.seen import Seen, of_lake
from k2lib.query.standing import NewestTimes, Standing
from k2lib.query.tail import Tail

ENDED: Final = "the log is no longer read: this was closed"


class Tails(Closing):
    """Starts a table's tail when it is first asked for, and another on another Kafka."""

    def __init__(self, load: Callable[[str], Table | None], find_log: FindLog) -> None:
        """Begin with none.

        Args:
            load: loads a table by its name, as it stands now.
            find_log: returns where the log is now; a TransientError says why there is none.
        """
        self._load = load
        self._find_log = find_log
        self._lock = threading.Lock()
        self._tails: dict[str, Tail] = {}
        self._ending: list[Tail] = []
        self._closed = False
        self._times = NewestTimes()

    def ask(self, name: str) -> Seen:
        """Return a table with what Kafka has beyond it; of the lake only where there is none."""
        try:
            tail = self._tail(name)
        except TransientError as exc:
            return self.of_lake(name, reason=str(exc))
        return tail.ask()

    def of_lake(
        self,
        name: str,
        *,
        reason: str | None = None,
        resolve: Callable[[Table], int] | None = None,
    ) -> Seen:
        """Return a table alone, as it stands, or at the snapshot that `resolve` finds."""
        table = self._load(name)
        at = None if table is None or resolve is None else resolve(table)
        standing = Standing.of(table, at)
        return of_lake(name, standing, self._times.of(standing), reason=reason)

    def close(self) -> None:
        """End all tails, for good."""
        with self._lock:
            self._closed = True
            ending, self._ending = [*self._ending, *self._tails.values()], []
            self._tails = {}
            # The way to the log leads back to who opened this.
            self._find_log = no_log
        for tail in ending:
            tail.stop()
        for tail in ending:
            tail.close()

    def _tail(self, name: str) -> Tail:
        with self._lock:
            if self._closed:
                raise TransientError(ENDED)
            try:
                source = self._find_log()
            except TransientError:
                self._end_all()
                raise
            tail = self._tails.get(name)
            if tail is None or not tail.runs or tail.source != source:
                self._end(name)
                tail = self._tails[name] = self._start(name, source)
            return tail

    def _start(self, name: str, source: LogSource) -> Tail:
        return Tail(TABLES[name], source, lambda: self._load(name), times=self._times)

    def _end_all(self) -> None:
        for name in list(self._tails):
            self._end(name)

    def _end(self, name: str) -> None:
        """No answer waits for a thread to end: that is for `close`."""
        tail = self._tails.pop(name, None)
        if tail is not None:
            tail.stop()
            self._ending = [one for one in self._ending if one.lives] + [tail]

"""How far each log was seen to go, kept in a home: so it can be said what a deleted topic took."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from k2lib.errors import TransientError
from k2lib.kafka.cluster import EMBEDDED
from k2lib.kafka.consumer import TopicPartition
from k2lib.locks import locked, replace_file

# Ends by log id and topic, and then partition.
Ends = dict[str, dict[str, dict[str, int]]]


class LogEnds:
    """A file of the highest offsets seen of each log; several processes may write it."""

    def __init__(self, run_folder: Path) -> None:
        """Begin; nothing is written before there is an end to note."""
        self._path = run_folder / "log-ends.json"
        self._noted: dict[tuple[str, TopicPartition], int] = {}

    def note(self, logs: Mapping[str, str], ends: Mapping[TopicPartition, int]) -> None:
        """Keep the ends that are higher than what is known.

        Args:
            logs: the log id of each topic.
        Raises:
            TransientError: the file cannot be written.
        """
        new = {
            (logs[tp.topic], tp): end
            for tp, end in ends.items()
            if not logs[tp.topic].startswith(EMBEDDED)
            and end > self._noted.get((logs[tp.topic], tp), 0)
        }
        if not new:
            return
        with self._changing() as all_ends:
            for (log, tp), end in new.items():
                partitions = all_ends.setdefault(log, {}).setdefault(tp.topic, {})
                partitions[str(tp.partition)] = max(end, partitions.get(str(tp.partition), 0))
        self._noted |= new

    def of_former_logs(self, topic: str, log: str) -> dict[str, dict[TopicPartition, int]]:
        """Return the ends of the logs that a topic had before this one, in the same cluster."""
        # A topic's id can have slashes itself, a cluster's cannot.
        cluster = log.partition("/")[0]
        return {
            former: {TopicPartition(topic, int(one)): end for one, end in topics[topic].items()}
            for former, topics in self._read().items()
            if topic in topics and former != log and former.partition("/")[0] == cluster
        }

    def forget(self, logs: Iterable[str]) -> None:
        """Drop what is known of these logs.

        Raises:
            TransientError: the file cannot be written.
        """
        gone = set(logs)
        if gone:
            with self._changing() as ends:
                for log in gone & ends.keys():
                    del ends[log]

    @contextmanager
    def _changing(self) -> Iterator[Ends]:
        """Read the file, and write it back as a whole, while no other process does."""
        try:
            with locked(self._path.with_suffix(".lock")):
                ends = self._read()
                yield ends
                replace_file(self._path, json.dumps(ends))
        except OSError as exc:
            raise TransientError(f"{self._path} cannot be written: {exc.strerror}") from exc

    def _read(self) -> Ends:
        try:
            ends: Ends = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return ends if isinstance(ends, dict) else {}

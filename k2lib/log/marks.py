"""Where topics end now, asked on a client of its own: a polling consumer answers late."""

from collections.abc import Callable
from typing import Final

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec

from k2lib.errors import TransientError
from k2lib.log.cluster import Cluster
from k2lib.log.reader import Place

ANSWER_S: Final = 1.0


class Marks:
    """Asks a cluster for high watermarks: two short requests, however many partitions."""

    def __init__(self, cluster: Cluster, *, timeout_s: float = ANSWER_S) -> None:
        self._admin = cluster.admin()
        self._timeout_s = timeout_s

    def ends(self, wanted: Callable[[str], bool]) -> dict[Place, int]:
        """Return the offset that the next record of each partition of the wanted topics will get.

        Raises:
            TransientError: the cluster does not answer.
        """
        try:
            topics = self._admin.list_topics(timeout=self._timeout_s).topics
            places = [
                TopicPartition(name, number)
                for name, told in topics.items()
                if wanted(name)
                for number in told.partitions
            ]
            return self._ends(places) if places else {}
        except KafkaException as exc:
            raise TransientError(f"Kafka does not answer: {exc.args[0].str()}") from exc

    def _ends(self, places: list[TopicPartition]) -> dict[Place, int]:
        told = self._admin.list_offsets(
            {place: OffsetSpec.latest() for place in places},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=self._timeout_s,
        )
        return {Place(one.topic, one.partition): end.result().offset for one, end in told.items()}

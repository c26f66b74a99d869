"""How a feed runs: every time and size that may be set, with the defaults of a production feed."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StreamLimits:
    """How a stream waits, and how many connection attempts it makes in a span.

    `life_s`: age at which a connection is replaced. `stale_s`: silence after which another host is
    tried. `hand_over_s`: how long an old connection goes on until the new one brings data.
    """

    first_delay_s: float = 5.0
    longest_delay_s: float = 30.0
    life_s: float = 23 * 3600 + 50 * 60
    stale_s: float = 30.0
    hand_over_s: float = 20.0
    breaker_rest_s: float = 30.0
    attempts: int = 300
    attempts_span_s: float = 300.0


@dataclass(frozen=True)
class FeedOptions:
    """How a feed runs.

    `linger_s` and `enough`: fewer frames than `enough` wait that long for others. `grace_s`: how
    long a hole may come from disorder. `most_ids`: a larger gap is left to the archive.
    `upgrade_s`: how often single trades are asked for where only aggregates were to be had.
    `first_connection_s`: how long the first connection may take, over all hosts.
    """

    quotes: bool = False
    limits: StreamLimits = field(default_factory=StreamLimits)
    queue_frames: int = 100_000
    linger_s: float = 0.005
    enough: int = 100
    grace_s: float = 0.5
    most_ids: int = 1_000_000
    upgrade_s: float = 60.0
    first_connection_s: float = 10.0

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of data that every symbol is subscribed for."""
        return ("trade", "quote") if self.quotes else ("trade",)

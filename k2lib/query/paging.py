"""Where a page ends: the place of a row in the order of events of its instrument."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from k2lib.lake.scan import text_sql

BEFORE_ALL: Final = -(2**63)


class Key(NamedTuple):
    """What orders the rows of one instrument; no two have the same."""

    timestamp: datetime
    source_sequence: int | None
    platform_sequence: int | None
    message_id: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the place of a row of trades or quotes."""
        return cls(*(row[name] for name in cls._fields))

    @property
    def behind_sql(self) -> str:
        """The rows behind this one, as an SQL condition."""
        time = f"TIMESTAMPTZ {text_sql(self.timestamp.isoformat())}"
        columns = "timestamp, " + ", ".join(
            f"coalesce({name}, {BEFORE_ALL})" for name in ("source_sequence", "platform_sequence")
        )
        values = ", ".join(
            str(BEFORE_ALL if number is None else int(number))
            for number in (self.source_sequence, self.platform_sequence)
        )
        return f"({columns}, message_id) > ({time}, {values}, {text_sql(self.message_id)})"

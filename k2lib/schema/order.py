"""The order of trades and quotes, the same in every read, replay and file."""

from collections.abc import Sequence
from typing import Final

# The order of trades and quotes everywhere, nulls first; no two rows are equal in it.
EVENT_ORDER: Final = (
    "timestamp",
    "exchange",
    "symbol",
    "source_sequence",
    "platform_sequence",
    "message_id",
)
# The same order among the rows of one instrument.
INSTRUMENT_ORDER: Final = tuple(name for name in EVENT_ORDER if name not in ("exchange", "symbol"))


def order_sql(columns: Sequence[str] = EVENT_ORDER, *, newest_first: bool = False) -> str:
    """Return the terms of an ORDER BY: oldest and nulls first, or exactly the reverse."""
    direction = "DESC NULLS LAST" if newest_first else "ASC NULLS FIRST"
    return ", ".join(f"{name} {direction}" for name in columns)

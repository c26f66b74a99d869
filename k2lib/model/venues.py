"""The venues' time zones: a trading date begins and ends by the venue's own clock."""

from typing import Final
from zoneinfo import ZoneInfo

UTC_ZONE: Final = ZoneInfo("UTC")
ZONES: Final = {
    "ASX": ZoneInfo("Australia/Sydney"),
    "ASX_SIM": ZoneInfo("Australia/Sydney"),
}


def zone(exchange: str) -> ZoneInfo:
    """Return the zone of a venue's trading dates: UTC for crypto, and for any unknown venue."""
    return ZONES.get(exchange, UTC_ZONE)

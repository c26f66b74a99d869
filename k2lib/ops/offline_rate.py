"""The rate at which the offline exchange of a home trades."""

import json
from pathlib import Path
from typing import Final

from k2lib.errors import ConfigError, DamagedFileError
from k2lib.locks import make_private
from k2lib.reasons import file_errors

RATE: Final = 50.0


def rate_of_home(home: Path, rate: float | None) -> float:
    """Return the rate at which a home's offline exchange trades: its ids follow from it.

    Args:
        rate: the requested one; None takes that of earlier runs, at first `RATE`.
    Raises:
        ConfigError: the home has trades of another rate.
    """
    kept = home / "run" / "offline.json"
    with file_errors(f"the home {home}"):
        before = _kept_rate(kept)
    if before is not None and rate not in (None, before):
        raise ConfigError(
            f"--rate {rate:g}: the offline exchange of {home} trades {before:g} a second, and its "
            f"ids follow from that; take --rate {before:g}, or another home by K2_HOME"
        )
    chosen = rate or before or RATE
    with file_errors(f"the home {home}"):
        make_private(kept.parent)
        kept.write_text(json.dumps({"rate": chosen}), encoding="utf-8")
    return float(chosen)


def _kept_rate(kept: Path) -> float | None:
    try:
        return float(json.loads(kept.read_bytes())["rate"]) if kept.exists() else None
    except (ValueError, LookupError, TypeError) as exc:
        raise DamagedFileError(
            f"{kept} is damaged: write {json.dumps({'rate': RATE})} into it, with the rate of the "
            "trades that the home has"
        ) from exc

"""What `k2 simulate binance` reads and tells: a script of faults, and how to reach the exchange."""

import json
from pathlib import Path
from typing import Any, Final

from k2lib.errors import ConfigError
from k2lib.simulator import FaultScript, GroundTruth, OfflineExchange

RATE: Final = 50.0
FORM: Final = '{"at_s": 5, "name": "stall", "host": 0, "s": 10}'


def read_script(path: Path) -> FaultScript:
    """Read faults to come: a JSON object a line, with seconds from the start, name and options.

    Raises:
        ConfigError: the file cannot be read, or a line is no such object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--script {path}: cannot be read: {exc}") from exc
    return [
        _fault(line, f"--script {path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def rate_of_home(home: Path, rate: float | None) -> float:
    """Return the rate at which a home's offline exchange trades: its ids follow from it.

    Args:
        rate: the one asked for; None takes that of the runs before, at first `RATE`.
    Raises:
        ConfigError: the home has trades of another rate.
    """
    kept = home / "run" / "offline.json"
    before = json.loads(kept.read_text(encoding="utf-8"))["rate"] if kept.exists() else None
    if before is not None and rate not in (None, before):
        raise ConfigError(
            f"--rate {rate:g}: the offline exchange of {home} trades {before:g} a second, and its "
            f"ids follow from that; take --rate {before:g}, or another home by K2_HOME"
        )
    chosen = rate or before or RATE
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"rate": chosen}), encoding="utf-8")
    return float(chosen)


def addresses(exchange: OfflineExchange) -> dict[str, Any]:
    """Return how an exchange is reached: the settings that name it, and where it takes faults."""
    return {
        "exchange": "BINANCE_SIM",
        "symbols": list(exchange.market.tapes),
        "K2_BINANCE_WS_URLS": ",".join(exchange.ws_urls),
        "K2_BINANCE_REST_URLS": ",".join(exchange.rest_urls),
        "control": f"{exchange.rest_urls[0]}/control/faults",
    }


def addresses_text(told: dict[str, Any]) -> str:
    """Say how an exchange is reached, to be copied into a shell."""
    return "\n".join(
        [
            f"{told['exchange']} trades {', '.join(told['symbols'])} until Ctrl-C; to stream it:",
            f"  export K2_BINANCE_WS_URLS={told['K2_BINANCE_WS_URLS']}",
            f"  export K2_BINANCE_REST_URLS={told['K2_BINANCE_REST_URLS']}",
            f"  k2 stream binance --symbols {','.join(told['symbols'])}",
            f"faults that there are, and those that hold: curl {told['control']}",
            "one to happen now:",
            f"  curl -H 'Content-Type: application/json' -d '{{\"name\": \"cut\"}}' "
            f"{told['control']}",
        ]
    )


def made(exchange: OfflineExchange) -> dict[str, dict[str, int]]:
    """Return the ids that an exchange has made so far, by symbol."""
    return {symbol: _ids(exchange.truth(symbol)) for symbol in exchange.market.tapes}


def _ids(truth: GroundTruth) -> dict[str, int]:
    return {"first_id": truth.first_id, "last_id": truth.last_id, "void": len(truth.void)}


def _fault(line: str, place: str) -> tuple[float, str, dict[str, Any]]:
    try:
        told = json.loads(line)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{place}: not JSON ({exc}); write {FORM}") from exc
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        raise ConfigError(f"{place}: no fault named; write {FORM}")
    at_s = told.pop("at_s", None)
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or at_s < 0:
        raise ConfigError(f"{place}: at_s={at_s!r} is no number of seconds; write {FORM}")
    return float(at_s), told.pop("name"), told

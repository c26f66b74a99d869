"""Commands that make data: `k2 simulate asx`, and `k2 simulate binance` with faults."""

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from k2lib.cli.shared import BOTH, AsJson, Seconds, Symbols, print_json
from k2lib.errors import ConfigError
from k2lib.reasons import file_errors, with_remedy

if TYPE_CHECKING:
    from k2lib.simulator import FaultScript, GroundTruth, OfflineExchange

FORM: Final = '{"at_s": 5, "name": "stall", "host": 0, "s": 10}'


def simulate_asx(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    companies: Annotated[int, typer.Option(help="Invented companies.")] = 3,
    days: Annotated[int, typer.Option(help="Trading days.")] = 2,
    trades_per_day: Annotated[int, typer.Option(help="Of the largest company.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Write ASX-shaped files of invented companies; they load as exchange ASX_SIM."""
    from k2lib.cli.terminal import samples_progress
    from k2lib.simulator import write_samples

    with samples_progress() as on_progress, file_errors(f"the folder {folder}"):
        summary = write_samples(
            folder,
            seed=seed,
            companies=companies,
            days=days,
            trades_per_day=trades_per_day,
            on_progress=on_progress,
        )
    if as_json:
        print_json({"folder": str(folder), "exchange": summary.exchange, "rows": summary.rows})
    else:
        typer.echo(f"{summary.rows:,} rows in {len(summary.files)} files in {folder}")


def simulate_binance(
    symbols: Symbols = BOTH,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the first host, others follow; 0: free ones.")
    ] = 9443,
    hosts: Annotated[int, typer.Option(min=1, help="Addresses that send the same trades.")] = 1,
    address: Annotated[
        str, typer.Option(help="To listen on: an address of this machine, or its name.")
    ] = "127.0.0.1",
    rate: Annotated[float, typer.Option(help="Trades a second of each symbol.")] = 50.0,
    seed: Annotated[int, typer.Option(help="Same seed and rate, same trades.")] = 7,
    first_id: Annotated[
        int | None, typer.Option(help="Of the first trade; from the clock else.")
    ] = None,
    life_s: Annotated[float, typer.Option(help="Age at which connections are cut.")] = 86_400.0,
    ping_s: Annotated[float, typer.Option(help="Between two pings.")] = 20.0,
    script: Annotated[
        Path | None, typer.Option(help="Faults to play, a JSON object a line.")
    ] = None,
    seconds: Seconds = None,
    as_json: AsJson = False,
) -> None:
    """Run an exchange that speaks as Binance does, with faults on demand, until Ctrl-C."""
    from k2lib.schema.identity import symbols_at
    from k2lib.simulator import BINANCE_SIM, OfflineExchange

    texts = [name.strip().upper() for name in symbols.split(",")]
    with OfflineExchange(
        symbols_at(BINANCE_SIM, texts),
        rate=rate,
        seed=seed,
        port=port,
        hosts=hosts,
        address=address,
        first_id=first_id,
        life_s=life_s,
        ping_s=ping_s,
        script=() if script is None else read_script(script),
    ) as exchange:
        urls = addresses(exchange)
        typer.echo(json.dumps(urls) if as_json else addresses_text(urls))
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait(seconds)
        made = made_ids(exchange)
    if as_json:
        typer.echo(json.dumps({"made": made}))
        return
    for symbol, ids in made.items():
        typer.echo(f"{symbol}: ids {ids['first_id']} to {ids['last_id']}, {ids['void']} left out")


def read_script(path: Path) -> "FaultScript":
    """Read a script of faults: a JSON object a line, with seconds from the start, name, options.

    Raises:
        ConfigError: the file cannot be read, or a line is no such object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = os.strerror(exc.errno or 0) if isinstance(exc, OSError) else "it is not UTF-8 text"
        remedy = with_remedy(reason, otherwise="name another one")
        raise ConfigError(f"--script {path}: cannot be read: {remedy}") from exc
    return [
        _fault(line, f"--script {path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def addresses(exchange: "OfflineExchange") -> dict[str, Any]:
    """Return the addresses of an exchange as settings, and the one that takes faults."""
    return {
        "exchange": "BINANCE_SIM",
        "symbols": list(exchange.market.tapes),
        "K2_BINANCE_WS_URLS": ",".join(exchange.ws_urls),
        "K2_BINANCE_REST_URLS": ",".join(exchange.rest_urls),
        "control": f"{exchange.rest_urls[0]}/control/faults",
    }


def addresses_text(urls: dict[str, Any]) -> str:
    """Return the addresses of an exchange as text, to be copied into a shell."""
    return "\n".join(
        [
            f"{urls['exchange']} trades {', '.join(urls['symbols'])} until Ctrl-C; to stream it:",
            f"  export K2_BINANCE_WS_URLS={urls['K2_BINANCE_WS_URLS']}",
            f"  export K2_BINANCE_REST_URLS={urls['K2_BINANCE_REST_URLS']}",
            f"  k2 stream binance --symbols {','.join(urls['symbols'])}",
            f"faults to choose from, and those that hold now: curl {urls['control']}",
            "to cause one now:",
            f"  curl -H 'Content-Type: application/json' -d '{{\"name\": \"cut\"}}' "
            f"{urls['control']}",
        ]
    )


def made_ids(exchange: "OfflineExchange") -> dict[str, dict[str, int]]:
    """Return by symbol which ids an exchange has made so far."""
    return {symbol: _ids(exchange.truth(symbol)) for symbol in exchange.market.tapes}


def _ids(truth: "GroundTruth") -> dict[str, int]:
    return {"first_id": truth.first_id, "last_id": truth.last_id, "void": len(truth.void)}


def _fault(line: str, where: str) -> tuple[float, str, dict[str, Any]]:
    try:
        fault = json.loads(line)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{where}: not JSON ({exc}); write {FORM}") from exc
    if not isinstance(fault, dict) or not isinstance(fault.get("name"), str):
        raise ConfigError(f"{where}: no fault named; write {FORM}")
    at_s = fault.pop("at_s", None)
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or at_s < 0:
        raise ConfigError(f"{where}: at_s={at_s!r} is no number of seconds; write {FORM}")
    return float(at_s), fault.pop("name"), fault

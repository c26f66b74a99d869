"""An exchange for the command line: it runs until it is told to stop."""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any

from k2lib.exchange.floor import Script
from k2lib.exchange.market import Truth
from k2lib.exchange.offline import OfflineExchange


def run(
    symbols: Many[str] = ("BTCUSDT", "ETHUSDT"),
    *,
    rate: float = 50.0,
    seed: int = 7,
    port: int = 9443,
    hosts: int = 1,
    first_id: int | None = None,
    script: Script = (),
    on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _fields: None,
    stop: threading.Event | None = None,
) -> dict[str, Truth]:
    """Run an exchange until Ctrl-C, or until `stop` is set; return what it made.

    Args:
        on_event: told `exchange_opened` with `ws_urls`, `rest_urls` and `symbols`.
    Raises:
        ConfigError: a port is in use, or an argument is not possible.
    """
    ending = stop or threading.Event()
    with OfflineExchange(
        symbols,
        rate=rate,
        seed=seed,
        port=port,
        hosts=hosts,
        first_id=first_id,
        script=script,
    ) as exchange:
        names = list(symbols)
        opened = {"ws_urls": exchange.ws_urls, "rest_urls": exchange.rest_urls, "symbols": names}
        on_event("exchange_opened", opened)
        with contextlib.suppress(KeyboardInterrupt):
            ending.wait()
        return {symbol: exchange.truth(symbol) for symbol in symbols}

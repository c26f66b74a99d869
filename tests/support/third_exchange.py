"""The third venue's host on 127.0.0.1, which does not send every trade where a test says so."""

import json
import threading
import time
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

SYMBOLS = ("ABC", "XYZ")


class ThirdExchange:
    """Makes a trade of each symbol every `every_s`, and keeps all of them."""

    def __init__(self, *, every_s: float = 0.01) -> None:
        self._every_s = every_s
        self._changed = threading.Condition()
        self._trades: dict[str, list[dict[str, Any]]] = {symbol: [] for symbol in SYMBOLS}
        self._unsent: set[tuple[str, int]] = set()
        self._closed = threading.Event()
        self._server = serve(self._handle, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._threads = [
            threading.Thread(target=work) for work in (self._server.serve_forever, self._trade)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()

    def last_id(self, symbol: str) -> int:
        """Return the id of the newest trade."""
        return len(self._trades[symbol]) - 1

    def drop(self, count: int, symbol: str) -> None:
        """Make the next trades without sending them."""
        with self._changed:
            begin = len(self._trades[symbol])
            self._unsent |= {(symbol, number) for number in range(begin, begin + count)}

    def _trade(self) -> None:
        while not self._closed.wait(self._every_s):
            with self._changed:
                for symbol, trades in self._trades.items():
                    trades.append(_trade_of(symbol, len(trades)))
                self._changed.notify_all()

    def _handle(self, socket: ServerConnection) -> None:
        try:
            for message in socket:
                question = json.loads(message)
                if "subscribe" in question:
                    self._stream(socket, question["subscribe"])
                else:
                    socket.send(json.dumps(self._answer(question)))
        except ConnectionClosed:
            return

    def _answer(self, question: dict[str, Any]) -> list[Any]:
        if "list" in question:
            return list(SYMBOLS)
        return self._trades[question["symbol"]][question["from"] :][:1000]

    def _stream(self, socket: ServerConnection, symbols: list[str]) -> None:
        positions = {symbol: len(self._trades[symbol]) for symbol in symbols}
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait(0.1)
                fresh = [one for name in symbols for one in self._trades[name][positions[name] :]]
                positions = {symbol: len(self._trades[symbol]) for symbol in symbols}
            for trade in fresh:
                if (trade["symbol"], trade["id"]) not in self._unsent:
                    socket.send(json.dumps(trade))


def _trade_of(symbol: str, number: int) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "id": number,
        "price": f"{100 + number % 7}.25",
        "quantity": "0.5",
        "side": "BUY" if number % 2 else "SELL",
        "timestamp": time.time_ns() // 1000,
    }

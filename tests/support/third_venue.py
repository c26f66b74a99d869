"""A third venue, as small as one can be: JSON over a WebSocket, ids by symbol, no state."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Self

import pyarrow as pa
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from k2lib.errors import ConfigError
from k2lib.schema.dead_letters import DeadLetter
from k2lib.schema.identity import message_id
from k2lib.schema.records import QUOTE, TRADE
from k2lib.venues import base
from k2lib.venues.websocket import WebSocketConnection, open_socket


class ThirdConnection(WebSocketConnection):
    async def subscribe(self, subscriptions: Sequence[base.StreamSubscription]) -> None:
        await self._send(json.dumps({"subscribe": [symbol for symbol, _ in subscriptions]}))


@dataclass(frozen=True)
class ThirdVenue:
    stream_hosts: tuple[str, ...]
    exchange: str = "THIRD"
    asset_class: str = "crypto"
    subscriptions_per_connection: int = 100

    @property
    def request_hosts(self) -> tuple[str, ...]:
        return self.stream_hosts

    def at(self, stream_hosts: Sequence[str], request_hosts: Sequence[str]) -> Self:
        return replace(self, stream_hosts=tuple(stream_hosts))

    def named(self, exchange: str) -> Self:
        return replace(self, exchange=exchange)

    def shipped_instruments(self, symbols: Sequence[str]) -> dict[str, base.Instrument]:
        raise ConfigError(f"{', '.join(symbols)}: not known without the venue")

    def ping(self, host: str, *, within_s: float) -> None:
        self._answer({"list": True}, within_s)

    def open_requests(self, **_: Any) -> Self:
        return self

    def instruments(self, symbols: Sequence[str]) -> dict[str, base.Instrument]:
        if unknown := set(symbols) - set(self._answer({"list": True})):
            raise ConfigError(f"no symbol {', '.join(sorted(unknown))}")
        return {symbol: base.Instrument(self.exchange, symbol) for symbol in symbols}

    def backfill(self, missing: base.MissingTrades) -> Iterator[base.BackfillPage]:
        low, high = missing.holes[0][0], missing.holes[-1][1]
        rows = self._rows(self._answer({"symbol": missing.instrument.symbol, "from": low}))
        ids = rows["source_sequence"].to_numpy()
        yield base.BackfillPage(rows, ids, [], base.absent_ids((low, high), ids))

    def checks(self, symbols: Sequence[str]) -> Iterator[tuple[str, Any]]:
        yield "symbols", lambda: ", ".join(self.instruments(symbols))

    def close(self) -> None: ...

    async def connect(self, host: str, **sinks: Any) -> ThirdConnection:
        return ThirdConnection(await open_socket(host), host, **sinks)

    def parse_frames(
        self, frames: Sequence[bytes], received_us: Sequence[int], *, source: str, **_: Any
    ) -> base.ParsedFrames:
        refused = [
            DeadLetter(source, f"{at}", "not_json", "the frame is cut short", frame)
            for frame, at in zip(frames, received_us, strict=True)
            if not frame.endswith(b"}")
        ]
        rows = self._rows([json.loads(frame) for frame in frames if frame.endswith(b"}")])
        return base.ParsedFrames(rows, QUOTE.arrow.empty_table(), refused)

    def _rows(self, trades: Sequence[Mapping[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist([self._row(**trade) for trade in trades], schema=TRADE.arrow)

    def _row(self, symbol: str, id: int, price: str, quantity: str, **same: Any) -> dict[str, Any]:
        numbers = {"price": Decimal(price), "quantity": Decimal(quantity), "source_sequence": id}
        names = {"symbol": symbol, "exchange": self.exchange, "trade_id": f"{self.exchange}-{id}"}
        names |= {"message_id": message_id(self.exchange, symbol, str(id)), "currency": "USD"}
        now = {"ingestion_timestamp": time.time_ns() // 1000}
        return {"asset_class": "crypto", "trade_conditions": []} | names | numbers | now | same

    def _answer(self, question: Mapping[str, Any], within_s: float = 10.0) -> Any:
        try:
            with connect(self.stream_hosts[0], open_timeout=within_s) as socket:
                socket.send(json.dumps(question))
                return json.loads(socket.recv(within_s))
        except (OSError, TimeoutError, WebSocketException) as exc:
            raise base.VenueUnavailableError(f"{exc}", wait_s=0.1) from exc

"""What a replay answers over REST, in Binance's format: its symbols, and what it sent so far."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from k2lib.replay.frames import FrameEncoder
from k2lib.replay.player import Replay
from k2lib.replay.series import Int64s
from k2lib.schema.decimals import unscaled_values
from k2lib.simulator import (
    EXCHANGE_INFO_PARAMS,
    ExchangeLimits,
    RestError,
    RowWindow,
    SimulatedInstrument,
    check_names,
    exchange_info,
    one_symbol,
    row_window,
)

ROWS: Final = 8_192
COLUMNS: Final = ("symbol", "timestamp", "price", "quantity", "side", "source_sequence")
TRADE_PARAMS: Final = frozenset({"symbol", "limit", "fromId"})
PLACES: Final = 8
SOLD: Final = ("SELL", "SELL_SHORT")


class ReplayRest:
    """Answers about a replay; each reads the rows that it needs again.

    Args:
        sent: how many trades of a symbol the stream has sent so far: REST knows no others.
    """

    def __init__(
        self, replay: Replay, *, limits: ExchangeLimits, sent: Callable[[str], int]
    ) -> None:
        self._replay = replay
        self._limits = limits
        self._sent = sent
        self._instruments: dict[str, SimulatedInstrument] = {}

    def exchange_info(self, params: Mapping[str, str], *, now_ms: int) -> str:
        """Return the symbols of the replay.

        Raises:
            RestError: a parameter is wrong, or names another symbol.
        """
        check_names([name for name, _ in params.items()], expected=EXCHANGE_INFO_PARAMS)
        return exchange_info(
            params,
            self._all_instruments(),
            server_time=now_ms,
            weight_per_minute=self._limits.weight_per_minute,
        )

    def historical_trades(self, params: Mapping[str, str], *, micros: bool) -> str:
        """Return the trades sent so far from an id on, or the newest of them.

        Raises:
            RestError: a parameter is wrong, or names another symbol.
        """
        check_names([name for name, _ in params.items()], expected=TRADE_PARAMS)
        symbol, window = one_symbol(params), row_window(params)
        if symbol not in {name for _, name in self._replay.instruments}:
            raise RestError(-1121, "Invalid symbol.")
        ids, rows = self._trades(symbol, window)
        return json.dumps(_trades_json(ids, rows, micros=micros), separators=(",", ":"))

    def _all_instruments(self) -> Mapping[str, SimulatedInstrument]:
        for _, symbol in self._replay.instruments:
            if symbol not in self._instruments:
                self._instruments[symbol] = self._instrument(symbol)
        return self._instruments

    def _instrument(self, symbol: str) -> SimulatedInstrument:
        """Return the instrument of a symbol, its assets by the currency of its first record."""
        item = SimulatedInstrument.in_units(symbol)
        for kind in self._replay.kinds:
            series = self._replay.series(kind, symbol)
            with closing(series.batches(1, columns=["currency"])) as batches:
                for batch in batches:
                    quote = str(batch.rows["currency"][0])
                    return replace(item, base=symbol.removesuffix(quote) or symbol, quote=quote)
        return replace(item, base=symbol)

    def _trades(self, symbol: str, window: RowWindow) -> tuple[Int64s, pa.Table | None]:
        left = self._sent(symbol)
        ids, rows = np.zeros(0, np.int64), None
        if not left:
            return ids, rows
        encoder = FrameEncoder()
        with closing(self._replay.series("trades", symbol).batches(ROWS, columns=COLUMNS)) as found:
            for batch in found:
                if batch.kind != "trades":
                    continue
                # The ids of a batch are counted as a whole, as they were when they were sent.
                batch_ids = encoder.ids(batch)[:left]
                batch_rows = pa.Table.from_batches([batch.rows.slice(0, left)])
                left -= len(batch_ids)
                ids = np.concatenate([ids, batch_ids])
                rows = batch_rows if rows is None else pa.concat_tables([rows, batch_rows])
                ids, rows = _kept(ids, rows, window)
                if not left:
                    break
        return ids, rows


def _kept(ids: Int64s, rows: pa.Table, window: RowWindow) -> tuple[Int64s, pa.Table]:
    """Return the rows that a window can still have, by their ids."""
    order = np.argsort(ids, kind="stable")
    if window.from_id is None:
        order = order[-window.limit :]
    else:
        order = order[ids[order] >= window.from_id][: window.limit]
    return ids[order], rows.take(pa.array(order))


def _trades_json(ids: Int64s, rows: pa.Table | None, *, micros: bool) -> list[dict[str, Any]]:
    if rows is None:
        return []
    rows = rows.combine_chunks()
    prices = unscaled_values(rows["price"].combine_chunks()).tolist()
    quantities = unscaled_values(rows["quantity"].combine_chunks()).tolist()
    times = rows["timestamp"].cast(pa.int64()).to_pylist()
    sides = rows["side"].to_pylist()
    return [
        {
            "id": number,
            "price": _decimal_text(price),
            "qty": _decimal_text(quantity),
            "quoteQty": _decimal_text(price * quantity, places=2 * PLACES),
            "time": time if micros else time // 1000,
            "isBuyerMaker": side in SOLD,
            "isBestMatch": True,
        }
        for number, price, quantity, time, side in zip(
            ids.tolist(), prices, quantities, times, sides, strict=True
        )
    ]


def _decimal_text(units: int, *, places: int = PLACES) -> str:
    """Write units of 10^-places with eight decimals, or more where they are needed."""
    whole, part = divmod(units, 10**places)
    return f"{whole}.{f'{part:0{places}d}'.rstrip('0'):0<{PLACES}}"

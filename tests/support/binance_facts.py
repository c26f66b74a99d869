"""Trades as Binance writes them: on the stream, by REST, and in the archive's CSVs."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from k2lib.venues.binance.instruments import shipped_instruments

INSTRUMENTS = shipped_instruments(["BTCUSDT", "ETHBTC"])
RECEIVED_US = 1_735_800_000_000_500
LATEST_US = RECEIVED_US + 60_000_000
CORE = (
    *("message_id", "trade_id", "symbol", "exchange", "asset_class", "timestamp", "price"),
    *("quantity", "currency", "side", "trade_conditions", "source_sequence", "platform_sequence"),
)


@dataclass(frozen=True)
class Fact:
    """One trade that happened; numbers are the text that Binance sends."""

    trade_id: int = 4_000_000_000
    price: str = "95123.01000000"
    quantity: str = "0.00150000"
    time_us: int = 1_735_800_000_000_123
    buyer_is_maker: bool = True
    symbol: str = "BTCUSDT"


def stream_frame(fact: Fact, *, unit_us: int = 1, **changes: object) -> bytes:
    """Return the trade as a raw `@trade` frame; `changes` replace or add fields."""
    fields = {
        "e": "trade",
        "E": (fact.time_us + 700) // unit_us,
        "s": fact.symbol,
        "t": fact.trade_id,
        "p": fact.price,
        "q": fact.quantity,
        "T": fact.time_us // unit_us,
        "m": fact.buyer_is_maker,
        "M": True,
    }
    return json.dumps(fields | changes, separators=(",", ":")).encode()


def combined(frame: bytes, stream: str = "btcusdt@trade") -> bytes:
    """Return a raw frame as it comes on a combined stream."""
    return b'{"stream":"%s","data":%s}' % (stream.encode(), frame)


def rest_body(facts: Sequence[Fact], *, unit_us: int = 1, **changes: object) -> bytes:
    """Return a reply of `/historicalTrades`."""
    trades = [
        {
            "id": fact.trade_id,
            "price": fact.price,
            "qty": fact.quantity,
            "quoteQty": "142.68451500",
            "time": fact.time_us // unit_us,
            "isBuyerMaker": fact.buyer_is_maker,
            "isBestMatch": True,
        }
        | changes
        for fact in facts
    ]
    return json.dumps(trades).encode()


def aggregates_body(facts: Sequence[Fact], *, unit_us: int = 1, **changes: object) -> bytes:
    """Return a reply of `/aggTrades` in which every trade stands alone."""
    rows = [
        {
            "a": 7_000 + number,
            "p": fact.price,
            "q": fact.quantity,
            "f": fact.trade_id,
            "l": fact.trade_id,
            "T": fact.time_us // unit_us,
            "m": fact.buyer_is_maker,
            "M": True,
        }
        | changes
        for number, fact in enumerate(facts)
    ]
    return json.dumps(rows).encode()


def csv_line(fact: Fact, *, unit_us: int = 1) -> str:
    """Return the trade as a line of the archive, without its end."""
    time, maker = fact.time_us // unit_us, fact.buyer_is_maker
    numbers = f"{fact.trade_id},{fact.price},{fact.quantity},142.68451500,{time}"
    return f"{numbers},{maker},True"


def write_archive(path: Path, csv: str | bytes, *, checksum: bool = True) -> Path:
    """Write a zip with one CSV, and its checksum beside it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", csv)
    if checksum:
        write_checksum(path)
    return path


def write_checksum(path: Path) -> None:
    """Write the file's SHA-256 beside it, as `sha256sum` prints it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")


def core(rows: pa.Table, columns: Sequence[str] = CORE) -> list[dict[str, object]]:
    """Return what a trade is, wherever it came from."""
    return rows.select(list(columns)).to_pylist()

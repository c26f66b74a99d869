"""ASX CSV lines to v2 batches: pure, by whole columns; a line becomes a row or a bad line.

Prices and volumes are exact decimals from the first step on: no float ever holds one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from k2lib.schema.dead_letters import DeadLetterReason
from k2lib.schema.decimals import (
    NUMBER,
    PRICE,
    QUANTITY,
    READABLE,
    greatest_units,
    text_fits,
    type_text,
)
from k2lib.schema.identity import message_ids
from k2lib.schema.records import QUOTE, TRADE, RecordSchema
from k2lib.venues.base import Instrument
from k2lib.venues.csv_lines import BadLine, Lines, to_columns


def vendor_map(fields: Mapping[str, pa.Array | str], n_rows: int) -> pa.MapArray:
    """Build one map a row from columns of text, or one text for all rows.

    Args:
        fields: key to values; an empty text is left out of that row's map.
    Returns:
        Maps with their keys in alphabetical order.
    """
    names = sorted(fields)
    pools = [_pool(fields[name], n_rows) for name in names]
    starts = np.cumsum([0, *(len(values) for values, _ in pools)])[:-1]
    codes = np.column_stack([c + start for (_, c), start in zip(pools, starts, strict=True)])
    texts = pa.concat_arrays([values for values, _ in pools])
    there = (np.array([len(text) for text in texts.to_pylist()], np.int64) > 0)[codes]
    keys = np.broadcast_to(np.arange(len(names)), there.shape)[there]
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.MapArray.from_arrays(
        pa.array(offsets),
        pa.array(names, pa.string()).take(pa.array(keys)),
        texts.take(pa.array(codes[there])),
        type=TRADE.arrow.field("vendor_data").type,
    )


def _pool(values: pa.Array | str, n_rows: int) -> tuple[pa.Array, np.ndarray]:
    if isinstance(values, str):
        return pa.array([values], pa.string()), np.zeros(n_rows, np.int64)
    encoded = values.dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)


ZONE: Final = "Australia/Sydney"
COLUMNS: Final = {
    "trades": ("date", "time", "price", "volume", "qualifiers", "venue", "buyer_id"),
    "quotes": ("date", "time", "bid", "ask", "bid_volume", "ask_volume"),
}
SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE}
NUMBERS: Final = {
    **dict.fromkeys(("price", "bid", "ask"), PRICE),
    **dict.fromkeys(("volume", "bid_volume", "ask_volume"), QUANTITY),
}
IDENTITY_PARTS: Final = {
    "trades": ("price_value", "volume_value", "qualifiers", "venue", "buyer_id"),
    "quotes": ("bid_value", "bid_volume_value", "ask_value", "ask_volume_value"),
}
COUNTED: Final = {"at": pl.Int64, "hash": pl.UInt64, "n": pl.UInt32}
# [0-9], because \d means the digits of all scripts.
DATE: Final = r"^[0-9]{2}/[0-9]{2}/(19|20)[0-9]{2}$"
TIME: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}$"


@dataclass(frozen=True)
class ParsedLines:
    """Rows of one chunk of lines, and the lines that cannot pass, both in file order."""

    rows: pa.Table
    bad_lines: list[BadLine]


class RowCounts:
    """The rows of a file so far, by time and text: it is read in chunks, equal rows are numbered.

    Attributes:
        newest_us: of all rows so far; None before the first.
    """

    def __init__(self, *, in_time_order: bool) -> None:
        """Begin with none.

        Args:
            in_time_order: whether no later row is older than these: then only those of the newest
                millisecond are kept.
        """
        self._in_time_order = in_time_order
        self._rows: list[pl.DataFrame] = []
        self.newest_us: int | None = None

    def add(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Count the rows of a chunk, and number each.

        Args:
            rows: a row of the file each: `at`, µs since the epoch, and `hash` of its text.
        Returns:
            For each row, how many had its time before it (`place`), and how many its text (`k`).
        """
        numbers = pl.DataFrame({"place": _occurrence(rows["at"]), "k": _occurrence(rows["hash"])})
        times = rows.select("at").unique()
        before = pl.concat(
            [pl.DataFrame(schema=COUNTED)]
            + [part.join(times, on="at", how="semi") for part in self._rows]
        )
        self._keep(rows)
        if before.is_empty():
            return numbers
        return pl.select(
            place=numbers["place"] + _counts_of(rows, before, on=["at"]),
            k=numbers["k"] + _counts_of(rows, before, on=["at", "hash"]),
        )

    def _keep(self, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        newest = int(rows["at"].to_numpy().max())
        if self.newest_us is None or newest > self.newest_us:
            self.newest_us = newest
            self._rows = [] if self._in_time_order else self._rows
        if self._in_time_order:
            rows = rows.filter(pl.col("at") == self.newest_us)
        added = rows.group_by("at", "hash").agg(n=pl.len().cast(COUNTED["n"]))
        self._rows.append(added)


def _counts_of(rows: pl.DataFrame, before: pl.DataFrame, *, on: list[str]) -> pl.Series:
    counts = before.group_by(on).agg(pl.col("n").cast(pl.Int64).sum())
    return rows.join(counts, on=on, how="left", maintain_order="left")["n"].fill_null(0)


def _occurrence(values: pl.Series) -> pl.Series:
    """Number equal values 0, 1, … in their order; only those that repeat are grouped."""
    repeats = values.is_duplicated()
    grouped = values.filter(repeats).to_frame("v").select(pl.int_range(pl.len()).over("v"))
    numbers = np.zeros(len(values), np.int64)
    numbers[repeats.to_numpy()] = grouped.to_series().to_numpy()
    return pl.Series(numbers)


def parse(
    lines: Lines,
    kind: str,
    *,
    instrument: Instrument,
    ingested: datetime,
    first_line: int = 1,
    counts: RowCounts | None = None,
) -> ParsedLines:
    """Turn lines of one file into v2 rows.

    Args:
        kind: `trades` or `quotes`.
        ingested: ingestion time of every row, aware.
        first_line: number of the first line in its file.
        counts: the rows of the file before these lines, which are added to it.
    Returns:
        Rows of `records.TRADE` or `records.QUOTE` in file order; timestamps in UTC.
    """
    fields, line_numbers, bad_lines = to_columns(lines, COLUMNS[kind], first_line=first_line)
    typed = fields.with_columns(_typed(kind))
    good = typed.select(_is_good(kind, pipes=b"|" in lines.data)).to_series()
    for index in (~good).arg_true():
        line = int(line_numbers[index])
        raw = lines.raw(line - first_line)
        bad_lines.append(BadLine(line, raw, *_why(fields.row(index, named=True))))
    typed = typed.filter(good)
    if kind == "quotes":
        typed = typed.with_columns(*_side("bid"), *_side("ask"))
    texts = typed.select(text=_identity_text(kind, instrument)).to_series()
    times = typed.select(at=pl.col("timestamp").to_physical(), hash=texts.hash())
    counts = RowCounts(in_time_order=True) if counts is None else counts
    numbers = counts.add(times)
    typed = typed.with_columns(numbers, text=texts)
    rows = _trades(typed, instrument) if kind == "trades" else _quotes(typed, instrument)
    bad_lines.sort(key=lambda bad: bad.number)
    return ParsedLines(_table(rows, typed, SCHEMAS[kind], instrument, ingested), bad_lines)


def count_rows(lines: Lines, kind: str) -> int:
    """Count the lines that are rows of a kind, as `parse` takes them."""
    fields, _, _ = to_columns(lines, COLUMNS[kind], first_line=1)
    good = _is_good(kind, pipes=b"|" in lines.data)
    return int(fields.with_columns(_typed(kind)).select(good).to_series().sum())


def _typed(kind: str) -> list[pl.Expr]:
    local = pl.concat_str("date", "time", separator=" ").str.to_datetime(
        "%m/%d/%Y %H:%M:%S%.3f", time_unit="us", strict=False
    )
    # No exchange trades in the hour that summer time repeats, so either reading would do.
    sydney = local.dt.replace_time_zone(ZONE, ambiguous="earliest", non_existent="null")
    return [
        sydney.dt.convert_time_zone("UTC").alias("timestamp"),
        *(
            pl.col(name)
            .cast(pl.Decimal(QUANTITY.precision, QUANTITY.scale), strict=False)
            .alias(f"{name}_value")
            for name in COLUMNS[kind]
            if name in NUMBERS
        ),
    ]


def _is_good(kind: str, *, pipes: bool) -> pl.Expr:
    names = COLUMNS[kind]
    checks = [
        pl.col("timestamp").is_not_null(),
        pl.col("date").str.contains(DATE),
        pl.col("time").str.contains(TIME),
        *(_is_number(name) for name in names if name in NUMBERS),
    ]
    if pipes:
        checks += [~pl.col(name).str.contains("|", literal=True) for name in names]
    return pl.all_horizontal(checks)


def _is_number(name: str) -> pl.Expr:
    within = pl.col(f"{name}_value").to_physical() <= greatest_units(NUMBERS[name])
    return pl.col(name).str.contains(READABLE) & within.fill_null(False)


def _why(row: Mapping[str, str]) -> tuple[DeadLetterReason, str]:
    """Say why a row is refused: the first field that does not fit."""
    for name, text in row.items():
        if "|" in text:
            return "bad_text", f"{name} {text!r} contains |"
    if not re.fullmatch(TIME, row["time"]):
        return "bad_time", f"time {row['time']!r} is not HH:MM:SS.mmm"
    for name in NUMBERS:
        if name in row and not text_fits(row[name], NUMBERS[name]):
            return _why_number(name, row[name])
    return "bad_date", f"{row['date']!r} {row['time']} is not a time in Sydney (MM/DD/YYYY)"


def _why_number(name: str, text: str) -> tuple[DeadLetterReason, str]:
    if re.fullmatch(f"-{NUMBER}", text):
        return "negative", f"{name} {text} is negative"
    if re.fullmatch(NUMBER, text):
        return "overflow", f"{name} {text} does not fit {type_text(NUMBERS[name])}"
    return "bad_number", f"{name} {text!r} is not a number"


def _trades(typed: pl.DataFrame, instrument: Instrument) -> dict[str, pa.Array]:
    ids = _identities(typed)
    qualifiers = _strings(typed["qualifiers"])
    return {
        "message_id": ids,
        "trade_id": _prefixed(f"{instrument.exchange}-", ids),
        "price": _arrow(typed["price_value"], PRICE),
        "quantity": _arrow(typed["volume_value"], QUANTITY),
        "side": _constant("UNKNOWN", len(ids)),
        "trade_conditions": _single_lists(qualifiers),
        "vendor_data": vendor_map(
            {
                "buyer_id": _strings(typed["buyer_id"]),
                "company_id": instrument.company_id,
                "isin": instrument.isin,
                "qualifiers": qualifiers,
                "venue": _strings(typed["venue"]),
            },
            len(ids),
        ),
    }


def _quotes(typed: pl.DataFrame, instrument: Instrument) -> dict[str, pa.Array]:
    ids = _identities(typed)
    vendor = {"company_id": instrument.company_id, "isin": instrument.isin}
    return {
        "message_id": ids,
        "quote_id": _prefixed(f"{instrument.exchange}-Q-", ids),
        "bid_price": _arrow(typed["bid_value"], PRICE),
        "bid_quantity": _arrow(typed["bid_volume_value"], QUANTITY),
        "ask_price": _arrow(typed["ask_value"], PRICE),
        "ask_quantity": _arrow(typed["ask_volume_value"], QUANTITY),
        "vendor_data": vendor_map(vendor, len(ids)),
    }


def _side(name: str) -> list[pl.Expr]:
    """A side of the book without a price or without a volume is empty: null, never 0."""
    price, volume = pl.col(f"{name}_value"), pl.col(f"{name}_volume_value")
    there = (price != 0) & (volume != 0)
    return [pl.when(there).then(price), pl.when(there).then(volume)]


def _identity_text(kind: str, instrument: Instrument) -> pl.Expr:
    """What tells a row from others of its file: all but how many equal ones precede it."""
    letter = "" if kind == "trades" else "Q|"
    date = pl.col("date")
    return pl.concat_str(
        pl.lit(f"{instrument.exchange}|{letter}{instrument.symbol}"),
        pl.concat_str(
            date.str.slice(6, 4), date.str.slice(0, 2), date.str.slice(3, 2), separator="-"
        ),
        pl.col("time"),
        *map(_identity_part, IDENTITY_PARTS[kind]),
        separator="|",
    )


def _identities(typed: pl.DataFrame) -> pa.Array:
    ids = message_ids(pl.concat_str("text", "k", separator="|"))
    return _strings(typed.select(ids).to_series())


def _identity_part(name: str) -> pl.Expr:
    if not name.endswith("_value"):
        return pl.col(name)
    return pl.col(name).to_physical().cast(pl.Int64).cast(pl.String).fill_null("")


def _table(
    rows: dict[str, pa.Array],
    typed: pl.DataFrame,
    schema: RecordSchema,
    instrument: Instrument,
    ingested: datetime,
) -> pa.Table:
    n_rows = typed.height
    stamp = pa.scalar(ingested, schema.arrow.field("ingestion_timestamp").type)
    columns = {
        **rows,
        "symbol": _constant(instrument.symbol, n_rows),
        "exchange": _constant(instrument.exchange, n_rows),
        "asset_class": _constant("equities", n_rows),
        "timestamp": typed["timestamp"].to_arrow(),
        "currency": _constant("AUD", n_rows),
        "source_sequence": pa.nulls(n_rows, pa.int64()),
        "ingestion_timestamp": pa.repeat(stamp, n_rows),
        "platform_sequence": typed["place"].to_arrow(),
    }
    return pa.table([columns[name] for name in schema.arrow.names], schema=schema.arrow)


def _arrow(decimals: pl.Series, kind: pa.Decimal128Type) -> pa.Array:
    return decimals.to_arrow().cast(kind)


def _strings(texts: pl.Series) -> pa.Array:
    return texts.to_arrow().cast(pa.string())


def _constant(text: str, n_rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), n_rows)


def _prefixed(prefix: str, ids: pa.Array) -> pa.Array:
    return _strings(pl.select(pl.lit(prefix) + pl.Series(ids)).to_series())


def _single_lists(values: pa.Array) -> pa.Array:
    """One list a row: the value, or nothing where it is empty."""
    there = pl.Series(values).str.len_bytes().to_numpy() > 0
    offsets = np.concatenate([[0], np.cumsum(there)]).astype(np.int32)
    list_type = TRADE.arrow.field("trade_conditions").type
    return pa.ListArray.from_arrays(
        pa.array(offsets), values.filter(pa.array(there)), type=list_type
    )

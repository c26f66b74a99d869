"""ASX files read without our code: each trade with every field, and plain DuckDB over the lines."""

import csv
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
from support.asx_facts import SYDNEY, exchange_of, symbols

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")
VENDOR_FIELDS = {"buyer_id": 6, "qualifiers": 4, "venue": 5}
CLOCK = "%m/%d/%Y %H:%M:%S.%f"
COLUMNS = {
    "date": "VARCHAR",
    "time": "VARCHAR",
    "price": "DECIMAL(18, 8)",
    "quantity": "DECIMAL(19, 8)",
    "qualifiers": "VARCHAR",
    "venue": "VARCHAR",
    "buyer": "VARCHAR",
}


@cache
def trades_of(folder: Path, symbol: str) -> list[dict[str, Any]]:
    """Return the trades of a file as the API must tell them, in the order of events.

    The ingestion time is left out: it is when they were loaded.
    """
    company = _company(folder, symbol)
    with (folder / "trades" / f"{company['company_id']}.csv").open(newline="") as lines:
        return sorted(_trades(csv.reader(lines), company, folder), key=_in_order)


def trade_lines(folder: Path) -> str:
    """Return the SELECT over the lines of all trades files, in plain DuckDB."""
    parts = [
        f"""SELECT '{exchange_of(folder)}' AS exchange, '{symbol}' AS symbol, *,
            row_number() OVER () AS line
        FROM read_csv('{folder / "trades" / company}.csv', header = false, columns = {COLUMNS})"""
        for company, symbol in symbols(folder).items()
        if (folder / "trades" / f"{company}.csv").exists()
    ]
    local = "strptime(date || ' ' || time, '%m/%d/%Y %H:%M:%S.%g')"
    return f"""SELECT *, {local}::DATE AS trading_date,
        timezone('Australia/Sydney', {local}) AS timestamp
    FROM ({" UNION ALL ".join(parts)})"""


def figures(folder: Path, *, by: str, where: str = "true") -> list[dict[str, Any]]:
    """Return what plain DuckDB makes of the lines, by group, as the API tells it."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.sql(
        f"""SELECT {by}, first(price ORDER BY timestamp, line) AS open, max(price) AS high,
            min(price) AS low, last(price ORDER BY timestamp, line) AS close,
            sum(quantity) AS volume, count(*) AS trades, sum(price) AS prices,
            sum(price * quantity) AS turnover,
            min(timestamp) AS first, max(timestamp) AS last
        FROM ({trade_lines(folder)}) WHERE {where} GROUP BY ALL ORDER BY ALL"""
    )
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    return [_told(row) for row in rows]


def told(value: Any) -> Any:
    """Return a value as JSON has it."""
    match value:
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
        case Decimal():
            return f"{value:f}"
        case None | int() | str():
            return value
    return str(value)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    row["vwap"] = _quotient(row["turnover"], row["volume"])
    row["average"] = _quotient(row.pop("prices"), Decimal(row["trades"]))
    return {name: told(value) for name, value in row.items()}


def _quotient(total: Decimal, count: Decimal) -> Decimal:
    with localcontext(prec=80):
        return (total / count).quantize(Decimal("1e-8"), ROUND_HALF_UP)


def _company(folder: Path, symbol: str) -> dict[str, str]:
    with (folder / "reference-data" / "company_info.csv").open(newline="") as lines:
        return next(row for row in csv.DictReader(lines) if row["symbol"] == symbol)


def _trades(
    lines: Iterator[list[str]], company: dict[str, str], folder: Path
) -> Iterator[dict[str, Any]]:
    equal: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for line in lines:
        day = datetime.strptime(line[0], "%m/%d/%Y").replace(tzinfo=SYDNEY).date()
        moment = f"{day.isoformat()}|{line[1]}"
        amounts = [str(int(Decimal(text) * 10**8)) for text in line[2:4]]
        text = "|".join(
            [exchange_of(folder), company["symbol"], moment, *amounts, line[4], line[5], line[6]]
        )
        message_id = str(uuid.uuid5(NAMESPACE, f"{text}|{equal[text]}"))
        yield _trade(line, company, folder) | {
            "message_id": message_id,
            "trade_id": f"{exchange_of(folder)}-{message_id}",
            "platform_sequence": places[moment],
        }
        equal[text] += 1
        places[moment] += 1


def _trade(line: list[str], company: dict[str, str], folder: Path) -> dict[str, Any]:
    local = datetime.strptime(f"{line[0]} {line[1]}", CLOCK).replace(tzinfo=SYDNEY)
    vendor = {name: line[place] for name, place in VENDOR_FIELDS.items() if line[place]}
    return {
        "symbol": company["symbol"],
        "exchange": exchange_of(folder),
        "asset_class": "equities",
        "timestamp": told(local),
        "price": f"{Decimal(line[2]):.8f}",
        "quantity": f"{Decimal(line[3]):.8f}",
        "currency": "AUD",
        "side": "UNKNOWN",
        "trade_conditions": [line[4]],
        "source_sequence": None,
        "vendor_data": vendor | {"company_id": company["company_id"], "isin": company["ISIN"]},
    }


def _in_order(trade: dict[str, Any]) -> tuple[str, int, str]:
    return trade["timestamp"], trade["platform_sequence"], trade["message_id"]

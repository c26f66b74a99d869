"""What ASX files hold, counted with the csv module alone; the known figures of the real ones."""

import csv
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

SYDNEY = ZoneInfo("Australia/Sydney")


@dataclass(frozen=True)
class TradeFacts:
    """Exact figures of one trades file."""

    rows: int
    price: Decimal
    volume: Decimal
    turnover: Decimal
    first: datetime
    last: datetime


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


BHP = TradeFacts(
    91_631,
    Decimal("3307057.478"),
    Decimal(37_266_035),
    Decimal("1347983097.800"),
    _utc("2014-03-09T20:57:14.754"),
    _utc("2014-03-14T06:06:06.187"),
)
MWR = TradeFacts(
    11,
    Decimal("12.83"),
    Decimal(32_267),
    Decimal("37436.7"),
    _utc("2014-03-10T02:50:38.849"),
    _utc("2014-03-12T23:24:43.740"),
)
REAL_TRADES = {"BHP": BHP, "MWR": MWR}
REAL_QUOTES = {"BHP": 77_849, "MWR": 60}
REAL_BHP_DAYS = [17_000, 21_681, 20_283, 16_309, 16_358]


def is_real(folder: Path) -> bool:
    """Whether these are the files whose figures are known."""
    return not (folder / "reference-data" / "exchange.txt").exists()


def exchange_of(folder: Path) -> str:
    """Return the venue that files of this folder come from."""
    return "ASX" if is_real(folder) else "ASX_SIM"


def symbols(folder: Path) -> dict[str, str]:
    """Return company id → symbol."""
    with (folder / "reference-data" / "company_info.csv").open(newline="") as lines:
        return {line[0]: line[1] for line in list(csv.reader(lines))[1:]}


def trade_facts(folder: Path) -> dict[str, TradeFacts]:
    """Count every trades file of a folder: symbol → facts."""
    return {
        symbols(folder)[path.stem]: _counted(path) for path in (folder / "trades").glob("*.csv")
    }


def quote_counts(folder: Path) -> dict[str, int]:
    """Count the lines of every quotes file: symbol → rows."""
    paths = (folder / "quotes").glob("*.csv")
    return {symbols(folder)[path.stem]: len(path.read_text().splitlines()) for path in paths}


def trading_days(path: Path) -> list[int]:
    """Return the number of trades of every trading date, in order of dates."""
    counts = Counter(line[0] for line in _lines(path))
    return [counts[date] for date in sorted(counts, key=lambda date: date[6:] + date[:5])]


def _counted(path: Path) -> TradeFacts:
    lines = _lines(path)
    prices = [Decimal(line[2]) for line in lines]
    volumes = [Decimal(line[3]) for line in lines]
    times = [_sydney(f"{line[0]} {line[1]}") for line in lines]
    turnover = sum((p * v for p, v in zip(prices, volumes, strict=True)), Decimal(0))
    return TradeFacts(len(lines), sum(prices), sum(volumes), turnover, min(times), max(times))


def _sydney(text: str) -> datetime:
    local = datetime.strptime(text, "%m/%d/%Y %H:%M:%S.%f").replace(tzinfo=SYDNEY)
    return local.astimezone(UTC)


def _lines(path: Path) -> list[list[str]]:
    with path.open(newline="") as lines:
        return list(csv.reader(lines))

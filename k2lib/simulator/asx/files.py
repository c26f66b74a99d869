"""Write folders of invented market data in the form of the ASX files, traps included."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from k2lib.errors import ConfigError
from k2lib.simulator.asx.draws import Ints, SampleCompany, TimedColumns
from k2lib.simulator.asx.trading_day import SampleQuotes, SampleTrades, make_day

FIRST_ID = 9001
MOST_COMPANIES = 500

_PRICES = (37_000, 5_300, 1_150, 12_600, 460, 24_900, 2_850)
_NAME_ENDS = ("ORQUEN", "AVELLO", "UMBRIX", "EZZANT", "OLYXIA", "INDORRA", "ARQUEST")
_TRADES_IN = ("MINERALS", "WATERWORKS", "TELEGRAPH", "ORCHARDS", "TOOLS")
_NO_RECORDS = "--- NO RECORDS TO REPORT ---"


def company_of(rank: int, *, trades: int, quotes: int) -> SampleCompany:
    """Invent a company; each one trades a twelfth of what the one before it does."""
    initial = chr(ord("A") + (7 * rank + 1) % 26)
    block = rank // 26
    share = 12 ** min(rank, 9)
    return SampleCompany(
        company_id=FIRST_ID + rank,
        symbol=f"{initial}{'QXZJ'[block % 4]}{'ZXQVJ'[block // 4]}",
        name=f"{initial}{_NAME_ENDS[rank % 7]} {_TRADES_IN[rank % 5]} LTD",
        price=_PRICES[rank % 7],
        trades=trades if rank == 0 else max(4, trades // share),
        quotes=max(12, quotes // share),
    )


def isin_of(symbol: str) -> str:
    """Return the Australian ISIN of a three-letter symbol, check digit included.

    Source: ISO 6166: letters count as 10 to 35, every other digit from the right doubled.
    """
    digits = "".join(str(int(letter, 36)) for letter in f"AU000000{symbol}")[::-1]
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(digits))
    return f"AU000000{symbol}{-total % 10}"


def write_reference(folder: Path, companies: list[SampleCompany], *, first_day: date) -> None:
    """Write company_info, dividends, stock_splits and mergers in the real files' form."""
    listed = f"05/07/2008,12/31/{first_day.year}"
    _write_table(
        folder / "company_info.csv",
        "company_id,symbol,company_name,ISIN,start_date,end_date",
        [f"{c.company_id},{c.symbol},{c.name},{isin_of(c.symbol)},{listed}" for c in companies],
    )
    _write_table(
        folder / "dividends.csv",
        "company id,declared date,ex_date,record_date,pay_date,net amount,gross amount,"
        "currency type",
        [f"{FIRST_ID},{_dates(first_day, -45, 1, 7, 21)},0.42,0.6,AUD"],
    )
    for name in ("stock_splits.csv", "mergers.csv"):
        _write_table(folder / name, "company id,effective date,ratio", [_NO_RECORDS])


def _dates(day: date, *shifts: int) -> str:
    return ",".join(f"{day + timedelta(days=shift):%m/%d/%Y}" for shift in shifts)


def _write_table(path: Path, header: str, rows: list[str]) -> None:
    path.write_bytes("".join(f"{row}\r\n" for row in [header, *rows]).encode())


ASX_SIM = "ASX_SIM"
SYDNEY = ZoneInfo("Australia/Sydney")
MOST_ROWS_A_DAY = 5_000_000
ROWS_A_WRITE = 100_000


@dataclass(frozen=True)
class FileSummary:
    """What one file holds, exactly; for quotes, sums run over both sides of each row."""

    path: str
    symbol: str
    rows: int
    distinct_rows: int
    sum_volume: int
    sum_price: Decimal
    turnover: Decimal
    first: datetime
    last: datetime
    rows_by_day: dict[date, int]


@dataclass(frozen=True)
class SampleSummary:
    """What was written, file by file: a company's trades, then its quotes."""

    folder: Path
    exchange: str
    files: tuple[FileSummary, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def write_samples(
    folder: Path,
    *,
    seed: int = 7,
    companies: int = 3,
    days: int = 2,
    trades_per_day: int = 2_000,
    quotes_per_day: int | None = None,
    first_day: date = date(2014, 3, 10),
    on_progress: Callable[[str, int], None] | None = None,
) -> SampleSummary:
    """Write trades, quotes and reference data of invented companies.

    The same arguments give the same bytes anywhere. More days or companies leave what the
    smaller sample holds as it was. An earlier sample in the folder is replaced.

    Args:
        trades_per_day: of the largest company; each next one has a twelfth of it, at least 4.
        quotes_per_day: of the largest company, at least 12; 85 % of the trades by default.
        first_day: where the weekdays begin.
        on_progress: called with a file's path and the rows just added to it.
    Raises:
        ConfigError: a number is out of range, or the folder holds data that is not a sample.
    """
    quotes = trades_per_day * 85 // 100 if quotes_per_day is None else quotes_per_day
    _check("seed", seed, least=0, most=2**63)
    _check("companies", companies, least=1, most=MOST_COMPANIES)
    _check("days", days, least=1, most=100_000)
    _check("trades_per_day", trades_per_day, least=1, most=MOST_ROWS_A_DAY)
    _check("quotes_per_day", quotes, least=0, most=MOST_ROWS_A_DAY)
    chosen = [company_of(rank, trades=trades_per_day, quotes=quotes) for rank in range(companies)]
    _make_room(folder)
    (folder / "reference-data" / "exchange.txt").write_bytes(f"{ASX_SIM}\n".encode())
    write_reference(folder / "reference-data", chosen, first_day=first_day)
    calendar = list(_weekdays(first_day, days))
    report = on_progress or (lambda _path, _rows: None)
    files = [
        _write_company(folder, company, calendar=calendar, seed=seed, on_progress=report)
        for company in chosen
    ]
    return SampleSummary(folder, ASX_SIM, tuple(file for pair in files for file in pair))


def _check(name: str, value: int, *, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}: give a number from {least} to {most}")


def _weekdays(first: date, count: int) -> Iterator[date]:
    day = first
    while count:
        if day.weekday() < 5:
            yield day
            count -= 1
        day += timedelta(days=1)


def _make_room(folder: Path) -> None:
    mark = folder / "reference-data" / "exchange.txt"
    ours = mark.is_file() and mark.read_text(encoding="utf-8").strip() == ASX_SIM
    names = ("trades", "quotes", "reference-data")
    old = [path for name in names for path in (folder / name).glob("*.csv")]
    if old and not ours:
        raise ConfigError(f"{folder} holds {len(old)} files that are no sample: name a new folder")
    for path in old:
        path.unlink()
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _write_company(
    folder: Path,
    company: SampleCompany,
    *,
    calendar: list[date],
    seed: int,
    on_progress: Callable[[str, int], None],
) -> tuple[FileSummary, FileSummary]:
    # No price strays further than half from the company's usual one.
    texts = pl.Series([_price_text(price) for price in range(company.price * 3 // 2)])
    trade_tally = _Tally(f"trades/{company.company_id}.csv", company.symbol)
    quote_tally = _Tally(f"quotes/{company.company_id}.csv", company.symbol)
    with (folder / trade_tally.path).open("wb") as a, (folder / quote_tally.path).open("wb") as b:
        for day in calendar:
            trades, quotes = make_day(company, seed=seed, day=day.toordinal())
            for some_trades in trades.parts(ROWS_A_WRITE):
                _write_rows(a, _trade_frame(some_trades, day=day, texts=texts))
            trade_tally.add(day, trades, [(trades.price, trades.volume)])
            on_progress(trade_tally.path, len(trades))
            for some_quotes in quotes.parts(ROWS_A_WRITE):
                _write_rows(b, _quote_frame(some_quotes, day=day, texts=texts))
            sides = [(quotes.bid, quotes.bid_volume), (quotes.ask, quotes.ask_volume)]
            quote_tally.add(day, quotes, sides)
            on_progress(quote_tally.path, len(quotes))
    return trade_tally.summary(), quote_tally.summary()


def _price_text(thousandths: int) -> str:
    whole, part = divmod(thousandths, 1000)
    return f"{whole}.{f'{part:03d}'.rstrip('0') or '0'}"


def _write_rows(handle: BinaryIO, frame: pl.DataFrame) -> None:
    frame.write_csv(
        handle,
        include_header=False,
        line_terminator="\r\n",
        quote_style="never",
        date_format="%m/%d/%Y",
        time_format="%H:%M:%S%.3f",
    )


def _trade_frame(trades: SampleTrades, *, day: date, texts: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "time": _times(trades.ms),
            "price": texts.gather(trades.price),
            "volume": trades.volume,
            "qualifiers": trades.code,
            "venue": pl.Series(["", "X"]).gather(trades.off_market),
            "buyer": texts.gather(trades.buyer).set(pl.Series(trades.buyer == 0), ""),
        }
    ).select(pl.lit(day).alias("date"), pl.all())


def _quote_frame(quotes: SampleQuotes, *, day: date, texts: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "time": _times(quotes.ms),
            "bid": texts.gather(quotes.bid),
            "ask": texts.gather(quotes.ask),
            "bid_volume": quotes.bid_volume,
            "ask_volume": quotes.ask_volume,
        }
    ).select(pl.lit(day).alias("date"), pl.all())


def _times(ms: Ints) -> pl.Series:
    return pl.Series(ms * 1_000_000).cast(pl.Time)


@dataclass
class _Tally:
    """Sums over the days of one file, as whole numbers until asked for."""

    path: str
    symbol: str
    rows_by_day: dict[date, int] = field(default_factory=dict)
    moments: list[datetime] = field(default_factory=list)
    distinct: int = 0
    volume: int = 0
    price: int = 0
    turnover: int = 0

    def add(self, day: date, columns: TimedColumns, sides: list[tuple[Ints, Ints]]) -> None:
        self.rows_by_day[day] = len(columns)
        self.moments = [*self.moments[:1], *(_utc(day, int(columns.ms[i])) for i in (0, -1))]
        self.distinct += pl.DataFrame(vars(columns)).n_unique()
        self.price += sum(int(price.sum()) for price, _ in sides)
        self.volume += sum(int(volume.sum()) for _, volume in sides)
        self.turnover += sum(int(np.dot(price, volume)) for price, volume in sides)

    def summary(self) -> FileSummary:
        return FileSummary(
            path=self.path,
            symbol=self.symbol,
            rows=sum(self.rows_by_day.values()),
            distinct_rows=self.distinct,
            sum_volume=self.volume,
            sum_price=Decimal(self.price).scaleb(-3),
            turnover=Decimal(self.turnover).scaleb(-3),
            first=self.moments[0],
            last=self.moments[-1],
            rows_by_day=self.rows_by_day,
        )


def _utc(day: date, ms: int) -> datetime:
    # Wall-clock arithmetic: adding to an aware local time does not cross an hour change.
    return (datetime.combine(day, time(), tzinfo=SYDNEY) + timedelta(milliseconds=ms)).astimezone(
        UTC
    )

"""Invented companies and their reference data, in the form of the ASX files."""

from datetime import date, timedelta
from pathlib import Path

from k2lib.sources.samples.draws import Company

FIRST_ID = 9001
MOST_COMPANIES = 500

_PRICES = (37_000, 5_300, 1_150, 12_600, 460, 24_900, 2_850)
_NAME_ENDS = ("ORQUEN", "AVELLO", "UMBRIX", "EZZANT", "OLYXIA", "INDORRA", "ARQUEST")
_TRADES_IN = ("MINERALS", "WATERWORKS", "TELEGRAPH", "ORCHARDS", "TOOLS")
_NO_RECORDS = "--- NO RECORDS TO REPORT ---"


def company_of(rank: int, *, trades: int, quotes: int) -> Company:
    """Invent a company; each one trades a twelfth of what the one before it does."""
    initial = chr(ord("A") + (7 * rank + 1) % 26)
    block = rank // 26
    share = 12 ** min(rank, 9)
    return Company(
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


def write_reference(folder: Path, companies: list[Company], *, first_day: date) -> None:
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

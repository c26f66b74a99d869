"""ASX reference data: companies by id, as v2 rows; corporate actions, read on request."""

import csv
import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from k2lib.errors import SourceError
from k2lib.schema.decimals import PRICE, text_fits, type_text
from k2lib.schema.identity import message_id
from k2lib.schema.records import REFERENCE
from k2lib.venues.base import Instrument
from k2lib.venues.csv_chunks import describe_content
from k2lib.venues.source_files import MARKER, check_is_file, read_marker

FOLDER: Final = "reference-data"
COMPANY_COLUMNS: Final = 6
# No reference data are as long: these were read whole.
FILE_BYTES: Final = 16 * 1024 * 1024
NAMED: Final = 10
NO_RECORDS: Final = "--- NO RECORDS TO REPORT ---"


@dataclass(frozen=True)
class Company:
    """One line of `company_info.csv`; dates are text as in the file."""

    company_id: str
    symbol: str
    name: str
    isin: str
    start_date: str
    end_date: str


@dataclass(frozen=True)
class ReferenceData:
    """The companies of one folder by id, and the venue their files come from."""

    folder: Path
    exchange: str
    companies: dict[str, Company]

    def instrument(self, company_id: str) -> Instrument:
        """Return what all rows of a company's file share.

        Raises:
            SourceError: the id is not in the reference data.
        """
        company = self.companies.get(company_id)
        if company is None:
            ids = list(self.companies)
            more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
            raise SourceError(
                f"company id {company_id} is not in {self.folder / 'company_info.csv'}; "
                f"it has {', '.join(ids[:NAMED])}{more}: add the line, or give --reference"
            )
        return Instrument(
            self.exchange, company.symbol, company_id=company.company_id, isin=company.isin
        )

    def rows(self, ingested: datetime) -> pa.Table:
        """Return the companies as rows of `records.REFERENCE`, in file order."""
        rows = [self._row(company, ingested) for company in self.companies.values()]
        return pa.Table.from_pylist(rows, schema=REFERENCE.arrow)

    def _row(self, company: Company, ingested: datetime) -> dict[str, object]:
        dates = {"end_date": company.end_date, "start_date": company.start_date}
        return {
            "message_id": message_id(self.exchange, "R", *_fields(company)),
            "company_id": company.company_id,
            "symbol": company.symbol,
            "exchange": self.exchange,
            "asset_class": "equities",
            "company_name": company.name,
            "isin": company.isin or None,
            "currency": "AUD",
            "is_active": True,
            "ingestion_timestamp": ingested,
            "vendor_data": {name: text for name, text in dates.items() if text},
        }


@dataclass(frozen=True)
class CorporateActions:
    """Dividends, splits and mergers of one reference folder, a frame each, with symbols."""

    dividends: pl.DataFrame
    splits: pl.DataFrame
    mergers: pl.DataFrame


def find_reference(path: Path) -> Path:
    """Return the reference folder that belongs to a data file: beside it or one folder up.

    Raises:
        SourceError: there is none; the message names where it was looked for.
    """
    beside = [parent / FOLDER for parent in path.resolve().parents[:2]]
    for folder in beside:
        if (folder / "company_info.csv").is_file():
            return folder
    raise SourceError(
        f"{path}: no reference data; looked for company_info.csv in "
        f"{' and '.join(map(str, beside))}: give --reference"
    )


def read_reference(folder: Path) -> ReferenceData:
    """Read `company_info.csv`; the venue is the text of `exchange.txt`, else ASX.

    Raises:
        SourceError: the file is missing or malformed; the message names the line.
    """
    path = folder / "company_info.csv"
    (_, header), *lines = _csv_lines(path)
    if header[0] != "company_id":
        raise SourceError(f"{path}, line 1: begins with {header[0][:40]!r}, company_id expected")
    companies: dict[str, Company] = {}
    for number, fields in lines:
        _check_company(fields, position=f"{path}, line {number}")
        if fields[0] in companies:
            raise SourceError(f"{path}, line {number}: company id {fields[0]} stands there twice")
        companies[fields[0]] = Company(*fields)
    return ReferenceData(folder, _exchange(folder), companies)


def read_corporate_actions(folder: Path) -> CorporateActions:
    """Read dividends, splits and mergers: amounts as decimals, dates as dates, ratios as text.

    Raises:
        SourceError: a file is missing or malformed; the message names it.
    """
    companies = read_reference(folder).companies
    symbols = {company_id: company.symbol for company_id, company in companies.items()}
    return CorporateActions(
        *(_actions(folder / f"{n}.csv", symbols) for n in ("dividends", "stock_splits", "mergers"))
    )


def _actions(path: Path, symbols: dict[str, str]) -> pl.DataFrame:
    (_, header), *lines = _csv_lines(path)
    names = [name.strip().lower().replace(" ", "_") for name in header]
    lines = [(number, fields) for number, fields in lines if fields != [NO_RECORDS]]
    for number, fields in lines:
        _check_amounts(dict(zip(names, fields, strict=False)), position=f"{path}, line {number}")
    records = [fields for _, fields in lines]
    try:
        frame = pl.DataFrame(records, schema=dict.fromkeys(names, pl.String), orient="row")
        return frame.select(
            pl.col("company_id").replace_strict(symbols, default=None).alias("symbol"),
            *(_action_column(name) for name in names),
        )
    except pl.exceptions.PolarsError as exc:
        raise SourceError(f"{path}: {str(exc).splitlines()[0]}") from exc


def _check_amounts(action: dict[str, str], *, position: str) -> None:
    """Polars would round an amount of more than eight decimals."""
    for name, text in action.items():
        if name.endswith("amount") and not text_fits(text, PRICE):
            raise SourceError(
                f"{position}: {name} {text[:40]!r} is no number of {type_text(PRICE)}"
            )


def _action_column(name: str) -> pl.Expr:
    if name.endswith("date"):
        return pl.col(name).str.to_date("%m/%d/%Y")
    if name.endswith("amount"):
        return pl.col(name).cast(pl.Decimal(PRICE.precision, PRICE.scale))
    return pl.col(name)


def _fields(company: Company) -> tuple[str, ...]:
    return (
        company.company_id,
        company.symbol,
        company.name,
        company.isin,
        company.start_date,
        company.end_date,
    )


def _check_company(fields: list[str], *, position: str) -> None:
    if len(fields) != COMPANY_COLUMNS or "|" in "".join(fields):
        raise SourceError(
            f"{position}: {len(fields)} columns, {COMPANY_COLUMNS} without | expected"
        )
    if not fields[0] or not fields[1]:
        raise SourceError(f"{position}: company id or symbol is empty")


def _exchange(folder: Path) -> str:
    marker = folder / MARKER
    return read_marker(marker) if marker.is_file() else "ASX"


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines that are not blank, each with its number."""
    reader = csv.reader(io.StringIO(_text(path)))
    try:
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as exc:
        raise SourceError(f"{path}, line {reader.line_num}: {exc}") from exc
    if not lines:
        raise SourceError(f"{path}: the file is empty")
    return lines


def _text(path: Path) -> str:
    """Return the text without a byte-order mark, with LF for whatever ends its lines."""
    try:
        check_is_file(path, str(path))
        with path.open("rb") as opened:
            data = opened.read(FILE_BYTES + 1)
        if len(data) > FILE_BYTES:
            raise SourceError(f"{path}: more than {FILE_BYTES:,} bytes, no reference data")
        text = data.decode("utf-8-sig")
    except OSError as exc:
        raise SourceError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SourceError(f"{path}: cannot be read: {describe_content(data) or exc}") from exc
    return text.replace("\r\n", "\n").replace("\r", "\n")

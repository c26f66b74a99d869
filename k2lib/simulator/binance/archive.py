"""Archive files as Binance offers them: one zip with one CSV for a day or a month, and its hash."""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp

from k2lib.errors import ConfigError
from k2lib.simulator.binance.columns import Orders, Trades, decimals
from k2lib.simulator.binance.market import Book, Market
from k2lib.simulator.binance.sequence import US, Sequence

KINDS = ("trades", "aggTrades")
# Files of days before this one have times in ms, later ones in µs.
MICROS_SINCE = date(2025, 1, 1)

_CHUNK = 65_536
_DAY_S = 86_400
_TRADE = "%d,%d.%08d,%d.%08d,%d.%08d,%d,%s,True\n"
_ORDER = "%d,%d.%08d,%d.%08d,%d,%d,%d,%s,True\n"
_WORDS = ("False", "True")
_PATH = re.compile(
    r"(?P<span>daily|monthly)/(?P<kind>trades|aggTrades)/(?P<symbol>[A-Z0-9]+)/"
    r"(?P<name>(?P=symbol)-(?P=kind)-(?P<day>\d{4}-\d{2}(?:-\d{2})?)\.zip)(?P<sum>\.CHECKSUM)?"
)


@dataclass(frozen=True)
class Span:
    """From when to when a file's trades are, in seconds since the epoch, and its unit."""

    start_s: float
    end_s: float
    micros: bool


def write_archive(
    folder: Path,
    symbol: str,
    day: date,
    *,
    kind: str = "trades",
    rate: float = 50.0,
    seed: int = 7,
    start_s: float = 0.0,
    end_s: float = _DAY_S,
    limit: int | None = None,
    book: Book | None = None,
) -> Path:
    """Write a day's file and its CHECKSUM, as the exchange of that seed and rate made them.

    Args:
        start_s: seconds into the UTC day at which the file begins; `end_s`, at which it ends.
        limit: rows at most.
        book: of a running exchange, whose trades up to now these are then; see
            `OfflineExchange.book`.
    Returns:
        The zip's path; its CHECKSUM lies beside it.
    """
    begin_s = _midnight(day)
    span = Span(begin_s + start_s, begin_s + end_s, day >= MICROS_SINCE)
    book = book or _whole(Sequence(symbol, rate=rate, seed=seed), span)
    path = folder / f"{symbol}-{kind}-{day.isoformat()}.zip"
    return _write(path, book, span, kind=kind, limit=limit)


def _whole(sequence: Sequence, span: Span) -> Book:
    next_id = sequence.id_at(int(span.end_s * US))
    return Book(sequence, next_id, next_id, int(span.end_s * US))


def _write(path: Path, book: Book, span: Span, *, kind: str, limit: int | None) -> Path:
    if kind not in KINDS:
        raise ConfigError(f"no archive of {kind!r}; there are " + ", ".join(KINDS))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = zipfile.ZipInfo(path.with_suffix(".csv").name, date_time=(2026, 1, 1, 0, 0, 0))
    name.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as zipped, zipped.open(name, "w", force_zip64=True) as csv:
        for text in _LINES[kind](book, span, limit):
            csv.write(text.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return path


def _trade_lines(book: Book, span: Span, limit: int | None) -> Iterator[str]:
    for trades in _chunks(book, span, limit):
        yield _text_of_trades(trades, book, micros=span.micros)


def _order_lines(book: Book, span: Span, limit: int | None) -> Iterator[str]:
    first = book.order_of(book.sequence.id_at(int(span.start_s * US)))
    end = book.order_of(min(book.next_id, book.sequence.id_at(int(span.end_s * US))) - 1) + 1
    end = end if limit is None else min(end, first + limit)
    for begin in range(first, end, _CHUNK):
        orders = book.orders(begin, min(end, begin + _CHUNK))
        yield _text_of_orders(orders, book, micros=span.micros)


def _chunks(book: Book, span: Span, limit: int | None) -> Iterator[Trades]:
    first = book.sequence.id_at(int(span.start_s * US))
    end = min(book.next_id, book.sequence.id_at(int(span.end_s * US)))
    left = max(0, end - first) if limit is None else limit
    while first < end and left:
        trades = book.trades_from(first, min(left, _CHUNK), end=end)
        left -= len(trades)
        first = int(trades.id[-1]) + 1 if len(trades) else end
        yield trades


def _text_of_trades(trades: Trades, book: Book, *, micros: bool) -> str:
    item = book.instrument
    columns = (
        trades.id.tolist(),
        *decimals(trades.ticks * item.price_scale),
        *decimals(trades.steps * item.quantity_scale),
        *decimals(trades.ticks * trades.steps * item.amount_scale),
        (trades.time_us if micros else trades.time_us // 1000).tolist(),
        [_WORDS[flag] for flag in trades.buyer_maker.tolist()],
    )
    return "".join([_TRADE % row for row in zip(*columns, strict=True)])


def _text_of_orders(orders: Orders, book: Book, *, micros: bool) -> str:
    item = book.instrument
    columns = (
        orders.id.tolist(),
        *decimals(orders.ticks * item.price_scale),
        *decimals(orders.steps * item.quantity_scale),
        orders.first.tolist(),
        orders.last.tolist(),
        (orders.time_us if micros else orders.time_us // 1000).tolist(),
        [_WORDS[flag] for flag in orders.buyer_maker.tolist()],
    )
    return "".join([_ORDER % row for row in zip(*columns, strict=True)])


_LINES: dict[str, Callable[[Book, Span, int | None], Iterator[str]]] = {
    "trades": _trade_lines,
    "aggTrades": _order_lines,
}


class Archive:
    """The files of the days and months gone by, each made when first asked for."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._folder = Path(mkdtemp(prefix="k2-exchange-"))

    def file(self, path: str, now: float) -> Path | None:
        """Return the file of a path below `/data/spot/`, or None if there is none."""
        asked = _PATH.fullmatch(path)
        span = None if asked is None else _span(asked["span"], asked["day"])
        if asked is None or span is None or span.end_s > now:
            return None
        if asked["symbol"] not in self._market.books:
            return None
        made = self._folder / asked["name"]
        if not made.exists():
            self._make(made, asked["symbol"], span, asked["kind"])
        return made.with_name(f"{made.name}{asked['sum'] or ''}")

    def close(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, path: Path, symbol: str, span: Span, kind: str) -> None:
        # A book of its own: this runs in a thread, beside the one that trades.
        book = self._market.books[symbol].copy()
        part = Path(mkdtemp(dir=self._folder))
        written = _write(part / path.name, book, span, kind=kind, limit=None)
        checksum = f"{path.name}.CHECKSUM"
        written.with_name(checksum).replace(path.with_name(checksum))
        written.replace(path)


def _span(span: str, text: str) -> Span | None:
    daily = len(text) == len("YYYY-MM-DD")
    if daily != (span == "daily"):
        return None
    with suppress(ValueError):
        day = date.fromisoformat(text if daily else f"{text}-01")
        end = day + timedelta(days=1 if daily else 31)
        end = end if daily else end.replace(day=1)
        return Span(_midnight(day), _midnight(end), day >= MICROS_SINCE)
    return None


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()

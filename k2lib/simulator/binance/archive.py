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
from k2lib.simulator.binance.columns import AggTradeColumns, TradeColumns, decimals, times
from k2lib.simulator.binance.instruments import price_and_quantity
from k2lib.simulator.binance.market import Market, TradeTape
from k2lib.simulator.binance.trade_generator import US, TradeGenerator

KINDS = ("trades", "aggTrades")
# Files of earlier days have times in ms, of later ones in µs.
MICROS_SINCE = date(2025, 1, 1)

_CHUNK = 65_536
_DAY_S = 86_400
_TRADE = "%d,%d.%08d,%d.%08d,%d.%08d,%d,%s,True\n"
_AGG_TRADE = "%d,%d.%08d,%d.%08d,%d,%d,%d,%s,True\n"
_BOOLS = ("False", "True")
_PATH = re.compile(
    r"(?P<span>daily|monthly)/(?P<kind>trades|aggTrades)/(?P<symbol>[A-Z0-9]+)/"
    r"(?P<name>(?P=symbol)-(?P=kind)-(?P<day>\d{4}-\d{2}(?:-\d{2})?)\.zip)(?P<sum>\.CHECKSUM)?"
)


@dataclass(frozen=True)
class ArchiveSpan:
    """Start and end of a file's trades, in seconds since the epoch, and its time unit."""

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
    tape: TradeTape | None = None,
) -> Path:
    """Write a day's file and its CHECKSUM, as the exchange of that seed and rate made them.

    Args:
        start_s: seconds into the UTC day at which the file begins; `end_s`, at which it ends.
        limit: rows at most.
        tape: take the trades up to now of a running exchange; see `OfflineExchange.tape`.
    Returns:
        The zip's path; its CHECKSUM lies beside it.
    """
    begin_s = _midnight(day)
    span = ArchiveSpan(begin_s + start_s, begin_s + end_s, day >= MICROS_SINCE)
    tape = tape or _tape_until(TradeGenerator(symbol, rate=rate, seed=seed), span)
    path = folder / f"{symbol}-{kind}-{day.isoformat()}.zip"
    return _write(path, tape, span, kind=kind, limit=limit)


def _tape_until(generator: TradeGenerator, span: ArchiveSpan) -> TradeTape:
    next_id = generator.id_at(int(span.end_s * US))
    return TradeTape(generator, next_id, next_id, int(span.end_s * US))


def _write(path: Path, tape: TradeTape, span: ArchiveSpan, *, kind: str, limit: int | None) -> Path:
    if kind not in KINDS:
        raise ConfigError(f"no archive of {kind!r}; there are " + ", ".join(KINDS))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = zipfile.ZipInfo(path.with_suffix(".csv").name, date_time=(2026, 1, 1, 0, 0, 0))
    name.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as zipped, zipped.open(name, "w", force_zip64=True) as csv:
        for text in _LINES[kind](tape, span, limit):
            csv.write(text.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return path


def _trade_lines(tape: TradeTape, span: ArchiveSpan, limit: int | None) -> Iterator[str]:
    for trades in _chunks(tape, span, limit):
        yield _trade_text(trades, tape, micros=span.micros)


def _agg_trade_lines(tape: TradeTape, span: ArchiveSpan, limit: int | None) -> Iterator[str]:
    first = tape.agg_id_of(tape.generator.id_at(int(span.start_s * US)))
    end = tape.agg_id_of(min(tape.next_id, tape.generator.id_at(int(span.end_s * US))) - 1) + 1
    end = end if limit is None else min(end, first + limit)
    for begin in range(first, end, _CHUNK):
        agg_trades = tape.agg_trades(begin, min(end, begin + _CHUNK))
        yield _agg_trade_text(agg_trades, tape, micros=span.micros)


def _chunks(tape: TradeTape, span: ArchiveSpan, limit: int | None) -> Iterator[TradeColumns]:
    first = tape.generator.id_at(int(span.start_s * US))
    end = min(tape.next_id, tape.generator.id_at(int(span.end_s * US)))
    rows_left = max(0, end - first) if limit is None else limit
    while first < end and rows_left:
        trades = tape.trades_from(first, min(rows_left, _CHUNK), end=end)
        rows_left -= len(trades)
        first = int(trades.id[-1]) + 1 if len(trades) else end
        yield trades


def _trade_text(trades: TradeColumns, tape: TradeTape, *, micros: bool) -> str:
    item = tape.instrument
    columns = (
        trades.id.tolist(),
        *price_and_quantity(trades, item),
        *decimals(trades.ticks * trades.steps * item.amount_scale),
        times(trades.time_us, micros=micros),
        [_BOOLS[flag] for flag in trades.buyer_maker.tolist()],
    )
    return "".join([_TRADE % row for row in zip(*columns, strict=True)])


def _agg_trade_text(agg_trades: AggTradeColumns, tape: TradeTape, *, micros: bool) -> str:
    item = tape.instrument
    columns = (
        agg_trades.id.tolist(),
        *price_and_quantity(agg_trades, item),
        agg_trades.first.tolist(),
        agg_trades.last.tolist(),
        times(agg_trades.time_us, micros=micros),
        [_BOOLS[flag] for flag in agg_trades.buyer_maker.tolist()],
    )
    return "".join([_AGG_TRADE % row for row in zip(*columns, strict=True)])


_LINES: dict[str, Callable[[TradeTape, ArchiveSpan, int | None], Iterator[str]]] = {
    "trades": _trade_lines,
    "aggTrades": _agg_trade_lines,
}


class ArchiveFiles:
    """The files of past days and months, each written at its first request."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._folder = Path(mkdtemp(prefix="k2-exchange-"))

    def file(self, path: str, now: float) -> Path | None:
        """Return the file of a path below `/data/spot/`, or None if there is none."""
        match = _PATH.fullmatch(path)
        span = None if match is None else _span(match["span"], match["day"])
        if match is None or span is None or span.end_s > now:
            return None
        if self._market.tape(match["symbol"], int(now * US)) is None:
            return None
        zip_path = self._folder / match["name"]
        if not zip_path.exists():
            self._create(zip_path, match["symbol"], span, match["kind"])
        return zip_path.with_name(f"{zip_path.name}{match['sum'] or ''}")

    def close(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _create(self, path: Path, symbol: str, span: ArchiveSpan, kind: str) -> None:
        # A copy, because the exchange goes on trading in another thread.
        tape = self._market.tapes[symbol].copy()
        part = Path(mkdtemp(dir=self._folder))
        written = _write(part / path.name, tape, span, kind=kind, limit=None)
        checksum = f"{path.name}.CHECKSUM"
        written.with_name(checksum).replace(path.with_name(checksum))
        written.replace(path)


def _span(span: str, text: str) -> ArchiveSpan | None:
    daily = len(text) == len("YYYY-MM-DD")
    if daily != (span == "daily"):
        return None
    with suppress(ValueError):
        day = date.fromisoformat(text if daily else f"{text}-01")
        end = day + timedelta(days=1 if daily else 31)
        end = end if daily else end.replace(day=1)
        return ArchiveSpan(_midnight(day), _midnight(end), day >= MICROS_SINCE)
    return None


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()

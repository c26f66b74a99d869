"""The texts of a live view as HTML: connection lamp, hosts, trade tape, alerts. Pure."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from k2lib.feed.status import FeedStatus, HostStatus, SymbolStatus, TapeRow
from k2lib.ops.alerts import Alert

TAPE_ROWS: Final = 12
GREEN, AMBER, RED, GREY = "#2a9d5c", "#e09f1f", "#d1495b", "#90a4ae"
LAMPS: Final = {"live": GREEN, "failed": RED, "stopped": GREY}
BREAKERS: Final = {"closed": GREY, "half_open": AMBER, "open": RED}
SIDES: Final = {"BUY": GREEN, "SELL": RED}
CELL: Final = "padding:0 .8em 0 0;text-align:right;white-space:nowrap"
TITLE: Final = "font-weight:600;margin:.2em 0"


def lamp(status: FeedStatus, *, problem: str = "") -> str:
    """Return the lamp: what the connection does, what was mended, and how the hosts stand."""
    color = RED if problem else LAMPS.get(status.state, AMBER)
    dot = f'<span class="k2-lamp" style="color:{color};font-size:1.4em">●</span>'
    wait = f" {status.delay_s:.1f} s" if status.state == "waiting" else ""
    reason = f": {status.reason}" if status.reason and status.state != "live" else ""
    told = problem or f"{status.state}{wait}{reason}"
    host = f" at {status.host}" if status.host else ""
    return (
        f'<div style="line-height:1.5">{dot} <b>{escape(status.exchange)}</b> '
        f'<span class="k2-state">{escape(told)}</span>{escape(host)}'
        f" · {status.reconnects} reconnects · {_gaps(status.symbols)}"
        f"<br>{' · '.join(map(_host, status.hosts))}</div>"
    )


def tape(symbols: Sequence[SymbolStatus], *, rows: int = TAPE_ROWS) -> str:
    """Return the newest trades of all symbols, the newest first."""
    trades = [(row, one.symbol) for one in symbols for row in one.tape]
    newest = sorted(trades, key=lambda pair: pair[0].timestamp, reverse=True)[:rows]
    lines = "".join(_trade(row, symbol) for row, symbol in newest)
    return (
        f'<div style="{TITLE}">Trades</div>'
        f'<table class="k2-tape" style="font-size:.85em;line-height:1.35">{lines}</table>'
    )


def alert_list(firing: Iterable[Alert]) -> str:
    """Return the alerts that fire, the oldest first."""
    lines = "".join(_alert(one) for one in firing)
    nothing = f'<span style="color:{GREEN}">no alert fires</span>'
    return f'<div style="{TITLE}">Alerts</div><div class="k2-alerts">{lines or nothing}</div>'


def _gaps(symbols: Sequence[SymbolStatus]) -> str:
    opened = sum(one.gaps_open for one in symbols)
    closed = sum(one.gaps_closed for one in symbols)
    filled = sum(one.backfilled for one in symbols)
    return f"gaps: {opened} open, {closed} closed, {filled:,} trades filled"


def _host(host: HostStatus) -> str:
    color = RED if host.banned else GREEN if host.connected else BREAKERS[host.breaker]
    state = "banned" if host.banned else f"breaker {host.breaker.replace('_', ' ')}"
    return f'<span style="color:{color}">●</span> {escape(host.url)} ({state})'


def _trade(row: TapeRow, symbol: str) -> str:
    cells = (
        f"{row.timestamp:%H:%M:%S}.{row.timestamp.microsecond // 1000:03}",
        escape(symbol),
        f'<span style="color:{SIDES.get(row.side, GREY)}">{row.side}</span>',
        f"{row.price.normalize():,f}",
        f"{row.quantity.normalize():f}",
    )
    return "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _alert(one: Alert) -> str:
    name = f"{one.name.replace('_', ' ')} {one.subject}".strip()
    return (
        f'<div style="line-height:1.3;margin-bottom:.3em"><span style="color:{RED}">▲</span> '
        f"<b>{escape(name)}</b> since {one.since:%H:%M:%S}<br>{escape(one.summary)}</div>"
    )

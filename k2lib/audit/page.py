"""The report as one HTML page: it needs no script, no other file, and fits a phone."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from k2lib.audit.report import PARTITION_COLUMNS, SYMBOL_COLUMNS, AuditReport, Check

HOW: Final = {
    "files on disk": "The table's folder is listed. Every file that a kept snapshot needs must be "
    "there; none that nothing needs may be there for long.",
    "offsets": "Each snapshot says from which to which Kafka offset it has read. Each must begin "
    "where the one before it ended, and none may end beyond Kafka's high watermark.",
    "rows of data files": "DuckDB counts the rows of the Parquet files; the manifests and the "
    "snapshot's summary must say the same.",
    "records": "Every record that the table has read is read from Kafka again, by Kafka's own "
    "client, and decoded by fastavro. It must be a row, a dead letter, a repetition of a "
    "record, or a row that another engine deleted.",
    "values": "Instrument, time, price, quantity and all else that is compared must be in the row "
    "as in its record.",
    "unique ids": "DuckDB counts rows and distinct ids.",
    "ids": "SQL computes each id again: the UUIDv5 of what the row says.",
    "venue ids": "The venue numbers its trades. From the first to the last none may be missing, "
    "unless the table of gaps says why.",
    "rows of named files": "The lines of the files are parsed by DuckDB. Symbol, time, price, "
    "quantity and side must be in the table as often as in the files, but for the dead letters.",
}
TEXTS: Final = ("table", "topic", "exchange", "symbol")
COLORS: Final = {"held": "good", "different": "bad", "not checked": "open"}
STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2430; --soft: #5b6675; --line: #d8dee6;
  --back: #ffffff; --good: #0b7a43; --bad: #b3261e; --open: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6eaf0; --soft: #9aa6b5; --line: #333c48;
  --back: #12161c; --good: #58c98b; --bad: #ff8a80; --open: #e8b454; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 64rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); }
span.one { display: inline-block; margin-right: 1.25rem; }
.result { font-size: 1.25rem; font-weight: 600; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def to_html(report: AuditReport) -> str:
    """Return a report as a page."""
    color = "good" if report.held else "bad"
    checks = report.checks
    names = [name for name in HOW if any(one.name == name for one in checks)]
    first = report.first_difference
    difference = "" if first is None else f'<p class="bad">{escape(first)}</p>'
    facts = (
        f"Home {report.home}, {report.kafka}. {report.began:%Y-%m-%d %H:%M:%S} UTC, "
        f"{report.seconds:.1f} s."
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts = [
        "<h1>K2 audit</h1>",
        f'<p class="result {color}">{escape(report.summary)}</p>',
        difference,
        f'<p class="soft">{escape(facts)}</p>',
        *(f"<p>{escape(line)}</p>" for line in report.equations),
        *(_section(name, [one for one in checks if one.name == name]) for name in names),
        _numbers(
            "Records of each partition", PARTITION_COLUMNS, [vars(o) for o in report.partitions]
        ),
        _numbers("Rows of the named files", SYMBOL_COLUMNS, [vars(one) for one in report.symbols]),
        f'<h2>How</h2><p class="soft">Counted by {escape(versions)}; nothing of K2 that writes '
        "or reads these data took part.</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>K2 audit</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _section(name: str, checks: Sequence[Check]) -> str:
    states = " ".join(
        f'<span class="one"><b>{escape(one.table)}</b> {escape(one.counted)} '
        f'<span class="{COLORS[one.state]}">{one.state}</span></span>'
        for one in checks
    )
    results = {one.result: COLORS[one.state] for one in checks if one.result}
    remarks = "".join(f'<p class="{color}">{escape(t)}</p>' for t, color in results.items())
    return (
        f'<h2>{escape(name.capitalize())}</h2><p class="soft">{escape(HOW[name])}</p>'
        f"<p>{states}</p>{remarks}"
    )


def _numbers(title: str, names: Sequence[str], rows: Iterable[dict[str, object]]) -> str:
    lines = [
        "<tr>" + "".join(_cell(row[name]) for name in names) + "</tr>"
        for row in rows
        if row.get("records", 1) or row.get("unread")
    ]
    if not lines:
        return ""
    return f'<h2>{title}</h2><div class="wide"><table>{_head(names)}{"".join(lines)}</table></div>'


def _head(names: Sequence[str]) -> str:
    cells = (
        f"<th>{one}</th>" if one in TEXTS else f'<th class="number">{one}</th>'
        for one in (name.replace("_", " ") for name in names)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    text = str(value)
    is_number = text.replace(".", "").replace("-", "").isdigit()
    return f'<td class="number">{text}</td>' if is_number else f"<td>{escape(text)}</td>"

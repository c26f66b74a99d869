"""What the documents say of streaming is what the code has: numbers, names, states, examples."""

import ast
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from support.binance_facts import (
    INSTRUMENTS,
    LATEST_US,
    RECEIVED_US,
    Fact,
    aggregates_body,
    csv_line,
    rest_body,
    stream_frame,
)
from support.documents import (
    BENCHMARKS_DOC,
    ROOT,
    SCHEMA_DOC,
    STREAM_DOC,
    code,
    quoted,
    rows,
    section,
)
from support.fake_clock import FakeClock

from k2lib import K2, events
from k2lib.feed.connections import FLOOD, FLOOD_LINGERS
from k2lib.feed.feed import FILLS_WAITING
from k2lib.feed.options import FeedOptions
from k2lib.feed.status import FeedState
from k2lib.feed.worker import AHEAD_US, RETRY_S
from k2lib.kafka.producer import FLUSH_S, QUEUE_MESSAGES
from k2lib.ops.alerts import ALERT_NAMES, AlertLimits
from k2lib.ops.firing_alerts import Alert
from k2lib.ops.metrics import Metrics
from k2lib.ops.webhook import body
from k2lib.resilience.backoff import delays
from k2lib.resilience.breaker import Breaker, Circuit
from k2lib.resilience.failover import PAUSE_S
from k2lib.schema.records import GAP
from k2lib.simulator import ASX_SIM, BINANCE_SIM, FAULTS, OfflineExchange
from k2lib.simulator.binance.rest import ENDPOINTS
from k2lib.venues.binance.archive import parse_lines
from k2lib.venues.binance.backfill import AGGREGATES_WEIGHT, PAGE, TRADES_WEIGHT
from k2lib.venues.binance.connection import (
    MESSAGES_A_SECOND,
    REPLY_S,
    STREAMS_A_CONNECTION,
    STREAMS_A_MESSAGE,
)
from k2lib.venues.binance.fields import OURS
from k2lib.venues.binance.hosts import OF_OTHER_HOSTS, exchange_of
from k2lib.venues.binance.messages import parse_frames
from k2lib.venues.binance.pages import aggregates_page, single_trades, trades_page
from k2lib.venues.binance.rest import TIMEOUT_S, WEIGHT_A_MINUTE
from k2lib.venues.binance.venue import CLOCK_S, binance
from k2lib.venues.websocket import LONGEST_FRAME, OPEN_S, PING_S, PROBE_S

FACT = Fact()
QUOTE = b'{"u":400900217,"s":"BTCUSDT","b":"25.1","B":"31.2","a":"25.2","A":"40.6"}'
FIXED = [row for name in ("Fixed", "Alerts") for row in rows(section(STREAM_DOC, name))]
NUMBERS = dict(row for row in FIXED if len(row) == 2)
MEASURED = {
    "failures in a row that open a breaker",
    "successes on trial that close it",
    "part of a delay that chance may take off",
}
LIMITS = {
    "seconds behind that are lag": "lag_s",
    "seconds that the lag has lasted": "lag_for_s",
    "seconds that a gap may be open": "gap_open_s",
    "seconds after which what only happened is over": "quiet_s",
}
SIZES = {
    "streams on one connection": STREAMS_A_CONNECTION,
    "streams in one SUBSCRIBE": STREAMS_A_MESSAGE,
    "control messages a second; Binance allows 5": MESSAGES_A_SECOND,
    "seconds to open a connection": OPEN_S,
    "seconds for the reply to SUBSCRIBE": REPLY_S,
    "seconds between our own pings, and for the pong": PING_S,
    "seconds of silence after which a host is pinged besides": PROBE_S,
    "seconds of rest where 418 or 429 does not say": PAUSE_S,
    "bytes of the longest frame": LONGEST_FRAME,
    "seconds for a REST answer": TIMEOUT_S,
    "REST weight in 60 s; Binance allows 6,000": WEIGHT_A_MINUTE,
    "weight of `/historicalTrades`": TRADES_WEIGHT,
    "weight of `/aggTrades`": AGGREGATES_WEIGHT,
    "trades of one page": PAGE,
    "answers waiting for `feed-rows`": FILLS_WAITING,
    "frames for which a flood waits": FLOOD,
    "`linger_s` that it waits at most": FLOOD_LINGERS,
    "records waiting for Kafka": QUEUE_MESSAGES,
    "seconds for Kafka to acknowledge": FLUSH_S,
    "seconds between two tries of a paused feed": RETRY_S,
    "µs that a trade may be ahead of our clock": AHEAD_US,
    "clock offset from which `--check` fails, seconds": CLOCK_S,
}


def _names(title: str, text: str = STREAM_DOC) -> list[str]:
    """Return what stands in backticks in the first column below a title."""
    return [name for row in rows(section(text, title)) for name in quoted(row[0])]


def _options(of: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for one in fields(of):
        value = getattr(of, one.name)
        if one.name == "limits":
            yield from _options(value, "limits.")
        else:
            yield prefix + one.name, str(value)


def _texts_of_code() -> set[str]:
    trees = (ast.parse(path.read_text()) for path in (ROOT / "k2lib").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


def test_options_and_defaults_are_those_of_the_feed() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section(STREAM_DOC, "Options"))}
    assert told == dict(_options(FeedOptions()))


def _failures_that_open() -> int:
    breaker, failures = Breaker(clock=FakeClock()), 0
    while breaker.state is Circuit.CLOSED:
        breaker.failed()
        failures += 1
    return failures


def _successes_that_close() -> int:
    clock = FakeClock()
    breaker, successes = Breaker(failures=1, rest_s=1.0, clock=clock), 0
    breaker.failed()
    clock.advance(1.0)
    while breaker.state is not Circuit.CLOSED:
        assert breaker.allows()
        breaker.succeeded()
        successes += 1
    return successes


def test_breaker_and_back_off_are_as_the_numbers_say() -> None:
    assert NUMBERS["failures in a row that open a breaker"] == str(_failures_that_open())
    assert NUMBERS["successes on trial that close it"] == str(_successes_that_close())
    longest, shortest = (next(delays(draw=lambda part=part: part)) for part in (0.0, 1.0))
    taken_off = float(NUMBERS["part of a delay that chance may take off"])
    assert shortest == pytest.approx(longest * (1 - taken_off))


def test_every_fixed_number_is_the_one_in_force() -> None:
    limits = {label: getattr(AlertLimits(), field) for label, field in LIMITS.items()}
    assert {one.name for one in fields(AlertLimits)} == {*LIMITS.values()}
    told = {label: value for label, value in NUMBERS.items() if label not in MEASURED}
    assert told == {label: str(value) for label, value in (SIZES | limits).items()}


def test_the_states_of_a_feed_are_those_it_takes() -> None:
    assert _names("States of a feed") == [*get_args(FeedState)]


def test_the_states_of_a_host_are_told() -> None:
    told = [row[0].strip("`") for row in rows(section(STREAM_DOC, "States of a host"))]
    assert told == [*Circuit, "resting", "banned"]


def test_the_states_of_a_gap_are_told() -> None:
    states = next(one["type"]["symbols"] for one in GAP.parsed["fields"] if one["name"] == "state")
    assert [row[0] for row in rows(section(STREAM_DOC, "Gaps"))] == states


EVENTS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, events.Event) and not kind.__subclasses__()
]


def test_the_events_are_those_of_the_code_with_fields_and_meaning() -> None:
    assert [tuple(row) for row in rows(section(STREAM_DOC, "Events"))] == [
        (f"`{kind.__name__}`", ", ".join(one.name for one in fields(kind)), kind.__doc__)
        for kind in EVENTS
    ]


def test_every_event_that_is_named_is_one_of_the_code() -> None:
    named = re.findall(
        r"`((?:connection|reconnect|breaker|host|stream|gap|feed|rest|symbols)_[a-z]+)`", STREAM_DOC
    )
    assert set(named) > {"connection_rotated", "host_banned", "feed_paused"}
    assert set(named) <= {kind.name for kind in EVENTS} | _texts_of_code()


@pytest.mark.slow
def test_every_thread_that_is_named_runs_beside_a_feed_with_all_its_parts(tmp_path: Path) -> None:
    absent = {"redis_url": "redis://127.0.0.1:1", "alert_webhook_url": "http://127.0.0.1:1"}
    with (
        OfflineExchange(rate=20.0) as exchange,
        K2.open(home=tmp_path, **absent) as k2,
        k2.feed(["BTCUSDT"], venue=binance(exchange.ws_urls, exchange.rest_urls)),
    ):
        running = {thread.name for thread in threading.enumerate()}
    told = {name.replace("<table>", "trades_v2") for name in _names("Threads and queues")}
    assert told <= running


def test_the_metrics_are_those_served() -> None:
    served = {}
    for attribute, metric in vars(Metrics()).items():
        if hasattr(metric, "collect") and attribute != "registry":
            (family,) = metric.collect()
            name = family.name + ("_total" if family.type == "counter" else "")
            served[name] = ", ".join(getattr(metric, "_labelnames", ()))
    assert {row[0].strip("`"): row[1] for row in rows(section(STREAM_DOC, "Metrics"))} == served


def test_a_metric_named_elsewhere_is_one_of_them() -> None:
    metrics = set(_names("Metrics"))
    text = STREAM_DOC.replace("k2_binance_", "k2_feed_").replace("k2_feed_…", "")
    assert set(re.findall(r"\bk2_[a-z_]+[a-z]", text.replace("k2_feed_`", ""))) <= metrics
    seen = [row[2] for title in ("Of the venue", "Elsewhere") for row in _failures(title)]
    short = {name for text in seen for name in quoted(text)} - set(ALERT_NAMES)
    endings = ("_total", "_seconds", "_delay_seconds", "gaps_open", "queue_depth")
    for name in (name for name in short if name.endswith(endings)):
        assert f"k2_feed_{name}" in metrics, name


def test_metrics_and_alerts_of_the_results_are_among_them() -> None:
    faults = [row for row in rows(section(BENCHMARKS_DOC, "Faults")) if len(row) == 6]
    metrics = {name.replace("binance", "feed") for row in faults for name in quoted(row[3])}
    assert len(metrics) > 4 and metrics <= set(_names("Metrics"))
    assert {name for row in faults for name in quoted(row[4])} <= set(ALERT_NAMES)


def _failures(title: str) -> list[list[str]]:
    return rows(section(STREAM_DOC, title))


def test_the_alerts_are_those_that_fire() -> None:
    told = [row[0].strip("`") for row in rows(section(STREAM_DOC, "Alerts")) if len(row) == 5]
    assert told == list(ALERT_NAMES)


def test_every_alert_is_seen_at_a_failure() -> None:
    seen = [row[2] for title in ("Of the venue", "Elsewhere") for row in _failures(title)]
    assert set(ALERT_NAMES) <= {name for text in seen for name in quoted(text)}


def test_every_fault_is_told_with_its_options_and_as_a_failure() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section(STREAM_DOC, "The offline exchange"))}
    assert told == {
        name: ", ".join(f"{option}={value!r}" for option, value in options.items()) or "none"
        for name, options in FAULTS.items()
    }
    begins = [row[0].partition(":")[0].partition(" with")[0] for row in _failures("Of the venue")]
    assert {name for text in begins for name in quoted(text)} == set(FAULTS)


def test_every_answer_of_the_offline_exchange_is_told_with_its_parameters() -> None:
    answers = rows(section(STREAM_DOC, "What the offline exchange answers"))
    told = {path: row[1] for row in answers for path in quoted(row[0])}
    for name, endpoint in ENDPOINTS.items():
        assert endpoint.params <= set(quoted(told[f"/api/v3/{name}"])), name


def test_every_failure_says_what_happens_what_is_seen_and_what_to_do() -> None:
    found = [row for title in ("Of the venue", "Elsewhere") for row in _failures(title)]
    assert len(found) > len(FAULTS) and all(len(row) == 4 and all(row) for row in found)


def test_the_webhooks_body_is_what_is_posted() -> None:
    told = json.loads(code("json", section(STREAM_DOC, "Alerts")))
    (alert,) = told["alerts"]
    since = datetime.fromisoformat(alert["startsAt"])
    name, subject = alert["labels"]["alertname"], alert["labels"]["subject"]
    assert body(Alert(name, subject, True, since, alert["annotations"]["summary"])) == told


def test_every_test_that_is_named_exists() -> None:
    for command in quoted(section(STREAM_DOC, "What tests show")):
        words = command.split()
        assert words[0] == "pytest" and (ROOT / words[1]).is_file(), command
        text = (ROOT / words[1]).read_text()
        assert "-k" not in words or re.search(rf"def test_\w*{words[-1]}", text), command


def test_the_exchanges_are_those_that_records_can_have() -> None:
    told = [row[0] for row in rows(section(SCHEMA_DOC, "Exchanges"))]
    binance = {exchange_of("wss://stream.binance.com"), *OF_OTHER_HOSTS.values(), BINANCE_SIM}
    assert sorted(told) == sorted(binance | {"ASX", ASX_SIM})


def _vendor_keys() -> dict[str, set[str]]:
    """Return the keys of a record of each kind, as the code makes them."""
    known = {"latest_us": LATEST_US, "source": "any"}
    one = {"instrument": INSTRUMENTS["BTCUSDT"], "received_us": RECEIVED_US, **known}
    frames = [stream_frame(FACT), QUOTE]
    stamps = [RECEIVED_US] * len(frames)
    parsed = parse_frames(frames, stamps, instruments=INSTRUMENTS, unit="us", **known)  # type: ignore[arg-type]
    aggregates = aggregates_page(aggregates_body([FACT]), unit="us")
    lines, _ = parse_lines(
        f"{csv_line(FACT)}\n".encode(),
        INSTRUMENTS["BTCUSDT"],
        unit="us",
        ingested=datetime.fromisoformat("2026-11-24T00:00:00Z"),
        first_line=1,
        latest_us=LATEST_US,
    )
    tables = {
        "stream trade": parsed.trades,
        "REST trade": trades_page(rest_body([FACT]), unit="us", **one).rows,  # type: ignore[arg-type]
        "aggregate": single_trades(aggregates, **one).rows,  # type: ignore[arg-type]
        "archive": lines,
        "quote": parsed.quotes,
    }
    return {kind: set(dict(t["vendor_data"][0].as_py())) for kind, t in tables.items()}


def test_the_keys_of_vendor_data_are_those_of_each_source() -> None:
    text = section(SCHEMA_DOC, "vendor_data of Binance")
    head = re.search(r"^\| key \| meaning \| (.*) \|$", text, re.MULTILINE)
    assert head
    told = {row[0].strip("`"): row[2:] for row in rows(text)}
    assert set(told) == OURS | {"M", "venue_<name>"}
    for place, kind in enumerate(head[1].split(" | ")):
        keys = {key for key, cells in told.items() if cells[place] == "yes"}
        assert keys == _vendor_keys()[kind], kind


def test_every_field_of_a_frame_has_its_place() -> None:
    told = {name for row in rows(section(SCHEMA_DOC, "Binance"))[:-1] for name in quoted(row[0])}
    assert told == set(json.loads(stream_frame(FACT)))

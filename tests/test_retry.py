"""Dead letters are listed, shown and retried: what can be decoded now is in the lake once."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from support.log_rows import TRADES_TOPIC, many_trades, message_ids
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import NotFoundError, QueryError
from k2lib.iceberg.tables import TABLES, TableSpec, ensure_table, open_catalog
from k2lib.kafka.topics import DEAD_LETTERS
from k2lib.retry import FRAME, GONE, NO_RECORD
from k2lib.schema.codec import SCHEMA_ID_HEADER, encode, header
from k2lib.schema.dead_letters import RAW_BYTES, DeadLetter, dead_letter_rows
from k2lib.schema.records import DEAD_LETTER, TRADE, RecordSchema
from k2lib.settings import Settings

Run = Callable[..., tuple[int, str, str]]
NOW = datetime(2026, 11, 30, tzinfo=UTC)
OTHER_TOPIC = "market.equities.trades.other"


def message(number: int, schema_id: int) -> bytes:
    (batch,) = many_trades(1, first=number).to_batches()
    return encode(batch, TRADE, schema_id=schema_id)[0]


def letter(raw: bytes, position: str = "0:7", **changed: Any) -> DeadLetter:
    fields = {"source": TRADES_TOPIC, "reason": "undecodable", "detail": "why"} | changed
    return DeadLetter(position=position, raw=raw, **fields)


def keep(k2: K2, *letters: DeadLetter) -> list[str]:
    """Produce dead letters, wait for the lake, and return their message_ids."""
    rows = dead_letter_rows(letters, NOW)
    k2.pipeline.produce(DEAD_LETTERS, rows, DEAD_LETTER, key="source")
    k2.pipeline.settle()
    return list(rows["message_id"].to_pylist())


def on_topic(k2: K2, topic: str = TRADES_TOPIC) -> list[Message]:
    """Return all records of a topic, read by a plain client."""
    client = Consumer({"bootstrap.servers": k2.pipeline.cluster.bootstrap, "group.id": "plain"})
    partitions = [
        TopicPartition(topic, n, 0) for n in client.list_topics(topic).topics[topic].partitions
    ]
    ends = sum(client.get_watermark_offsets(one)[1] for one in partitions)
    client.assign(partitions)
    found: list[Message] = []
    wait_until(lambda: found.extend(client.consume(100, 0.1)) or len(found) >= ends)
    client.close()
    return found


def stored(k2: K2) -> list[str]:
    return k2.sql("SELECT message_id FROM lake.trades_v2 ORDER BY 1")["message_id"].to_list()


def schema_id_of(k2: K2) -> int:
    """Produce trade 0 and return the id of its schema."""
    k2.pipeline.produce(TRADES_TOPIC, many_trades(1), TRADE)
    k2.pipeline.settle()
    return int.from_bytes((on_topic(k2)[0].value() or b"")[1:5], "big")


def outcomes(report: Any) -> list[tuple[str, str | None]]:
    return [(one.outcome, one.reason) for one in report.letters]


def test_records_are_produced_again_as_they_came_and_stored_once(k2: K2) -> None:
    number = schema_id_of(k2)
    by_header = {SCHEMA_ID_HEADER: header(number), "b": b"\xff"}
    keep(
        k2,
        letter(message(1, number), key=b"k1", headers={}),
        letter(message(2, number)[5:], "1:8", key=b"k2", headers=by_header),
        letter(message(3, number), "2:9"),
    )
    assert outcomes(k2.retry_dead_letters()) == [("stored", None)] * 3
    assert outcomes(k2.retry_dead_letters()) == [("already stored", None)] * 3
    assert stored(k2) == message_ids(4)
    again = {one.value(): (one.key(), dict(one.headers() or ())) for one in on_topic(k2)}
    assert len(again) == 4
    assert again[message(1, number)] == (b"k1", {})
    assert again[message(2, number)[5:]] == (b"k2", by_header)
    assert again[message(3, number)] == (None, {})


def test_a_record_whose_schema_came_later_is_stored_by_its_retry(tmp_path: Path) -> None:
    with K2.open(home=tmp_path, commit_interval_s=0.1) as k2:
        number = schema_id_of(k2)
        later = number + 2  # the dead letter's own schema takes the next one
        client = Producer({"bootstrap.servers": k2.pipeline.cluster.bootstrap})
        client.produce(TRADES_TOPIC, message(5, later), key=b"AAA")
        assert client.flush(60) == 0
        wait_until(lambda: k2.dead_letters().height == 1)
        refused = (("not retried", f"no schema has the id {later}"),)
        assert tuple(outcomes(k2.retry_dead_letters())) == refused
        k2.pipeline.produce(OTHER_TOPIC, many_trades(1), TRADE)
        assert outcomes(k2.retry_dead_letters()) == [("stored", None)]
        assert stored(k2) == ["t0000000", "t0000005"]


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (letter(b"1,2", "line 17", source="7078.csv"), NO_RECORD),
        (letter(b"PK", "file of 4711 bytes", source="BTCUSDT.zip"), NO_RECORD),
        (letter(b"{}", "1735800000000500:3"), FRAME),
        (letter(b"", "3:4711-4800", reason="lost"), GONE),
        (
            letter(bytes(RAW_BYTES + 1)),
            "cut: the dead letter has the first 65,536 of 65,537 bytes of the record",
        ),
    ],
)
def test_what_is_no_whole_record_says_so(k2: K2, refused: DeadLetter, why: str) -> None:
    keep(k2, refused)
    assert outcomes(k2.retry_dead_letters()) == [("not retried", why)]


def test_letters_are_chosen_by_id_reason_and_source(tmp_path: Path) -> None:
    with K2.open(home=tmp_path, commit_interval_s=0.1) as k2:
        first, second = keep(
            k2, letter(b"1", "line 1", source="a.csv", reason="bad_date"), letter(b"2")
        )
        assert k2.dead_letters(reason="bad_date")["message_id"].to_list() == [first]
        assert k2.dead_letters(source=TRADES_TOPIC)["message_id"].to_list() == [second]
        assert k2.dead_letters(last=1).height == 1
        report = k2.retry_dead_letters(second)
        assert [one.message_id for one in report.letters] == [second]
        with pytest.raises(NotFoundError, match="no dead letter has the message_id 'x'"):
            k2.dead_letters("x")
        with pytest.raises(NotFoundError) as other:
            k2.retry_dead_letters(first, reason="overflow", source="b.csv")
        assert str(other.value) == (
            f"the dead letter {first} has the reason 'bad_date', not 'overflow' "
            "and the source 'a.csv', not 'b.csv'"
        )
        with pytest.raises(QueryError, match="reason='x': give one of bad_checksum"):
            k2.dead_letters(reason="x")
        with pytest.raises(QueryError, match="last=-1: give the number of rows"):
            k2.dead_letters(last=-1)


def test_an_older_table_reads_as_without_keys_and_gets_them_with_its_next_letter(
    tmp_path: Path,
) -> None:
    parsed = json.loads(DEAD_LETTER.text)
    parsed["fields"] = parsed["fields"][:8]
    older = RecordSchema("dead_letter", json.dumps(parsed))
    catalog = open_catalog(Settings(home=tmp_path))
    table = ensure_table(catalog, TableSpec("dead_letters", "dead_letters", older, by_day=False))
    table.append(
        dead_letter_rows([letter(b"old")], NOW).select(older.arrow.names).cast(older.arrow)
    )
    with K2.open(home=tmp_path, commit_interval_s=0.1) as k2:
        (old,) = k2.dead_letters().to_dicts()
        assert (old["raw"], old["key"], old["headers"]) == (b"old", None, None)
        keep(k2, letter(b"new", "0:8", key=b"k", headers={"h": b"v"}))
        keys = k2.dead_letters().select("raw", "key").rows()
        assert sorted(keys) == [(b"new", b"k"), (b"old", None)]
        assert TABLES["dead_letters"].schema.arrow.names == k2.dead_letters().columns


@pytest.fixture
def kept(tmp_path: Path) -> Mapping[str, str]:
    """Return message_ids in the home of the command line: of a line, and of a record."""
    with K2.open(home=tmp_path / "home", commit_interval_s=0.1) as k2:
        line, record = keep(
            k2,
            letter("Zeile ä".encode(), "line 1", source="a.csv", reason="bad_date"),
            letter(header(99) + b"\xff", key=b"k", headers={"h": b"\xfe"}),
        )
    return {"line": line, "record": record}


def test_the_command_lists_and_shows(run: Run, kept: Mapping[str, str]) -> None:
    code, out, _ = run("dead-letters", "list", "--source", "a.csv")
    assert code == 0 and kept["line"] in out and kept["record"] not in out
    code, out, _ = run("dead-letters", "list", "--json")
    assert {one["message_id"] for one in json.loads(out)} == set(kept.values())
    code, out, _ = run("dead-letters", "show", kept["line"])
    assert (code, "Zeile ä" in out, "line 1" in out) == (0, True, True)
    code, out, _ = run("dead-letters", "show", kept["record"])
    assert "0x0000000063ff" in out and "header h    0xfe" in out
    code, out, _ = run("dead-letters", "show", kept["record"], "--json")
    assert json.loads(out)["headers"] == {"h": "/g=="}
    code, _, err = run("dead-letters", "show", "x")
    assert (code, "no dead letter has the message_id 'x'" in err) == (1, True)


def test_the_command_retries_and_says_why_not(run: Run, kept: Mapping[str, str]) -> None:
    code, out, _ = run("dead-letters", "retry", "--all")
    assert code == 2
    assert f"{kept['line']}  a.csv line 1  not retried: {NO_RECORD}" in out
    assert f"{TRADES_TOPIC} 0:7  not retried: no schema has the id 99" in out
    code, out, _ = run("dead-letters", "retry", kept["line"], "--json")
    assert (code, json.loads(out)["letters"][0]["reason"]) == (2, NO_RECORD)
    code, out, _ = run("dead-letters", "retry", "--reason", "overflow")
    assert (code, out) == (0, "no dead letters\n")
    code, _, err = run("dead-letters", "retry")
    assert code == 2 and "name a message_id, --reason, --source, or --all" in err


@pytest.mark.stack
def test_the_command_stores_what_another_process_left(
    run: Run, tmp_path: Path, empty_kafka: dict[str, str]
) -> None:
    with K2.open(home=tmp_path / "home", commit_interval_s=0.1, **empty_kafka) as k2:
        number = schema_id_of(k2)
        keep(k2, letter(message(1, number), key=b"AAA"))
    variables = {f"K2_{name.upper()}": value for name, value in empty_kafka.items()}
    code, out, _ = run("dead-letters", "retry", "--all", **variables)
    assert (code, "  stored" in out) == (0, True)

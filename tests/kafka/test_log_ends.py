"""Ends of logs are kept in the home, by whoever saw them, until their topic is made again."""

from pathlib import Path

import pytest

from k2lib.errors import TransientError
from k2lib.kafka.consumer import TopicPartition
from k2lib.kafka.log_ends import LogEnds

TOPIC = "market.equities.trades.asx"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
OLD, NEW = {TOPIC: "cluster/1"}, {TOPIC: "cluster/2/+="}


def test_a_new_topic_of_a_name_finds_the_ends_of_the_former_one(tmp_path: Path) -> None:
    LogEnds(tmp_path).note(OLD, {FIRST: 7, SECOND: 3})
    known = LogEnds(tmp_path)
    assert known.of_former_logs(TOPIC, NEW[TOPIC]) == {"cluster/1": {FIRST: 7, SECOND: 3}}
    assert known.of_former_logs(TOPIC, OLD[TOPIC]) == {}
    assert known.of_former_logs("market.gaps", "cluster/3") == {}


def test_ends_of_another_cluster_say_nothing_of_this_one(tmp_path: Path) -> None:
    known = LogEnds(tmp_path)
    known.note(OLD, {FIRST: 7})
    assert known.of_former_logs(TOPIC, "other/2") == {}


def test_an_end_never_goes_back_whoever_notes_it(tmp_path: Path) -> None:
    one, other = LogEnds(tmp_path), LogEnds(tmp_path)
    one.note(OLD, {FIRST: 7})
    other.note(OLD, {FIRST: 5, SECOND: 2})
    assert one.of_former_logs(TOPIC, NEW[TOPIC]) == {"cluster/1": {FIRST: 7, SECOND: 2}}


def test_a_forgotten_log_is_gone(tmp_path: Path) -> None:
    known = LogEnds(tmp_path)
    known.note(OLD, {FIRST: 7})
    known.forget(["cluster/1"])
    assert known.of_former_logs(TOPIC, NEW[TOPIC]) == {}


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"[1]", b'{"cluster'])
def test_a_garbled_file_is_begun_anew(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "log-ends.json").write_bytes(garbage)
    known = LogEnds(tmp_path)
    assert known.of_former_logs(TOPIC, NEW[TOPIC]) == {}
    known.note(OLD, {FIRST: 7})
    assert known.of_former_logs(TOPIC, NEW[TOPIC]) == {"cluster/1": {FIRST: 7}}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "log-ends.json").mkdir()
    with pytest.raises(TransientError, match=r"log-ends\.json cannot be written: Is a directory"):
        LogEnds(tmp_path).note(OLD, {FIRST: 7})


def test_the_log_of_an_embedded_broker_is_not_kept(tmp_path: Path) -> None:
    LogEnds(tmp_path).note({TOPIC: "embedded-1"}, {FIRST: 7})
    assert not list(tmp_path.iterdir())

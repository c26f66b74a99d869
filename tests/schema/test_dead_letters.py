"""Dead letters: kept as they came, one row each however often they are met."""

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any

from k2lib.schema.dead_letters import RAW_BYTES, DeadLetter, dead_letter_rows
from k2lib.schema.identity import NAMESPACE
from k2lib.schema.records import DEAD_LETTER

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
RAW = b"03/10/2014,\xff\x00,x"


def row(letter: DeadLetter, noticed: datetime = NOW) -> dict[str, Any]:
    (only,) = dead_letter_rows([letter], noticed).to_pylist()
    return only


def letter(**changed: Any) -> DeadLetter:
    fields = {"source": "7078.csv", "position": "line 17", "reason": "not_utf8", "detail": "why"}
    return DeadLetter(**{**fields, "raw": RAW, **changed})


def test_a_letter_keeps_place_reason_and_bytes() -> None:
    kept = row(letter())
    assert kept.pop("message_id")
    assert kept == {
        "noticed": NOW,
        "source": "7078.csv",
        "position": "line 17",
        "reason": "not_utf8",
        "detail": "why",
        "raw": RAW,
        "raw_size": len(RAW),
        "key": None,
        "headers": None,
    }


def test_identity_is_source_position_and_hash_of_the_bytes() -> None:
    text = f"7078.csv|line 17|{hashlib.sha256(RAW).hexdigest()}"
    assert row(letter())["message_id"] == str(uuid.uuid5(NAMESPACE, text))


def test_the_same_letter_noticed_again_is_the_same_record() -> None:
    again = row(letter(reason="other", detail="other"), datetime(2027, 1, 1, tzinfo=UTC))
    assert again["message_id"] == row(letter())["message_id"]


def test_other_bytes_at_the_same_place_are_another_record() -> None:
    assert row(letter(raw=b"other"))["message_id"] != row(letter())["message_id"]


def test_long_bytes_are_cut_at_64_kib_and_their_size_is_kept() -> None:
    long = b"x" * RAW_BYTES + b"tail"
    kept = row(letter(raw=long))
    assert (RAW_BYTES, len(kept["raw"]), kept["raw_size"]) == (65_536, 65_536, 65_540)
    assert kept["message_id"] != row(letter(raw=long[:RAW_BYTES]))["message_id"]


def test_a_detail_that_quotes_a_long_text_is_cut() -> None:
    assert row(letter(detail="price " + "1" * 1_000_000))["detail"] == "price " + "1" * 294


def test_rows_stand_in_the_order_of_the_letters() -> None:
    letters = [letter(position=f"line {number}") for number in range(9, 0, -1)]
    rows = dead_letter_rows(letters, NOW)
    assert rows["position"].to_pylist() == [one.position for one in letters]


def test_a_kafka_record_keeps_its_key_and_headers_and_its_id_is_as_before() -> None:
    record = letter(key=b"\xff", headers={"a": b"\xfe", "b": b""})
    kept = row(record)
    assert (kept["key"], dict(kept["headers"])) == (b"\xff", {"a": b"\xfe", "b": b""})
    assert kept["message_id"] == row(letter())["message_id"]


def test_no_letters_are_no_rows() -> None:
    rows = dead_letter_rows([], NOW)
    assert (rows.num_rows, rows.schema) == (0, DEAD_LETTER.arrow)

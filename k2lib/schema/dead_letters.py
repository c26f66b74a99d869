"""Dead letters: records that can never pass, kept with their raw bytes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import pyarrow as pa

from k2lib.schema.identity import message_id
from k2lib.schema.records import DEAD_LETTER

RAW_BYTES: Final = 64 * 1024
# A detail quotes what was wrong, which may be longer than a Kafka record can be.
LONGEST_DETAIL: Final = 300
DeadLetterReason = Literal[
    "bad_checksum",
    "bad_date",
    "bad_field",
    "bad_flag",
    "bad_number",
    "bad_text",
    "bad_time",
    "broken_zip",
    "lost",
    "negative",
    "not_json",
    "not_positive",
    "not_utf8",
    "overflow",
    "undecodable",
    "unknown_kind",
    "unknown_symbol",
    "wrong_columns",
]


@dataclass(frozen=True)
class RawDigest:
    """Size and SHA-256 of raw bytes, which may be more than is kept of them."""

    size: int
    sha256: str

    @classmethod
    def of(cls, raw: bytes) -> "RawDigest":
        """Return that of bytes which are there as a whole."""
        return cls(len(raw), hashlib.sha256(raw).hexdigest())


@dataclass(frozen=True)
class DeadLetter:
    """One refused record: its position in the source, the reason, and its raw bytes.

    Of a Kafka record also key and headers, so that it can be produced again; else both are None.
    `digest` is that of the whole record where `raw` is only its beginning.
    """

    source: str
    position: str
    reason: DeadLetterReason
    detail: str
    raw: bytes
    key: bytes | None = None
    headers: Mapping[str, bytes] | None = None
    digest: RawDigest | None = None


def dead_letter_rows(letters: Sequence[DeadLetter], noticed: datetime) -> pa.Table:
    """Return the letters as rows of `records.DEAD_LETTER`, in order, raw and detail cut."""
    digests = [letter.digest or RawDigest.of(letter.raw) for letter in letters]
    rows = [
        {
            "message_id": message_id(letter.source, letter.position, digest.sha256),
            "noticed": noticed,
            "source": letter.source,
            "position": letter.position,
            "reason": letter.reason,
            "detail": letter.detail[:LONGEST_DETAIL],
            "raw": letter.raw[:RAW_BYTES],
            "raw_size": digest.size,
            "key": letter.key,
            "headers": letter.headers,
        }
        for letter, digest in zip(letters, digests, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=DEAD_LETTER.arrow)

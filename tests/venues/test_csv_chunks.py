"""CSV files in chunks: bounded whatever they hold, and nothing of them is lost or moved."""

import hashlib
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.venues.csv_chunks import (
    BLOCK_BYTES,
    CHUNK_LINES,
    LINE_BYTES,
    Chunk,
    beginning,
    describe_content,
    other_content,
    read_chunks,
    read_pieces,
)
from k2lib.venues.csv_lines import BadLine

MIB = 1024 * 1024
LONG = b"0," * MIB


def chunks(data: bytes, chunk_bytes: int = 8 * MIB) -> list[Chunk]:
    pieces = read_pieces(io.BytesIO(data), block_bytes=chunk_bytes)
    return list(read_chunks(pieces, chunk_bytes=chunk_bytes))


def joined(found: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in found)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n", b""])
@pytest.mark.parametrize("extra", range(-2, 3))
def test_a_long_line_is_kept_as_its_beginning_and_its_digest(end: bytes, extra: int) -> None:
    # Its end is at the end of a block, or on one side of it.
    line = LONG + b"x" * (MIB - 3 + extra)
    found = chunks(line + end)
    ((number, long_line),) = [one for chunk in found for one in chunk.long_lines]
    assert (number, long_line.raw) == (1, line[: 64 * 1024])
    assert long_line.digest.size == len(line)
    assert long_line.digest.sha256 == hashlib.sha256(line).hexdigest()
    assert joined(found) == b"\n"


def test_lines_around_a_long_one_keep_their_numbers() -> None:
    found = chunks(b"a\nb\n" + LONG + b"\nc\n" + LONG + b"\nd")
    assert joined(found) == b"a\nb\n\nc\n\nd\n"
    assert [number for chunk in found for number, _ in chunk.long_lines] == [3, 5]


def test_a_long_line_is_refused_for_its_columns_or_for_its_length() -> None:
    (chunk,) = chunks(LONG)
    (few,) = chunk.bad_lines([], columns=7)
    assert (few.reason, few.detail) == ("wrong_columns", "1048577 columns, 7 expected")
    (long,) = chunk.bad_lines([], columns=MIB + 1)
    assert (long.reason, long.detail) == (
        "bad_text",
        "the line has 2,097,152 bytes, 262,144 at most",
    )


def test_a_line_of_256_kib_is_no_long_one() -> None:
    assert not any(chunk.long_lines for chunk in chunks(b"x" * LINE_BYTES + b"\n" * 2))
    assert any(chunk.long_lines for chunk in chunks(b"x" * (LINE_BYTES + 1) + b"\n"))


def test_progress_goes_on_while_a_long_line_is_read() -> None:
    data = b"first\n" + LONG * 8
    found = chunks(data, 4 * MIB)
    assert len(found) > 3
    assert sum(chunk.n_bytes for chunk in found) == len(data)


def test_a_chunk_has_some_100_000_lines_at_most() -> None:
    found = chunks(b"\n" * 3_000_000)
    assert sum(chunk.data.count(b"\n") for chunk in found) == 3_000_000
    assert max(chunk.data.count(b"\n") for chunk in found) < CHUNK_LINES + BLOCK_BYTES


@given(
    st.lists(st.sampled_from([b"", b"a", b"bc\r", b"\xc3\xa9,,", b"0" * 90]), max_size=30),
    st.integers(1, 200),
    st.booleans(),
    st.booleans(),
)
def test_chunks_together_are_the_file(
    lines: list[bytes], chunk_bytes: int, has_mark: bool, has_end: bool
) -> None:
    text = b"".join(line + b"\n" for line in lines)
    whole = text if has_end else text.removesuffix(b"\n")
    found = chunks(b"\xef\xbb\xbf" * has_mark + whole, chunk_bytes)
    expected = whole + b"\n" if whole and not whole.endswith(b"\n") else whole
    assert joined(found) == expected
    assert [chunk.first_line for chunk in found] == list(_first_lines(found))


def _first_lines(found: list[Chunk]) -> Iterator[int]:
    first_line = 1
    for chunk in found:
        yield first_line
        first_line += chunk.data.count(b"\n")


def test_the_beginning_is_a_thousand_lines_that_are_not_blank() -> None:
    assert beginning(b"a\n\n\r\n" * 900) == b"a\n" * 900
    assert beginning(b"a\n" * 5000) == b"a\n" * 1000
    assert beginning(b"") == b""


@pytest.mark.parametrize(
    ("data", "content"),
    [
        ("1,2\n".encode("utf-16"), "UTF-16 text, UTF-8 expected"),
        ("1,2\n".encode("utf-16-le"), "UTF-16 text, UTF-8 expected"),
        ("1,2\n".encode("utf-16-be"), "UTF-16 text, UTF-8 expected"),
        (b"%PDF-1.4\n", "a PDF"),
        (b"1;2;3\n", "semicolons between its columns, commas expected"),
        (b"1\t2\n", "tabs between its columns, commas expected"),
        (b"1,2\r3,4\r\n", "lines that end in CR alone, LF expected"),
        (b"<!doctype html>\n", "HTML or XML"),
        (b"PK\x03\x04\n", "a zip or a spreadsheet"),
        (b"1,2\n", None),
        (b"\0\0\0\0", None),
        (b"", None),
    ],
)
def test_content_that_is_no_line_is_named(data: bytes, content: str | None) -> None:
    assert describe_content(data) == content


def test_a_beginning_of_a_thousand_bad_lines_is_other_content() -> None:
    bad = [BadLine(n, b"x", "wrong_columns", "1 columns, 7 expected") for n in range(1000)]
    told = "its first 1,000 lines are malformed: 1 columns, 7 expected"
    assert other_content(b"x\n" * 1000, bad) == told
    assert other_content(b"x\n" * 999, bad[1:]) is None

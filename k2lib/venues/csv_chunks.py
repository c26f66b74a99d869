"""CSV files in chunks of whole lines, in bounded memory whatever a file holds."""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import IO, Final

from k2lib.schema.dead_letters import RAW_BYTES, DeadLetterReason, RawDigest
from k2lib.venues.csv_lines import BadLine, columns_error

Opened = IO[bytes] | BufferedIOBase
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Kafka takes records of a MiB, and a row has some fields of its line twice.
LINE_BYTES: Final = 256 * 1024
# No longer, so that only the first line of what is read can be too long.
BLOCK_BYTES: Final = LINE_BYTES
# Each may be a bad line, which takes a kilobyte until it is a dead letter.
CHUNK_LINES: Final = 100_000
BEGINNING_LINES: Final = 1000
UTF_16: Final = "UTF-16 text, UTF-8 expected"
SIGNATURES: Final = (
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip or a spreadsheet"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet"),
    (b"\x1f\x8b", "gzip data, in a file without .gz"),
    (b"PAR1", "a Parquet file"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
SEPARATORS: Final = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}


@dataclass(frozen=True)
class LongLine:
    """A line of more than 256 KiB: its first bytes, the digest of all of it, and its commas."""

    raw: bytes
    digest: RawDigest
    commas: int

    def bad_line(self, number: int, *, columns: int) -> BadLine:
        """Return it as a bad line of a file with so many columns."""
        reason: DeadLetterReason = "bad_text"
        detail = f"the line has {self.digest.size:,} bytes, {LINE_BYTES:,} at most"
        if self.commas + 1 != columns:
            reason, detail = columns_error(self.commas + 1, columns)
        return BadLine(number, self.raw, reason, detail, self.digest)


@dataclass(frozen=True)
class Piece:
    """Whole lines as they follow each other in a file, and how many of its bytes they took.

    A line of more than 256 KiB is `long_line`, and `data` a blank line in its place. While it is
    read, pieces without data count its bytes.
    """

    data: bytes
    n_bytes: int
    long_line: LongLine | None = None


@dataclass(frozen=True)
class Chunk:
    """Whole lines, the first of them numbered `first_line`.

    `long_lines` have their numbers; `data` has a blank line in the place of each. Without data, a
    chunk counts bytes of a long line.
    """

    data: bytes
    first_line: int
    n_bytes: int
    long_lines: Sequence[tuple[int, LongLine]] = ()

    def bad_lines(self, malformed: Iterable[BadLine], *, columns: int) -> list[BadLine]:
        """Return its malformed and its long lines in their order; `columns` is what a line has."""
        long = (line.bad_line(number, columns=columns) for number, line in self.long_lines)
        return sorted([*malformed, *long], key=lambda bad: bad.number)


def read_pieces(opened: Opened, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Piece]:
    """Read whole lines, a block at a time, without a byte-order mark; the last may lack its LF."""
    block_bytes = min(block_bytes, BLOCK_BYTES)
    pending = opened.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
    while block := opened.read(block_bytes):
        pending += block
        end = pending.find(b"\n")
        if (len(pending) if end < 0 else end) > LINE_BYTES:
            pending = yield from _read_long_line(pending, opened)
        cut = pending.rfind(b"\n") + 1
        if cut:
            yield Piece(pending[:cut], cut)
            pending = pending[cut:]
    if pending:
        yield Piece(pending.removesuffix(b"\n") + b"\n", len(pending))


def _read_long_line(data: bytes, opened: Opened) -> Generator[Piece, None, bytes]:
    """Read on to the end of the line that `data` begins; return what follows it."""
    raw, part, end, newline, rest = data[:RAW_BYTES], b"", b"", b"", b""
    digest, size, commas = hashlib.sha256(), 0, 0
    while data:
        part, newline, rest = data.partition(b"\n")
        commas += part.count(b",")
        # CR or CRCR may be the end of the line: it is not part of it, wherever a block ends.
        digest.update((end + part)[:-2])
        size += len(part)
        end = (end + part)[-2:]
        if newline:
            break
        yield Piece(b"", len(part))
        data = opened.read(BLOCK_BYTES)
    digest.update(end.rstrip(b"\r"))
    size -= len(end) - len(end.rstrip(b"\r"))
    line = LongLine(raw, RawDigest(size, digest.hexdigest()), commas)
    yield Piece(b"\n", len(part) + 1 if newline else 0, line)
    return rest


class _Pending:
    """Lines that are in no chunk yet."""

    def __init__(self, first_line: int = 1) -> None:
        self.first_line = first_line
        self.n_lines = 0
        self.n_bytes = 0
        self._long_lines: list[tuple[int, LongLine]] = []
        self._parts: list[bytes] = []

    def add(self, piece: Piece) -> None:
        if piece.long_line is not None:
            self._long_lines.append((self.first_line + self.n_lines, piece.long_line))
        self.n_lines += piece.data.count(b"\n")
        self.n_bytes += piece.n_bytes
        self._parts.append(piece.data)

    def chunk(self, skipped: int = 0) -> Chunk:
        data = b"".join(self._parts)
        return Chunk(data, self.first_line, self.n_bytes + skipped, self._long_lines)


def read_chunks(pieces: Iterable[Piece], *, chunk_bytes: int) -> Iterator[Chunk]:
    """Put pieces together to chunks of about so many bytes, and at most some 100,000 lines."""
    pending, skipped = _Pending(), 0
    for piece in pieces:
        if not piece.data:
            skipped += piece.n_bytes
            if skipped >= chunk_bytes:
                yield Chunk(b"", pending.first_line, skipped)
                skipped = 0
            continue
        is_full = pending.n_bytes + piece.n_bytes > chunk_bytes or pending.n_lines >= CHUNK_LINES
        if is_full and pending.n_lines:
            yield pending.chunk()
            pending = _Pending(pending.first_line + pending.n_lines)
        pending.add(piece)
    if pending.n_lines:
        yield pending.chunk(skipped)


def beginning(data: bytes) -> bytes:
    """Return the first thousand lines that are not blank."""
    at_most = 3 * BEGINNING_LINES
    lines = [line for line in data.split(b"\n", at_most)[:at_most] if line.strip()]
    return b"".join(line + b"\n" for line in lines[:BEGINNING_LINES])


def other_content(head: bytes, bad_lines: Sequence[BadLine]) -> str | None:
    """Say what a file is whose beginning has no good line.

    Args:
        head: its `beginning`, and `bad_lines` those of it.
    Returns:
        None where that cannot be told, and its lines are fewer than a thousand.
    """
    if len(bad_lines) < BEGINNING_LINES:
        return describe_content(head)
    count, first = len(bad_lines), bad_lines[0]
    return describe_content(head) or f"its first {count:,} lines are malformed: {first.detail}"


def describe_content(data: bytes) -> str | None:
    """Say what data look like that have no good line; None where that cannot be told."""
    for start, name in SIGNATURES:
        if data.startswith(start):
            return name
    if data[:2].count(0) == 1:
        return UTF_16
    line = data.partition(b"\n")[0].rstrip(b"\r")
    if b"\r" in line:
        return "lines that end in CR alone, LF expected"
    for mark, name in SEPARATORS.items():
        if line.count(mark) > line.count(b","):
            return f"{name} between its columns, commas expected"
    return None

"""Files that are broken, or made to hurt: bounded memory, and one line that says what they are."""

import gzip
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.binance_facts import Fact, csv_line, write_archive, write_checksum

from k2lib import K2
from k2lib.errors import SourceError
from k2lib.load import FileReport
from k2lib.venues.asx.files import AsxFile, file_kind
from k2lib.venues.asx.reference import read_reference
from k2lib.venues.binance.archive import verify

NAME = "BTCUSDT-trades-2025-01-02.zip"
GOOD = "03/10/2014,10:00:06.717,1.11,3667,0,,\n"
COMPANY = (
    "company_id,symbol,company_name,ISIN,start_date,end_date\n"
    "9009,XYZ,XYZ MINING LTD,AU000000XYZ9,05/07/2008,03/31/2014\n"
)
MIB = 1024 * 1024
TIMES = [(day, hour, ms) for ms in range(1000) for day in range(10, 15) for hour in range(10, 22)]
ZEROS = 300 * MIB
# Prints how many MiB reading a file takes above a small one, its dead letters and its batches.
MEASURE = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from k2lib.venues import file_venue
from k2lib.venues.base import FileOptions

def read(venue, path):
    (file,) = file_venue(venue).find_files([path], FileOptions())
    file.open()
    batches, letters = 0, []
    for batch in file.read(datetime.now(UTC)):
        batches += 1
        letters += batch.dead_letters
    return batches, letters

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

venue, small, large = sys.argv[1:]
read(venue, small)
before = peak()
batches, letters = read(venue, large)
sizes = [letter.digest.size for letter in letters if letter.digest]
print(peak() - before, batches, len(letters), *sizes)
"""


@pytest.fixture
def kafka_settings() -> dict[str, str]:
    """Take the embedded Kafka only: no line of these files depends on it."""
    return {}


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def asx(folder: Path, data: str | bytes, name: str = "9009.csv") -> Path:
    """Write a file of trades with the reference data it needs."""
    write(folder / "reference-data" / "company_info.csv", COMPANY)
    return write(folder / "trades" / name, data)


def zeros_zip(path: Path) -> Path:
    path.parent.mkdir()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.csv", "w", force_zip64=True) as member,
    ):
        for _ in range(ZEROS // MIB):
            member.write(bytes(MIB))
    return path


def zeros_csv(path: Path) -> Path:
    asx(path.parent.parent, "", path.name)
    with path.open("wb") as sparse:
        sparse.truncate(ZEROS)
    return path


def zeros_gz(path: Path) -> Path:
    return asx(path.parent.parent, b"".join([gzip.compress(bytes(MIB), 1)] * 300), path.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("venue", "name", "make"),
    [
        ("binance", "x/" + NAME, zeros_zip),
        ("asx", "x/trades/9009.csv", zeros_csv),
        ("asx", "x/trades/9009.csv.gz", zeros_gz),
    ],
    ids=["zip", "csv", "csv.gz"],
)
def test_a_line_without_an_end_takes_little_memory_and_is_one_dead_letter(
    tmp_path: Path, venue: str, name: str, make: Callable[[Path], Path]
) -> None:
    small = asx(tmp_path / "small", GOOD)
    if venue == "binance":
        small = write_archive(tmp_path / NAME, csv_line(Fact()))
    command = [sys.executable, "-c", MEASURE, venue, str(small), str(make(tmp_path / name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    above, batches, letters, size = map(int, done.stdout.split())
    assert above < 200
    assert batches > 10  # each shows progress
    assert (letters, size) == (1, ZEROS)


def test_a_line_without_an_end_is_in_the_lake_with_its_size_and_its_beginning(
    k2: K2, tmp_path: Path
) -> None:
    line = b"\0" * (3 * MIB)
    path = write_archive(tmp_path / NAME, line)
    (report,) = k2.load_binance_archive(path).files
    assert report == FileReport(NAME, "trades", rows=0, already_there=0, dead_letters=1)
    found = k2.sql("select position, reason, raw, raw_size from dead_letters").rows()
    assert found == [("line 1", "wrong_columns", line[: 64 * 1024], len(line))]


def archive_error(k2: K2, path: Path) -> str:
    (report,) = k2.load_binance_archive(path).files
    assert report.rows == 0
    assert report.error is not None
    return report.error


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2000):
            archive.writestr(f"{number}.csv", bytes(10_000))


def a_folder(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/", "")
        archive.writestr("data/a.csv", csv_line(Fact()))


def another_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\n.exe", "MZ")


def no_member(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


def encrypted(path: Path) -> None:
    write_archive(path, csv_line(Fact()), checksum=False)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (many_members, "holds 0.csv, 1.csv, 2.csv, 3.csv, 4.csv, 1,995 more; one .csv expected"),
        (a_folder, "holds data/, data/a.csv; one .csv expected"),
        (another_member, "holds a\\n.exe; one .csv expected"),
        (no_member, "holds nothing; one .csv expected"),
        (encrypted, "is encrypted, password required"),
    ],
)
def test_a_zip_that_is_no_archive_of_trades_is_refused_in_one_line(
    k2: K2, tmp_path: Path, make: Callable[[Path], None], told: str
) -> None:
    make(tmp_path / NAME)
    write_checksum(tmp_path / NAME)
    error = archive_error(k2, tmp_path / NAME)
    assert error.startswith(f"{NAME}: ")
    assert told in error
    assert "\n" not in error


FUTURES = "id,price,qty,quote_qty,time,is_buyer_maker\n" + "".join(
    f"{n},23100.1,0.01,231.0,{1675209600000 + n},true\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FUTURES, "6 columns, as trades of futures have, 7 expected"),
        (FUTURES.partition("\n")[2], "6 columns, as trades of futures have, 7 expected"),
        ("1,2,3,4,5,6,7,8,9,10,11,12\n" * 3, "12 columns, as klines have, 7 expected"),
        ("agg_trade_id,price,quantity,first,last,time,maker\n1,2,3,4,5,6,true\n", "aggregate"),
        (csv_line(Fact()).replace(",", ";"), "semicolons between its columns, commas expected"),
        ("%PDF-1.4\n1 0 obj\n", "2 columns"),
        (csv_line(Fact()).replace("True", "yes") + "\n", None),
    ],
)
def test_a_file_of_something_else_is_refused_for_what_it_is(
    k2: K2, tmp_path: Path, text: str, told: str | None
) -> None:
    path = write_archive(tmp_path / NAME, text)
    (report,) = k2.load_binance_archive(path).files
    assert report.dead_letters == (told is None)
    assert (report.error is None) == (told is None)
    if told is not None:
        assert f"{NAME}: no trades of the spot market: " in (report.error or "")


def test_of_a_file_that_is_refused_one_line_is_all_that_is_printed(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = write_archive(tmp_path / NAME, FUTURES)
    code, out, err = run("load", "binance-archive", path)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("K2: ")]
    assert [line.startswith(f"not loaded: {NAME}: no trades") for line in lines] == [True]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ((GOOD * 5).encode("utf-16"), "UTF-16 text, UTF-8 expected"),
        (GOOD.replace(",", ";") * 5, "semicolons between its columns"),
        ("%PDF-1.4\nx\n", "a PDF"),
        (GOOD.replace("\n", "\r") * 5, "lines that end in CR alone"),
        (gzip.compress(GOOD.encode(), mtime=0), "gzip data, in a file without .gz"),
        (GOOD.replace("1.11", "x") * 1000, "its first 1,000 lines are malformed: price 'x' is not"),
    ],
)
def test_an_asx_file_of_something_else_is_refused_for_what_it_is(
    k2: K2, tmp_path: Path, data: str | bytes, told: str
) -> None:
    reports = k2.load_asx(asx(tmp_path, data)).files
    (error,) = [one.error for one in reports if one.error is not None]
    assert error.startswith("trades/9009.csv: ")
    assert told in error
    assert sum(one.dead_letters for one in reports) == 0


def test_a_good_line_among_the_first_thousand_lets_the_file_be_loaded(
    k2: K2, tmp_path: Path
) -> None:
    bad = GOOD.replace("1.11", "x")
    reports = k2.load_asx(asx(tmp_path, bad * 999 + GOOD + bad * 500)).files
    assert [(one.rows, one.dead_letters) for one in reports if one.kind == "trades"] == [(1, 1499)]


def test_names_may_be_in_any_case_and_lines_packed_by_gzip(k2: K2, tmp_path: Path) -> None:
    asx(tmp_path, GOOD, "9009-A.CSV")
    asx(tmp_path, gzip.compress(GOOD.replace(".717", ".718").encode()), "9009-b.CSV.gz")
    write(tmp_path / "trades" / "notes.txt", "nothing to load")
    assert [(one.file, one.rows) for one in k2.load_asx(tmp_path).files] == [
        ("trades/9009-A.CSV", 1),
        ("reference-data/company_info.csv", 1),
        ("trades/9009-b.CSV.gz", 1),
    ]
    zip_file = write_archive(tmp_path / NAME.replace(".zip", ".ZIP"), csv_line(Fact()))
    assert [one.rows for one in k2.load_binance_archive(tmp_path).files] == [1]
    assert zip_file.name == k2.load_binance_archive(tmp_path).files[0].file


@pytest.mark.parametrize("harm", [lambda data: data[:-9], lambda data: data + b"more"])
def test_a_damaged_gzip_file_is_told_in_one_line(
    k2: K2, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    path = asx(tmp_path, harm(gzip.compress(GOOD.encode())), "9009.csv.gz")
    (error,) = [one.error for one in k2.load_asx(path).files if one.error is not None]
    assert error.startswith(f"{path}: not a whole gzip file: ")
    assert "\n" not in error


def test_byte_order_marks_and_odd_ends_of_lines_change_nothing(k2: K2, tmp_path: Path) -> None:
    mark = "\ufeff"
    path = asx(tmp_path, mark + GOOD.replace("\n", "\r\r\n") * 2)
    folder = tmp_path / "reference-data"
    write(folder / "company_info.csv", mark + COMPANY.replace("\n", "\r\r\n"))
    write(folder / "exchange.txt", mark + "ASX_SIM\r\n")
    reports = k2.load_asx(path).files
    assert [(one.rows, one.dead_letters, one.error) for one in reports] == [
        (2, 0, None),
        (1, 0, None),
    ]
    text = mark + csv_line(Fact()) + "\r\n"
    archive = write_archive(tmp_path / NAME, text)
    checksum = archive.with_name(f"{NAME}.CHECKSUM")
    write(checksum, mark + hashlib.sha256(archive.read_bytes()).hexdigest())
    write(tmp_path / "exchange.txt", mark + "BINANCE_SIM\n")
    (report,) = k2.load_binance_archive(archive).files
    assert (report.rows, report.dead_letters, report.note) == (1, 0, None)
    names = k2.sql("select distinct exchange from trades_v2 order by all")
    assert names["exchange"].to_list() == ["ASX_SIM", "BINANCE_SIM"]


@pytest.mark.parametrize("ends", ["\n", "\r", "\r\n", "\r\r\n", "mixed"])
def test_reference_data_may_have_any_ends_of_lines(k2: K2, tmp_path: Path, ends: str) -> None:
    path = asx(tmp_path, GOOD)
    text = COMPANY.replace("\n", ends)
    if ends == "mixed":
        text = COMPANY.replace("\n", "\r", 1).replace("\n", "\r\n")
    write(tmp_path / "reference-data" / "company_info.csv", text)
    assert [one.rows for one in k2.load_asx(path).files] == [1, 1]


def test_a_file_too_large_for_reference_data_is_not_read_whole(k2: K2, tmp_path: Path) -> None:
    path = asx(tmp_path, GOOD)
    with (tmp_path / "reference-data" / "company_info.csv").open("r+b") as sparse:
        sparse.truncate(100 * MIB)
    (report,) = k2.load_asx(path).files
    assert report.error is not None
    assert "company_info.csv: more than 16,777,216 bytes, no reference data" in report.error


def test_names_that_can_be_no_file_are_told_in_one_line(k2: K2) -> None:
    for name in ("x" * 300, "a**b/*.csv", "[", "nope"):
        for load in (k2.load_asx, k2.load_binance_archive):
            (report,) = load(name).files
            assert report.error is not None
            assert "\n" not in report.error


@pytest.mark.timeout(60)
def test_a_pipe_is_refused_where_reading_it_would_wait(tmp_path: Path) -> None:
    folder = tmp_path / "reference-data"
    folder.mkdir()
    for path in (tmp_path / "9009.csv", tmp_path / NAME, folder / "company_info.csv"):
        os.mkfifo(path)
    with pytest.raises(SourceError, match=r"9009\.csv: a pipe or a device: write its data into"):
        file_kind(AsxFile((tmp_path / "9009.csv",)))
    with pytest.raises(SourceError, match=rf"{NAME}: a pipe or a device"):
        verify(tmp_path / NAME)
    with pytest.raises(SourceError, match=r"company_info\.csv: a pipe or a device"):
        read_reference(folder)


@pytest.mark.slow
def test_a_file_out_of_time_order_takes_no_more_memory_than_a_chunk(tmp_path: Path) -> None:
    write(tmp_path / "reference-data" / "company_info.csv", COMPANY)
    small = write(tmp_path / "small" / "9009.csv", GOOD)
    days = [f"03/{day}/2014,{hour}:00:0{ms % 10}.{ms:03}" for day, hour, ms in TIMES]
    lines = "".join(f"{day},1.11,{number},0,,\n" for number, day in enumerate(days))
    large = write(tmp_path / "large" / "9009.csv", lines * 10)
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, "asx", str(small), str(large)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout.split()[0]) < 200, found.stdout

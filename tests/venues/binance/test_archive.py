"""Archive files: which are read, what proves them whole, and every line a row or a letter."""

import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.binance_facts import (
    INSTRUMENTS,
    LATEST_US,
    Fact,
    csv_line,
    write_archive,
    write_checksum,
)

from k2lib.errors import SourceError
from k2lib.schema.records import TRADE
from k2lib.venues.base import BrokenFileError, FileBatch, Instrument
from k2lib.venues.binance.archive import (
    archive_exchange,
    archive_instrument,
    detect_unit,
    find_archives,
    latest_in,
    read_archive,
    verify,
)

NAME = "BTCUSDT-trades-2025-01-02.zip"
NOW = datetime(2025, 1, 3, tzinfo=UTC)
HEADER = "id,price,qty,quote_qty,time,is_buyer_maker,is_best_match"


def csv(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def facts_csv(count: int, *, unit_us: int = 1) -> str:
    return csv(*(csv_line(Fact(number), unit_us=unit_us) for number in range(count)))


def read(path: Path, **options: Any) -> list[FileBatch]:
    return list(
        read_archive(
            path,
            INSTRUMENTS["BTCUSDT"],
            ingested=NOW,
            latest_us=LATEST_US,
            **options,
        )
    )


def rows_of(batches: list[FileBatch]) -> list[dict[str, Any]]:
    return [row for one in batches for row in one.rows.to_pylist(maps_as_pydicts="strict")]


def refused(batches: list[FileBatch]) -> list[tuple[str, str]]:
    return [(one.position, one.reason) for batch in batches for one in batch.dead_letters]


@pytest.mark.parametrize(
    ("name", "latest"),
    [
        ("BTCUSDT-trades-2025-01-02.zip", datetime(2025, 1, 4, tzinfo=UTC)),
        ("BTCUSDT-trades-2025-02.zip", datetime(2025, 3, 5, tzinfo=UTC)),
        ("BTCUSDT-trades-2020-01-02.zip", datetime(2024, 1, 2, tzinfo=UTC)),
        ("BTCUSDT-trades-2025-13.zip", datetime(2024, 1, 2, tzinfo=UTC)),
        ("trades.zip", datetime(2024, 1, 2, tzinfo=UTC)),
    ],
)
def test_a_clock_that_is_a_year_behind_refuses_no_day_of_the_archive(
    name: str, latest: datetime
) -> None:
    now_us = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert latest_in(Path(name), now_us=now_us) == int(latest.timestamp()) * 1_000_000


def test_a_line_is_a_row(tmp_path: Path) -> None:
    (batch,) = read(write_archive(tmp_path / NAME, csv(csv_line(Fact(7)))))
    (row,) = rows_of([batch])
    assert batch.rows.schema == TRADE.arrow
    assert (row["trade_id"], row["side"], row["ingestion_timestamp"]) == ("BINANCE-7", "SELL", NOW)
    assert row["vendor_data"] == {
        "base_asset": "BTC",
        "is_best_match": "true",
        "is_buyer_maker": "true",
        "origin": "archive",
        "quote_asset": "USDT",
        "quote_quantity": "142.68451500",
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: f"{HEADER}\n{text}",
        lambda text: text.replace("True", "true"),
        lambda text: text.replace("\n", "\n\n"),
    ],
    ids=["as published", "no last newline", "CRLF", "header", "lower case", "blank lines"],
)
def test_the_form_of_the_file_changes_no_row(tmp_path: Path, change: Callable[[str], str]) -> None:
    plain = write_archive(tmp_path / "plain.zip", facts_csv(3))
    batches = read(write_archive(tmp_path / NAME, change(facts_csv(3))))
    assert rows_of(batches) == rows_of(read(plain))
    assert refused(batches) == []


def test_milliseconds_are_known_by_their_digits(tmp_path: Path) -> None:
    path = write_archive(tmp_path / NAME, facts_csv(2, unit_us=1000))
    wanted = datetime(2025, 1, 2, 6, 40, tzinfo=UTC)
    assert [row["timestamp"] for row in rows_of(read(path))] == [wanted, wanted]


def test_the_first_readable_time_tells_the_unit() -> None:
    assert detect_unit(b"x,y,z\n" + csv_line(Fact(), unit_us=1000).encode() + b"\n") == "ms"
    assert detect_unit(csv_line(Fact()).encode() + b"\r\n") == "us"
    assert detect_unit(b"x,y,z\n") is None


def test_a_time_of_the_other_unit_is_refused(tmp_path: Path) -> None:
    lines = [csv_line(Fact(1)), csv_line(Fact(2), unit_us=1000), csv_line(Fact(3))]
    batches = read(write_archive(tmp_path / NAME, csv(*lines)))
    assert refused(batches) == [("line 2", "bad_time")]
    assert "milliseconds?" in batches[0].dead_letters[0].detail


@pytest.mark.parametrize("chunk_bytes", [40, 100, 1000])
@pytest.mark.parametrize("header", ["", f"{HEADER}\n"])
def test_chunks_change_nothing(tmp_path: Path, chunk_bytes: int, header: str) -> None:
    text = header + facts_csv(20) + "bad\n" + facts_csv(5) + "worse"
    path = write_archive(tmp_path / NAME, text)
    whole, chunked = read(path), read(path, chunk_bytes=chunk_bytes)
    assert len(whole) < len(chunked)
    assert rows_of(chunked) == rows_of(whole)
    assert refused(chunked) == refused(whole)


def test_a_bad_line_is_a_dead_letter_with_its_number(tmp_path: Path) -> None:
    good = csv_line(Fact())
    lines = [
        good,
        good.replace("True", "yes"),
        "",
        good.replace("4000000000", "4e9"),
        good.replace("0.00150000", "-1"),
        good + ",1",
        good.replace(",True,", ",maybe,"),
        good.replace("95123.01000000", "0.0"),
        good.replace("1735800000000123", ""),
        good,
    ]
    (batch,) = read(write_archive(tmp_path / NAME, csv(HEADER, *lines)))
    assert batch.rows.num_rows == 2
    assert refused([batch]) == [
        ("line 3", "bad_flag"),
        ("line 5", "bad_number"),
        ("line 6", "negative"),
        ("line 7", "wrong_columns"),
        ("line 8", "bad_flag"),
        ("line 9", "not_positive"),
        ("line 10", "bad_number"),
    ]
    assert {letter.source for letter in batch.dead_letters} == {NAME}
    assert batch.dead_letters[2].raw == lines[4].encode()


def test_a_first_line_with_a_number_is_no_header(tmp_path: Path) -> None:
    text = csv(csv_line(Fact()).replace("4000000000", "x"), csv_line(Fact()))
    assert refused(read(write_archive(tmp_path / NAME, text))) == [("line 1", "bad_number")]


def test_broken_utf8_costs_its_line_only(tmp_path: Path) -> None:
    good = csv_line(Fact()).encode()
    path = write_archive(tmp_path / NAME, b"\n".join([good, b"\xff,1,1,1,1,True,True", good]))
    batches = read(path)
    assert len(rows_of(batches)) == 2
    assert refused(batches) == [("line 2", "not_utf8")]


def test_an_empty_csv_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{NAME}: the file is empty"):
        read(write_archive(tmp_path / NAME, ""))


def test_a_zip_holds_one_csv(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(SourceError, match=r"holds a\.csv, b\.csv; one \.csv expected"):
        read(path)


def test_a_file_that_matches_its_sum_is_verified(tmp_path: Path) -> None:
    assert verify(write_archive(tmp_path / NAME, facts_csv(2))) is None


def test_a_sum_in_capitals_is_the_same_sum(tmp_path: Path) -> None:
    path = write_archive(tmp_path / NAME, facts_csv(2))
    beside = tmp_path / f"{NAME}.CHECKSUM"
    beside.write_text(beside.read_text().upper())
    assert verify(path) is None


def test_a_file_without_a_sum_is_read_and_said_to_be_unverified(tmp_path: Path) -> None:
    path = write_archive(tmp_path / NAME, facts_csv(2), checksum=False)
    assert verify(path) == "no .CHECKSUM beside it: not verified"


@pytest.mark.parametrize("text", ["0" * 64 + f"  {NAME}\n", "", "<html>"])
def test_another_sum_is_refused_with_the_file(tmp_path: Path, text: str) -> None:
    path = write_archive(tmp_path / NAME, facts_csv(2))
    (tmp_path / f"{NAME}.CHECKSUM").write_text(text)
    with pytest.raises(BrokenFileError, match=r"its SHA-256 is [0-9a-f]{64}, ") as caught:
        verify(path)
    letter = caught.value.letter
    assert (letter.source, letter.reason) == (NAME, "bad_checksum")
    assert letter.position == f"file of {path.stat().st_size} bytes"
    assert letter.raw == path.read_bytes()


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damaged(data: bytes) -> bytes:
    middle = len(data) // 3
    return (
        data[:middle] + bytes(255 - byte for byte in data[middle : middle + 8]) + data[middle + 8 :]
    )


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("harm", [cut_short, damaged, lambda data: b"", lambda data: b"<html>"])
def test_a_broken_zip_is_refused(
    tmp_path: Path, harm: Callable[[bytes], bytes], checksum: bool
) -> None:
    path = write_archive(tmp_path / NAME, facts_csv(500), checksum=False)
    path.write_bytes(harm(path.read_bytes()))
    if checksum:
        write_checksum(path)
    with pytest.raises(BrokenFileError, match="not a readable zip") as caught:
        verify(path)
    assert caught.value.letter.reason == "broken_zip"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{NAME}: cannot be read: No such file"):
        verify(tmp_path / NAME)


@pytest.mark.parametrize("name", [NAME, "BTCUSDT-trades-2025-01.zip"])
def test_daily_and_monthly_files_name_their_symbol(name: str) -> None:
    assert archive_instrument(Path(name), {}) == INSTRUMENTS["BTCUSDT"]


def test_a_given_instrument_goes_before_the_shipped_table() -> None:
    given = {"WIFUSDT": Instrument("BINANCE", "WIFUSDT", "WIF", "USDT")}
    found = archive_instrument(Path("WIFUSDT-trades-2025-01.zip"), given)
    assert found == given["WIFUSDT"]


def test_a_symbol_with_unknown_assets_is_an_error_that_says_how_to_give_them() -> None:
    with pytest.raises(SourceError, match="asset of WIFUSDT are not known: give them"):
        archive_instrument(Path("WIFUSDT-trades-2025-01.zip"), {})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "BTCUSDT-aggTrades-2025-01-02.zip",
            "a file of aggregate trades; read are",
        ),
        ("BTCUSDT-1m-2025-01-02.zip", r"a file of klines or other data \(1m\); read are"),
        ("trades.zip", "not a name of Binance's archive; read are"),
        ("BTCUSDT-trades-2025-01-02.csv", "not a name of Binance's archive; read are"),
    ],
)
def test_another_kind_of_file_is_an_error_that_says_what_is_read(name: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        archive_instrument(Path(name), {})


def test_a_folder_without_zips_is_an_error(tmp_path: Path) -> None:
    (path,) = find_archives([tmp_path])
    with pytest.raises(SourceError, match=r"no \.zip file in this folder"):
        archive_instrument(path, {})


def test_paths_are_files_folders_and_globs_each_file_once(tmp_path: Path) -> None:
    folder = tmp_path / "BTCUSDT"
    folder.mkdir()
    first, second = (write_archive(folder / f"BTCUSDT-trades-2025-0{n}.zip", "") for n in (1, 2))
    assert find_archives([tmp_path]) == [first, second]
    assert find_archives([second, folder / "*"]) == [second, first]


def test_the_venue_is_binance_unless_a_folder_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "data" / "spot" / "daily" / "trades" / "BTCUSDT" / NAME
    assert archive_exchange(path, None) == "BINANCE"
    assert archive_exchange(path, "BINANCEUS") == "BINANCEUS"
    path.parent.mkdir(parents=True)
    (tmp_path / "data" / "exchange.txt").write_text("BINANCE_SIM\n")
    assert archive_exchange(path, None) == "BINANCE_SIM"
    assert archive_exchange(path, "BINANCE_SIM") == "BINANCE_SIM"


def test_a_folder_of_one_venue_is_not_passed_off_as_another(tmp_path: Path) -> None:
    (tmp_path / "exchange.txt").write_text("BINANCE_SIM\n")
    with pytest.raises(SourceError, match=r"says that it is from BINANCE_SIM, not BINANCE$"):
        archive_exchange(tmp_path / NAME, "BINANCE")


def test_a_name_of_a_venue_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "exchange.txt").write_text("Binance sim")
    with pytest.raises(SourceError, match="'Binance sim' is no name of a venue"):
        archive_exchange(tmp_path / NAME, None)

"""Loading Binance's archive: history in the lake once, beside what came live."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.binance_facts import (
    INSTRUMENTS,
    LATEST_US,
    RECEIVED_US,
    Fact,
    csv_line,
    stream_frame,
    write_archive,
)

from k2lib import K2
from k2lib.load import FileReport, LoadReport, OnProgress, load_files
from k2lib.schema.records import TRADE
from k2lib.venues.base import FileOptions
from k2lib.venues.binance.messages import parse_frames
from k2lib.venues.binance.venue import binance

DAY = "BTCUSDT-trades-2025-01-02.zip"
MONTH = "BTCUSDT-trades-2025-01.zip"


def facts(first: int, count: int, **changes: Any) -> list[Fact]:
    return [
        Fact(number, time_us=1_735_800_000_000_123 + number * 1_000_001, **changes)
        for number in range(first, first + count)
    ]


def write(folder: Path, name: str, trades: list[Fact], *, unit_us: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{csv_line(fact, unit_us=unit_us)}\n" for fact in trades)
    return write_archive(folder / name, text)


def load(
    k2: K2, *paths: Path, on_progress: OnProgress = lambda file, n_bytes: None, **options: Any
) -> LoadReport:
    return load_files(
        binance(),
        paths,
        pipeline=lambda: k2.pipeline,
        engine=k2.engine,
        options=FileOptions(**options),
        on_progress=on_progress,
    )


def live(k2: K2, trades: list[Fact], exchange: str = "BINANCE") -> None:
    parsed = parse_frames(
        [stream_frame(fact) for fact in trades],
        [RECEIVED_US] * len(trades),
        instruments={n: replace(one, exchange=exchange) for n, one in INSTRUMENTS.items()},
        unit="us",
        latest_us=LATEST_US,
        source="live",
    )
    k2.pipeline.produce(f"market.crypto.trades.{exchange.lower()}", parsed.trades, TRADE)
    k2.pipeline.settle()


def origins(k2: K2) -> list[tuple[int, str]]:
    rows = k2.sql(
        "select source_sequence, vendor_data['origin'] from lake.trades_v2 order by source_sequence"
    )
    return list(rows.iter_rows())


@pytest.mark.slow
def test_a_file_is_in_the_lake_once_however_often_it_is_loaded(k2: K2, tmp_path: Path) -> None:
    path = write(tmp_path, DAY, facts(0, 300))
    first, again = load(k2, path), load(k2, path)
    assert first.files == (FileReport(DAY, "trades", rows=300, already_there=0),)
    assert again.files == (FileReport(DAY, "trades", rows=300, already_there=300),)
    assert k2.sql("select count(*), count(distinct message_id) from lake.trades_v2").row(0) == (
        300,
        300,
    )


def test_history_and_live_trades_overlap_in_one_row_each_and_the_first_stays(
    k2: K2, tmp_path: Path
) -> None:
    live(k2, facts(5, 10))
    report = load(k2, write(tmp_path, DAY, facts(0, 10), unit_us=1000))
    assert (report.files[0].rows, report.files[0].already_there) == (10, 5)
    live(k2, facts(0, 20))
    wanted = ["archive"] * 5 + ["stream"] * 15
    assert origins(k2) == list(enumerate(wanted))


def test_days_and_their_month_are_one_row_a_trade(k2: K2, tmp_path: Path) -> None:
    write(tmp_path / "daily", DAY, facts(0, 10))
    write(tmp_path / "monthly", MONTH, facts(0, 40))
    report = load(k2, tmp_path)
    assert [(file.file, file.already_there) for file in report.files] == [(DAY, 0), (MONTH, 10)]
    assert [number for number, _ in origins(k2)] == list(range(40))


def test_a_broken_file_is_left_out_and_the_others_are_loaded(k2: K2, tmp_path: Path) -> None:
    changed = write(tmp_path, "BTCUSDT-trades-2025-01-01.zip", facts(100, 5))
    changed.write_bytes(changed.read_bytes() + b"more")
    torn = write(tmp_path, DAY, facts(200, 5))
    torn.write_bytes(torn.read_bytes()[:-30])
    (tmp_path / f"{DAY}.CHECKSUM").unlink()
    write(tmp_path, "ETHBTC-trades-2025-01-02.zip", facts(0, 5, symbol="ETHBTC"))
    report = load(k2, tmp_path)
    assert report.failed
    assert [(one.rows, one.dead_letters, one.error is None) for one in report.files] == [
        (0, 1, False),
        (0, 1, False),
        (5, 0, True),
    ]
    letters = k2.sql("select source, reason from lake.dead_letters order by source")
    assert list(letters.iter_rows()) == [(changed.name, "bad_checksum"), (DAY, "broken_zip")]
    assert [number for number, _ in origins(k2)] == list(range(5))


def test_a_bad_line_goes_to_the_dead_letters(k2: K2, tmp_path: Path) -> None:
    good = csv_line(Fact())
    write_archive(tmp_path / DAY, f"{good}\n{good.replace('0.00150000', '92233720368.54775808')}\n")
    report = load(k2, tmp_path)
    assert (report.files[0].rows, report.files[0].dead_letters) == (1, 1)
    letters = k2.sql("select source, position, reason from lake.dead_letters")
    assert list(letters.iter_rows()) == [(DAY, "line 2", "overflow")]


def test_trades_of_ten_billion_units_and_numbers_with_exponents_are_stored(
    k2: K2, tmp_path: Path
) -> None:
    numbers = [
        *(("1.2e-05", "100"), ("0.00001200", "1E6"), ("0.000012", "10000000000.00")),
        *(
            ("0.000012", "9999999999"),
            ("1E-8", "92233720368.54775807"),
            ("0.01", "4.6116860414E+10"),
        ),
    ]
    trades = [
        Fact(number, price=price, quantity=quantity, symbol="SHIBUSDT")
        for number, (price, quantity) in enumerate(numbers)
    ]
    write(tmp_path, "SHIBUSDT-trades-2025-01-02.zip", trades)
    (line,) = load(k2, tmp_path, assets=["SHIB/USDT"]).files
    assert (line.rows, line.dead_letters) == (6, 0)
    stored = k2.sql("select price, quantity from lake.trades_v2 order by source_sequence")
    assert list(stored.iter_rows()) == [(Decimal(p), Decimal(q)) for p, q in numbers]
    total = k2.sql("select sum(price * quantity), sum(quantity) from trades_v2").row(0)
    assert total == (
        sum(Decimal(p) * Decimal(q) for p, q in numbers),
        sum(Decimal(q) for _, q in numbers),
    )


def test_a_file_without_a_sum_is_loaded_and_the_report_says_so(k2: K2, tmp_path: Path) -> None:
    write_archive(tmp_path / DAY, csv_line(Fact()), checksum=False)
    report = load(k2, tmp_path)
    (line,) = report.files
    assert (line.rows, line.note) == (1, "no .CHECKSUM beside it: not verified")
    assert not report.failed


@pytest.mark.slow
def test_files_of_the_offline_exchange_stay_its_own(k2: K2, tmp_path: Path) -> None:
    write(tmp_path / "data" / "BTCUSDT", DAY, facts(0, 5))
    (tmp_path / "data" / "exchange.txt").write_text("BINANCE_SIM\n")
    live(k2, facts(0, 5))
    assert load(k2, tmp_path).files[0].already_there == 0
    counted = k2.sql("select exchange, count(*) from lake.trades_v2 group by all order by all")
    assert list(counted.iter_rows()) == [("BINANCE", 5), ("BINANCE_SIM", 5)]


@pytest.mark.parametrize("name", ["BTCUSDT-aggTrades-2025-01-02.zip", "WIFUSDT-trades-2025-01.zip"])
def test_a_file_that_cannot_be_read_has_an_error_line(k2: K2, tmp_path: Path, name: str) -> None:
    write(tmp_path, name, facts(0, 1))
    write(tmp_path, DAY, facts(0, 1))
    report = load(k2, tmp_path)
    errors = {one.file: one.error is not None for one in report.files}
    assert errors == {name: True, DAY: False}


def test_assets_can_be_given_for_a_symbol_that_is_not_known(k2: K2, tmp_path: Path) -> None:
    write(tmp_path, "WIFUSDT-trades-2025-01.zip", facts(0, 2))
    report = load(k2, tmp_path, assets=["WIF/USDT"])
    assert (report.failed, report.files[0].rows) == (False, 2)


def test_progress_is_told_in_bytes(k2: K2, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    write(tmp_path, DAY, facts(0, 3))
    load(k2, tmp_path, on_progress=lambda file, n_bytes: told.append((file, n_bytes)))
    wanted = sum(len(csv_line(fact)) + 1 for fact in facts(0, 3))
    assert told == [(DAY, wanted)]

"""The archive of the offline exchange: the same trades, in files."""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from support.exchange_clients import START, SetClock, get, pass_time

from k2lib.errors import ConfigError
from k2lib.simulator import OfflineExchange, write_archive

DAY = date(2026, 1, 1)
PATH = "/data/spot/{span}/{kind}/BTCUSDT/BTCUSDT-{kind}-{day}.zip"


@pytest.fixture(scope="module")
def exchange() -> Iterator[OfflineExchange]:
    """Open an exchange with few trades a day, three days into 2026."""
    clock = SetClock(START + 2 * 86_400 + 3600)
    with OfflineExchange(["BTCUSDT"], rate=0.02, clock=clock) as opened:
        yield opened


def path(*, kind: str = "trades", day: str = "2026-01-01", span: str = "daily") -> str:
    return PATH.format(kind=kind, day=day, span=span)


def rows_in(content: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        [name] = zipped.namelist()
        assert name.endswith(".csv")
        return list(csv.reader(io.StringIO(zipped.read(name).decode())))


def fetched(exchange: OfflineExchange, **names: str) -> list[list[str]]:
    answer = get(exchange, path(**names))
    assert answer.status_code == 200
    return rows_in(answer.content)


def test_a_days_file_holds_the_days_trades_as_rest_has_them(exchange: OfflineExchange) -> None:
    rows = fetched(exchange)
    trades = get(
        exchange, "historicalTrades", symbol="BTCUSDT", fromId=rows[0][0], limit=1000
    ).json()
    start_ms = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert len(rows) > 1000
    assert trades[0]["time"] >= start_ms
    for row, trade in zip(rows, trades, strict=False):
        assert row == [
            str(trade["id"]),
            trade["price"],
            trade["qty"],
            trade["quoteQty"],
            row[4],
            str(trade["isBuyerMaker"]),
            "True",
        ]
        assert int(row[4]) // 1000 == trade["time"]


def test_days_follow_each_other_without_a_hole(exchange: OfflineExchange) -> None:
    first, second = fetched(exchange), fetched(exchange, day="2026-01-02")
    ids = [int(row[0]) for row in first + second]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_times_are_ms_before_2025_and_us_from_then_on(exchange: OfflineExchange) -> None:
    old, new = fetched(exchange, day="2024-12-31"), fetched(exchange, day="2025-01-01")
    assert {len(row[4]) for row in old} == {13}
    assert {len(row[4]) for row in new} == {16}
    assert int(new[0][0]) == int(old[-1][0]) + 1


def test_aggregates_have_files_too(exchange: OfflineExchange) -> None:
    trades, orders = fetched(exchange), fetched(exchange, kind="aggTrades")
    assert {len(row) for row in orders} == {8}
    spans = [range(int(row[3]), int(row[4]) + 1) for row in orders]
    assert [number for span in spans for number in span] == [int(row[0]) for row in trades]


@pytest.mark.slow
def test_a_month_holds_its_days(exchange: OfflineExchange) -> None:
    month = fetched(exchange, span="monthly", day="2025-12")
    days = fetched(exchange, day="2025-12-01"), fetched(exchange, day="2025-12-31")
    assert month[: len(days[0])] == days[0]
    assert month[-len(days[1]) :] == days[1]


def test_the_checksum_is_that_of_the_file(exchange: OfflineExchange) -> None:
    content = get(exchange, path()).content
    checksum = get(exchange, path() + ".CHECKSUM").text
    assert checksum == f"{hashlib.sha256(content).hexdigest()}  BTCUSDT-trades-2026-01-01.zip\n"


@pytest.mark.parametrize(
    "missing",
    [
        path(day="2026-01-03"),
        path(day="2026-02-30"),
        path(span="monthly", day="2026-01"),
        path(span="monthly"),
        path(kind="klines"),
        path().replace("BTCUSDT", "NOPEUSDT"),
        "/data/spot/daily/../secret",
    ],
)
def test_what_is_not_in_the_archive_is_not_found(exchange: OfflineExchange, missing: str) -> None:
    assert get(exchange, missing).status_code == 404


def test_a_checksum_can_be_wrong_for_a_while(exchange: OfflineExchange) -> None:
    exchange.fault("archive_checksum", n=1)
    content = get(exchange, path()).content
    wrong, right = (get(exchange, path() + ".CHECKSUM").text[:64] for _ in range(2))
    assert wrong != right == hashlib.sha256(content).hexdigest()


def test_a_zip_can_be_cut_short(exchange: OfflineExchange) -> None:
    exchange.fault("archive_truncated", n=1)
    broken = get(exchange, path()).content
    with pytest.raises(zipfile.BadZipFile):
        rows_in(broken)
    assert rows_in(get(exchange, path()).content)


def test_void_ids_are_not_in_the_archive(tmp_path: Path) -> None:
    clock = SetClock()
    with OfflineExchange(["BTCUSDT"], rate=1.0, clock=clock) as exchange:
        exchange.fault("void", n=3)
        pass_time(exchange, clock, 600)
        tape = exchange.tape("BTCUSDT")
    written = write_archive(tmp_path, "BTCUSDT", DAY, tape=tape)
    ids = {int(row[0]) for row in rows_in(written.read_bytes())}
    assert ids == set(range(min(ids), tape.next_id)) - set(tape.void[0])


def test_written_files_are_those_of_the_exchange(tmp_path: Path, exchange: OfflineExchange) -> None:
    for kind in ("trades", "aggTrades"):
        written = write_archive(tmp_path, "BTCUSDT", DAY, kind=kind, rate=0.02)
        assert written.read_bytes() == get(exchange, path(kind=kind)).content
        checksum = written.with_name(f"{written.name}.CHECKSUM").read_text()
        assert checksum == get(exchange, path(kind=kind) + ".CHECKSUM").text


@pytest.mark.parametrize("kind", ["trades", "aggTrades"])
def test_a_file_can_be_limited_to_some_rows_or_hours(tmp_path: Path, kind: str) -> None:
    few = write_archive(tmp_path, "BTCUSDT", DAY, kind=kind, limit=10, start_s=3600)
    rows = rows_in(few.read_bytes())
    assert len(rows) == 10
    assert int(rows[0][-3]) >= (START + 3600) * 1e6
    hour = write_archive(tmp_path, "BTCUSDT", DAY, kind=kind, start_s=60, end_s=80)
    times = [int(row[4 if kind == "trades" else 5]) for row in rows_in(hour.read_bytes())]
    assert (START + 60) * 1e6 <= min(times) <= max(times) < (START + 80) * 1e6
    assert max(times) - min(times) > 15e6


def test_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trades, aggTrades"):
        write_archive(tmp_path, "BTCUSDT", DAY, kind="klines")

"""Generated samples: the same bytes each time, and every trap of the real files in proportion."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2lib.errors import ConfigError
from k2lib.simulator import FileSummary, SampleSummary, write_samples
from k2lib.simulator.asx.draws import Draws, WeightedRanges, apart, sizes_up_to
from k2lib.simulator.asx.files import company_of, isin_of
from k2lib.simulator.asx.trading_day import make_day

Row = list[str]
SYDNEY = ZoneInfo("Australia/Sydney")

# Shares of a real week of a large company's 91,631 trades, in per cent, and how near to be.
REAL_CODES = {"0": (85.7, 1.5), "25": (8.79, 1.0), "2": (3.49, 0.7), "27": (1.08, 0.4)}
REAL_REPEATS, REAL_SHARED_MS, REAL_OFF_MARKET, REAL_BUYERS = 3.48, 83.0, 0.145, 0.077


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    return write_samples(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    folder = tmp_path_factory.mktemp("large")
    return write_samples(folder, companies=1, days=4, trades_per_day=18_000)


def rows_of(summary: SampleSummary, path: str) -> list[Row]:
    with (summary.folder / path).open(newline="", encoding="ascii") as lines:
        return list(csv.reader(lines))


def trades_of(summary: SampleSummary) -> list[Row]:
    return rows_of(summary, "trades/9001.csv")


def quotes_of(summary: SampleSummary) -> list[Row]:
    return rows_of(summary, "quotes/9001.csv")


def bytes_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def percent(hits: Iterable[Any], total: int) -> float:
    return 100 * sum(map(bool, hits)) / total


def repeat_distances(rows: list[Row]) -> list[int]:
    last_at: dict[tuple[str, ...], int] = {}
    distances = []
    for number, row in enumerate(map(tuple, rows)):
        if row in last_at:
            distances.append(number - last_at[row])
        last_at[row] = number
    return distances


def in_session(row: Row) -> bool:
    return "10:00:30" < row[1] < "16:00:00"


def crossed(row: Row) -> bool:
    return Decimal(row[2]) > Decimal(row[3]) > 0


# The same bytes each time


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_samples(tmp_path / name, trades_per_day=300)
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")


def test_another_seed_gives_other_trades(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_samples(tmp_path / str(seed), trades_per_day=300, seed=seed)
    assert (
        bytes_in(tmp_path / "1")["trades/9001.csv"] != bytes_in(tmp_path / "2")["trades/9001.csv"]
    )


def test_draws_are_the_same_on_every_machine() -> None:
    assert Draws(7, 9001, 735302).below(1000, 6).tolist() == [545, 463, 883, 480, 935, 695]


def test_the_default_sample_is_these_very_bytes(sample: SampleSummary) -> None:
    # A change that is meant changes this line too: every sample in use then becomes another.
    files = sorted(bytes_in(sample.folder).items())
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in files)).hexdigest()
    assert digest == "fa4a6951c31719421c7588b1ce8201d506fe6628a38b137eb40823966d128ff5"


def test_more_days_and_companies_leave_the_earlier_rows_as_they_were(tmp_path: Path) -> None:
    write_samples(tmp_path / "small", trades_per_day=300, companies=2, days=1)
    write_samples(tmp_path / "grown", trades_per_day=300, companies=4, days=3)
    small, grown = bytes_in(tmp_path / "small"), bytes_in(tmp_path / "grown")
    for path in (p for p in small if p.startswith(("trades/", "quotes/"))):
        assert grown[path].startswith(small[path])
    info = "reference-data/company_info.csv"
    assert grown[info].startswith(small[info])


def test_a_smaller_sample_leaves_nothing_of_a_larger_one(tmp_path: Path) -> None:
    write_samples(tmp_path, trades_per_day=100, companies=5)
    write_samples(tmp_path, trades_per_day=100, companies=2)
    assert sorted(path.name for path in (tmp_path / "trades").iterdir()) == ["9001.csv", "9002.csv"]


def test_a_folder_of_other_data_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "trades").mkdir()
    (tmp_path / "trades" / "1.csv").write_text("mine")
    with pytest.raises(ConfigError, match="holds 1 files that are no sample: name a new folder"):
        write_samples(tmp_path)
    assert bytes_in(tmp_path) == {"trades/1.csv": b"mine"}


@pytest.mark.parametrize("name", ["companies", "days", "trades_per_day"])
def test_a_size_of_zero_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0: give a number from 1 to"):
        write_samples(tmp_path, **{name: 0})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# The form of the files


def test_rows_have_seven_and_six_columns_and_end_in_crlf(sample: SampleSummary) -> None:
    for file in sample.files:
        columns = 7 if file.path.startswith("trades/") else 6
        lines = (sample.folder / file.path).read_bytes().split(b"\r\n")
        assert lines.pop() == b""
        assert {line.count(b",") + 1 for line in lines} == {columns}
        assert not any(b"\n" in line or b'"' in line for line in lines)


def test_fields_read_as_in_the_real_files(sample: SampleSummary) -> None:
    price, moment = r"\d+\.(0|\d{0,2}[1-9])", r"\d\d/\d\d/\d{4},\d\d:\d\d:\d\d\.\d{3}"
    trade = re.compile(rf"{moment},{price},[1-9]\d*,\d+,X?,({price})?")
    quote = re.compile(rf"{moment},{price},{price},\d+,\d+")
    assert all(trade.fullmatch(",".join(row)) for row in trades_of(sample))
    assert all(quote.fullmatch(",".join(row)) for row in quotes_of(sample))


def test_rows_are_in_time_order(sample: SampleSummary) -> None:
    for file in sample.files:
        moments = [(row[0], row[1]) for row in rows_of(sample, file.path)]
        assert moments == sorted(moments)


def test_reference_data_names_the_simulated_exchange(sample: SampleSummary) -> None:
    files = bytes_in(sample.folder / "reference-data")
    assert files["exchange.txt"] == b"ASX_SIM\n"
    none = b"company id,effective date,ratio\r\n--- NO RECORDS TO REPORT ---\r\n"
    assert files["mergers.csv"] == files["stock_splits.csv"] == none
    assert files["dividends.csv"].count(b"\r\n") == files["dividends.csv"].count(b"\n") == 2
    info = files["company_info.csv"].decode().split("\r\n")
    assert info[0] == "company_id,symbol,company_name,ISIN,start_date,end_date"
    assert [line.split(",")[0] for line in info[1:-1]] == ["9001", "9002", "9003"]


@pytest.mark.parametrize("isin", ["AU000000BHP4", "AU000000RIO1", "AU000000MWR6", "AU000000DVN6"])
def test_the_check_digit_is_that_of_known_isins(isin: str) -> None:
    assert isin_of(isin[8:11]) == isin


def test_five_hundred_companies_have_symbols_of_their_own() -> None:
    symbols = {company_of(rank, trades=100, quotes=85).symbol for rank in range(500)}
    assert len(symbols) == 500
    assert all(re.fullmatch("[A-Z]{3}", symbol) for symbol in symbols)


def test_weekends_are_skipped_and_the_hour_change_is_minded(tmp_path: Path) -> None:
    summary = write_samples(tmp_path, companies=1, trades_per_day=200, first_day=date(2014, 4, 4))
    friday, monday = summary.files[1].rows_by_day
    assert (friday, monday) == (date(2014, 4, 4), date(2014, 4, 7))
    assert summary.files[1].first.hour == 18  # 05:43 in Sydney is 18:43 UTC in summer time
    assert summary.files[1].last.hour == 8  # and 18:50 is 08:50 UTC after it


# The traps, in proportion


def test_repeats_are_as_common_as_in_the_real_file(large: SampleSummary) -> None:
    trades = trades_of(large)
    distances = repeat_distances(trades)
    assert 100 * len(distances) / len(trades) == pytest.approx(REAL_REPEATS, abs=0.4)
    assert percent((d > 1 for d in distances), len(distances)) == pytest.approx(52, abs=8)
    assert 7 <= max(Counter(map(tuple, trades)).values()) <= 9


def test_trades_share_milliseconds_as_in_the_real_file(large: SampleSummary) -> None:
    in_a_ms = Counter((row[0], row[1]) for row in trades_of(large))
    shared = sum(count for count in in_a_ms.values() if count > 1)
    assert 100 * shared / in_a_ms.total() == pytest.approx(REAL_SHARED_MS, abs=1.5)
    assert max(in_a_ms.values()) == 30


def test_codes_have_their_shares(large: SampleSummary) -> None:
    codes = Counter(row[4] for row in trades_of(large))
    for code, (share, near) in REAL_CODES.items():
        assert 100 * codes[code] / codes.total() == pytest.approx(share, abs=near)


def test_off_market_prints_have_their_share(large: SampleSummary) -> None:
    trades = trades_of(large)
    prints = [row for row in trades if row[5] == "X"]
    assert 100 * len(prints) / len(trades) == pytest.approx(REAL_OFF_MARKET, abs=0.01)
    assert percent((row[1] < "10:00" for row in prints), len(prints)) == pytest.approx(28, abs=5)
    assert percent((row[1] > "16:10" for row in prints), len(prints)) == pytest.approx(17, abs=5)


def test_buyers_are_rare_and_read_like_a_price_a_tick_away(large: SampleSummary) -> None:
    set_here = [row for row in trades_of(large) if row[6]]
    assert 100 * len(set_here) / len(trades_of(large)) == pytest.approx(REAL_BUYERS, abs=0.01)
    assert {abs(Decimal(row[6]) - Decimal(row[2])) for row in set_here} == {Decimal("0.01")}


def test_prices_have_three_decimals_in_one_of_twelve(large: SampleSummary) -> None:
    trades = trades_of(large)
    decimals = [len(row[2].split(".")[1]) for row in trades]
    assert 100 * decimals.count(3) / len(trades) == pytest.approx(8.3, abs=1.5)
    on_market = [row for row in trades if row[5] == "" and row[4] in {"0", "2", "8"}]
    assert max(len(row[2].split(".")[1]) for row in on_market) == 2


def test_quotes_are_distinct_and_seventeen_to_twenty_trades(large: SampleSummary) -> None:
    quotes = quotes_of(large)
    assert len(set(map(tuple, quotes))) == len(quotes)
    assert len(quotes) / len(trades_of(large)) == pytest.approx(0.85, abs=0.001)


def test_spreads_are_a_tick_mostly(large: SampleSummary) -> None:
    session = [row for row in quotes_of(large) if in_session(row)]
    spreads = Counter(Decimal(row[3]) - Decimal(row[2]) for row in session)
    for spread, (share, near) in {"0.01": (79, 5), "0.02": (17, 5), "0": (2.1, 1.5)}.items():
        assert 100 * spreads[Decimal(spread)] / len(session) == pytest.approx(share, abs=near)
    assert 0.01 < percent(map(crossed, session), len(session)) < 0.2


def test_trades_happen_at_the_quote_of_their_moment() -> None:
    trades, quotes = make_day(company_of(0, trades=20_000, quotes=17_000), seed=7, day=735_300)
    at = np.searchsorted(quotes.ms, trades.ms, side="right") - 1
    bid, ask, on_market = quotes.bid[at], quotes.ask[at], trades.off_market == 0
    touch = ((trades.price == bid) | (trades.price == ask)) & on_market
    inside = (trades.price > bid) & (trades.price < ask) & on_market
    assert np.sum(touch) / np.sum(on_market) == pytest.approx(0.815, abs=0.05)
    assert np.sum(inside) / np.sum(on_market) == pytest.approx(0.13, abs=0.04)


# Every trap is in a sample of the default size


def test_default_sample_has_every_code_and_each_kind_of_print(sample: SampleSummary) -> None:
    trades = trades_of(sample)
    assert {row[4] for row in trades} == {"0", "25", "2", "27", "5", "8", "3", "26", "9", "1"}
    prints = [row for row in trades if row[5] == "X"]
    assert {row[4] for row in prints} == {"1", "3", "9"}
    hours = {"before" if t < "10" else "after" if t > "16:10" else "in" for _, t, *_ in prints}
    assert hours == {"before", "in", "after"}
    assert any(row[6] for row in trades)


def test_default_sample_has_repeats_near_and_far(sample: SampleSummary) -> None:
    distances = repeat_distances(trades_of(sample))
    assert distances.count(1) > 20
    assert len(distances) - distances.count(1) > 20
    assert max(Counter(map(tuple, trades_of(sample))).values()) >= 7


def test_default_sample_opens_staggered_and_closes_in_one_burst(sample: SampleSummary) -> None:
    ordinary = [row for row in trades_of(sample) if row[4] == "0"]
    bursts = Counter((row[0], row[1]) for row in ordinary if row[1] > "16:10")
    assert list(bursts.values()) == [19, 19]
    assert len({row[2] for row in ordinary if row[1] > "16:10" and row[0] == ordinary[0][0]}) == 1
    assert "09:59:45" <= ordinary[0][1] <= "10:00:15"
    second = [row[1] for row in rows_of(sample, "trades/9002.csv") if row[5] == ""]
    assert "10:04:15" <= second[0] <= "10:04:45"


def test_default_sample_has_every_trap_of_quotes(sample: SampleSummary) -> None:
    quotes = quotes_of(sample)
    no_ask = [row for row in quotes if row[3] == "0.0"]
    assert [(row[1][:5], row[5]) for row in no_ask] == [("05:43", "0")] * 2
    assert any(crossed(row) and row[1] < "10:00" for row in quotes)
    assert any(crossed(row) and "16:00" < row[1] < "16:10" for row in quotes)
    assert any(crossed(row) and in_session(row) for row in quotes)
    assert any(int(row[5]) >= 1_000_000_000 for row in quotes)
    assert quotes[-1][1].startswith("18:50:0")


def test_smaller_companies_trade_by_their_own_tick(sample: SampleSummary) -> None:
    assert [file.rows for file in sample.files[::2]] == [4000, 332, 26]
    prices = {Decimal(row[2]) for row in rows_of(sample, "quotes/9003.csv")}
    assert all(price % Decimal("0.005") == 0 and price < 2 for price in prices)
    assert any(price % Decimal("0.01") for price in prices)


# The summary


def recounted(summary: SampleSummary, file: FileSummary) -> FileSummary:
    rows = rows_of(summary, file.path)
    sides = [(2, 3)] if file.path.startswith("trades/") else [(2, 4), (3, 5)]
    pairs = [(Decimal(row[p]), int(row[v])) for row in rows for p, v in sides]
    days = Counter(datetime.strptime(row[0], "%m/%d/%Y").date() for row in rows)  # noqa: DTZ007
    return FileSummary(
        path=file.path,
        symbol=file.symbol,
        rows=len(rows),
        distinct_rows=len(set(map(tuple, rows))),
        sum_volume=sum(volume for _, volume in pairs),
        sum_price=sum((price for price, _ in pairs), Decimal()),
        turnover=sum((price * volume for price, volume in pairs), Decimal()),
        first=utc_of(rows[0]),
        last=utc_of(rows[-1]),
        rows_by_day=dict(days),
    )


def utc_of(row: Row) -> datetime:
    local = datetime.strptime(f"{row[0]} {row[1]}", "%m/%d/%Y %H:%M:%S.%f")  # noqa: DTZ007
    return local.replace(tzinfo=SYDNEY).astimezone(UTC)


def test_the_summary_equals_a_recount_by_the_csv_module(sample: SampleSummary) -> None:
    for file in sample.files:
        assert file == recounted(sample, file)


def test_progress_adds_up_to_the_rows_written(tmp_path: Path) -> None:
    reported: Counter[str] = Counter()
    summary = write_samples(
        tmp_path, trades_per_day=500, on_progress=lambda path, rows: reported.update({path: rows})
    )
    assert reported == {file.path: file.rows for file in summary.files}
    assert reported.total() == summary.rows


# Properties


@settings(max_examples=40, deadline=None)
@given(
    trades=st.integers(1, 700),
    quotes=st.integers(12, 700),
    rank=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_a_day_of_any_size_has_its_rows_in_order_and_its_quotes_distinct(
    trades: int, quotes: int, rank: int, seed: int
) -> None:
    company = company_of(rank, trades=trades, quotes=quotes)
    made, book = make_day(company, seed=seed, day=date(2014, 3, 10).toordinal())
    assert (len(made), len(book)) == (company.trades, company.quotes)
    assert np.all(np.diff(made.ms) >= 0)
    assert np.all(np.diff(book.ms) >= 0)
    assert min(made.price.min(), made.volume.min(), book.bid.min(), book.bid_volume.min()) > 0
    assert max(made.price.max(), book.bid.max(), book.ask.max()) < company.price * 3 // 2
    rows = zip(book.ms, book.bid, book.ask, book.bid_volume, book.ask_volume, strict=True)
    assert len(set(rows)) == len(book)


@given(st.lists(st.integers(0, 50), max_size=30))
def test_moments_set_apart_differ_and_move_no_further_than_needed(moments: list[int]) -> None:
    moved = apart(np.sort(np.array(moments, dtype=np.int64)))
    assert np.all(np.diff(moved) > 0)
    assert np.all(moved >= np.sort(moments))
    assert not moments or moved[-1] <= max(moments) + len(moments)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.data())
def test_group_sizes_are_cut_to_the_total(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(sizes)))
    kept = sizes_up_to(total, np.array(sizes, dtype=np.int64))
    assert kept.sum() == total
    assert kept[:-1].tolist() == sizes[: max(0, len(kept) - 1)]


def test_pieces_draw_by_weight_and_within_their_ranges() -> None:
    drawn = WeightedRanges((3, 10, 5), (1, 100, 1)).draw(Draws(1), 20_000)
    assert set(drawn.tolist()) == {10, 11, 12, 13, 14, 100}
    assert np.mean(drawn == 100) == pytest.approx(0.25, abs=0.02)

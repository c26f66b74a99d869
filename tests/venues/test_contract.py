"""What every venue passes: live ones on their hosts, those with files on a folder of them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag

import pyarrow.compute as pc
import pytest
from support.binance_facts import Fact, csv_line, write_archive
from support.live import SOON
from support.third_exchange import ThirdExchange
from support.third_venue import ThirdVenue
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import ConfigError
from k2lib.feed.check import check_venue
from k2lib.load import load_files
from k2lib.schema.records import QUOTE, REFERENCE, TRADE
from k2lib.simulator import OfflineExchange, write_samples
from k2lib.venues import file_venue, live_venue, venue_names
from k2lib.venues.base import (
    BrokenFileError,
    FileOptions,
    FileVenue,
    HostRefusedError,
    Instrument,
    LiveVenue,
    MissingTrades,
)

SCHEMAS = {"trades": TRADE, "quotes": QUOTE, "reference": REFERENCE}


@dataclass(frozen=True)
class LiveCase:
    """A live venue whose hosts run: two symbols, and how the next trades of one are dropped."""

    venue: LiveVenue
    exchange: str
    symbols: tuple[str, str]
    drop: Callable[[int, str], None]
    last_id: Callable[[str], int]


@contextmanager
def binance_case() -> Iterator[LiveCase]:
    with OfflineExchange() as exchange:
        yield LiveCase(
            live_venue("binance").at(exchange.ws_urls, exchange.rest_urls),
            "BINANCE_SIM",
            ("BTCUSDT", "ETHUSDT"),
            lambda count, symbol: exchange.fault("skip", n=count, symbol=symbol),
            lambda symbol: exchange.truth(symbol).last_id,
        )


@contextmanager
def third_case() -> Iterator[LiveCase]:
    with ThirdExchange() as exchange:
        venue = ThirdVenue((exchange.url,))
        yield LiveCase(venue, "THIRD", ("ABC", "XYZ"), exchange.drop, exchange.last_id)


@pytest.fixture(params=[binance_case, third_case], ids=["binance", "third"])
def live(request: pytest.FixtureRequest) -> Iterator[LiveCase]:
    with request.param() as case:
        yield case


def test_a_live_venue_is_one(live: LiveCase) -> None:
    assert isinstance(live.venue, LiveVenue)
    assert live.venue.stream_hosts and live.venue.request_hosts
    named = live.venue.named("OTHER")
    assert (named.exchange, named.stream_hosts) == ("OTHER", live.venue.stream_hosts)
    assert live.venue.subscriptions_per_connection > 0


def test_a_venue_says_what_its_symbols_are_and_refuses_others(live: LiveCase) -> None:
    requests = live.venue.open_requests(on_event=lambda event: None, stop=Flag())
    found = requests.instruments(live.symbols)
    assert tuple(found) == live.symbols and requests.exchange == live.exchange
    assert {one.exchange for one in found.values()} == {live.exchange}
    with pytest.raises(ConfigError, match="NOSUCH"):
        requests.instruments(["NOSUCH"])
    requests.close()


def test_missing_trades_come_by_their_ids_and_no_other_is_invented(live: LiveCase) -> None:
    symbol = live.symbols[0]
    wait_until(lambda: live.last_id(symbol) > 20)
    low, high = live.last_id(symbol) - 15, live.last_id(symbol) - 10
    requests = live.venue.open_requests(on_event=lambda event: None, stop=Flag())
    instrument = requests.instruments([symbol])[symbol]
    pages = list(requests.backfill(MissingTrades(instrument, ((low, high),), "test")))
    requests.close()
    ids = [one for page in pages for one in page.rows["source_sequence"].to_pylist()]
    assert set(range(low, high + 1)) <= set(ids) and len(ids) == len(set(ids))
    assert all(page.rows.schema == TRADE.arrow and not page.absent for page in pages)


def test_every_step_of_a_check_passes_where_the_hosts_answer(live: LiveCase) -> None:
    checks = list(check_venue(live.venue, live.symbols))
    assert len(checks) > 2 and all(one.passed for one in checks), checks


def test_a_host_that_is_not_there_is_refused_and_may_be_tried_again(live: LiveCase) -> None:
    nowhere = live.venue.at(["ws://127.0.0.1:1"], live.venue.request_hosts)
    with pytest.raises(HostRefusedError) as refused:
        asyncio.run(nowhere.connect("ws://127.0.0.1:1", inbox=None, on_data=lambda: None))  # type: ignore[arg-type]
    assert not refused.value.lasting


def test_a_frame_that_cannot_be_read_is_a_dead_letter(live: LiveCase) -> None:
    venue, symbol = live.venue.named(live.exchange), live.symbols[0]
    instruments = {symbol: Instrument(live.exchange, symbol)}
    parsed = venue.parse_frames(
        [b"{"], [1_770_000_000_000_000], instruments=instruments, latest_us=2**62, source="test"
    )
    assert [(one.source, one.raw) for one in parsed.refused] == [("test", b"{")]
    assert parsed.trades.schema == TRADE.arrow and parsed.quotes.schema == QUOTE.arrow
    assert parsed.trades.num_rows + parsed.quotes.num_rows == 0


@pytest.mark.slow
def test_what_a_stream_leaves_out_is_filled_and_read_back(live: LiveCase, tmp_path: Path) -> None:
    symbol = live.symbols[0]
    with K2.open(home=tmp_path / "home") as k2:
        with k2.feed(live.symbols, venue=live.venue, options=SOON) as feed:
            wait_until(lambda: all(one.trades for one in feed.status().symbols))
            live.drop(7, symbol)
            wait_until(lambda: any(one.backfilled >= 7 for one in feed.status().symbols))
            wait_until(lambda: not any(one.gaps_open for one in feed.status().symbols))
        assert feed.venue.exchange == live.exchange
        k2.pipeline.settle()
        ids = k2.contiguity(live.exchange)
        assert sorted(ids["symbol"]) == sorted(live.symbols)
        assert ids["unexplained"].sum() == 0 and ids["missing"].sum() == 0
        trades = k2.trades(symbol=symbol, exchange=live.exchange).to_arrow()
        sequence = trades["source_sequence"]
        assert len(pc.unique(sequence)) == trades.num_rows
        assert pc.max(sequence).as_py() - pc.min(sequence).as_py() == trades.num_rows - 1
        gaps = k2.sql("SELECT DISTINCT exchange, state FROM gaps").rows()
        assert gaps == [(live.exchange, "filled")]


@dataclass(frozen=True)
class FileCase:
    """A venue with files, a folder of them, and a path to nothing."""

    venue: FileVenue
    folder: Path
    missing: Path


@pytest.fixture(params=["asx", "binance"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileCase:
    name, folder = request.param, tmp_path / "files"
    folder.mkdir()
    if name == "asx":
        write_samples(folder, companies=1, days=1, trades_per_day=200)
        return FileCase(file_venue(name), folder, folder / "trades" / "9.csv")
    trades = [replace(Fact(), trade_id=number) for number in range(200)]
    text = "".join(f"{csv_line(fact)}\n" for fact in trades)
    write_archive(folder / "BTCUSDT-trades-2025-01-02.zip", text)
    return FileCase(file_venue(name), folder, folder / "BTCUSDT-trades-2025-01-03.zip")


def test_every_file_is_checked_and_its_rows_are_of_its_kind(files: FileCase) -> None:
    ingested = datetime.now(UTC)
    for file in files.venue.find_files([files.folder], FileOptions()):
        facts = file.open()
        for other in (*file.reference(), file):
            kind = other.open().kind
            batches = list(other.read(ingested))
            assert {batch.kind for batch in batches} == {kind}
            assert {len(batch.dead_letters) for batch in batches} == {0}
            for batch in batches:
                assert batch.rows.schema == SCHEMAS[kind].arrow
                assert set(batch.rows["exchange"].to_pylist()) == {batch.exchange}
        assert facts.kind in SCHEMAS and all(path.is_file() for path in file.paths)


@pytest.mark.slow
def test_files_are_in_the_lake_once_however_often_they_are_loaded(
    files: FileCase, tmp_path: Path
) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        first, again = (
            load_files(files.venue, [files.folder], pipeline=lambda: k2.pipeline, engine=k2.engine)
            for _ in range(2)
        )
        counts = k2.sql("SELECT count(*), count(DISTINCT message_id) FROM lake.trades_v2").row(0)
    assert not first.failed and not again.failed
    assert all(line.already_there == 0 and line.rows for line in first.files)
    assert all(line.already_there == line.rows for line in again.files)
    assert counts[0] == counts[1] == sum(one.rows for one in first.files if one.kind == "trades")


def test_a_file_that_is_not_there_is_an_error_of_its_own_line(
    files: FileCase, tmp_path: Path
) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        paths = [files.missing, files.folder]
        report = load_files(files.venue, paths, pipeline=lambda: k2.pipeline, engine=k2.engine)
    assert report.files[0].error is not None and report.files[0].rows == 0
    assert all(line.error is None for line in report.files[1:])


def test_a_broken_file_is_a_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-2025-01-02.zip"
    path.write_bytes(b"no zip")
    (file,) = file_venue("binance").find_files([path], FileOptions())
    with pytest.raises(BrokenFileError) as broken:
        file.open()
    assert broken.value.letter.source == path.name


def test_venues_are_found_by_name() -> None:
    assert venue_names() == ["asx", "binance", "binanceus"]
    assert live_venue("binanceus").exchange == "BINANCEUS"
    with pytest.raises(ConfigError, match="no venue kraken; installed are asx, binance"):
        live_venue("kraken")


@pytest.mark.parametrize(("find", "name"), [(live_venue, "asx"), (file_venue, "kraken")])
def test_what_a_venue_does_not_offer_is_an_error(find: Callable[[str], object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        find(name)

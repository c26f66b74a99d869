"""The lake on an Iceberg REST catalog and S3: exact, and answering as on SQLite and files."""

import dataclasses
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyarrow.fs import FileInfo, FileSelector
from pyiceberg.table import Table
from support.api_client import api_of, asked
from support.catalog_proxy import Forward, OnCommit, catalog_proxy, lose_commit, lose_reply
from support.feeding import produce, running_sink, watermarks
from support.kafkas import opened
from support.lake_audit import Audit, audit_of
from support.lake_rows import at, gap, quote, rows_table, trade
from support.lake_upkeep import Clock, commit_each, ids, offsets
from support.lake_upkeep import message_ids as ids_of
from support.log_rows import many_trades, message_ids
from support.object_store import SECRET, ObjectStore, object_store_in
from support.paths import SUPPORT
from support.waiting import first, wait_until

from k2lib import K2
from k2lib.audit import audit
from k2lib.errors import QueryError
from k2lib.events import BatchDone, SinkPaused
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.offsets import read_offsets
from k2lib.iceberg.tables import TABLES, ensure_table, load_table, open_catalog
from k2lib.kafka.connect import Kafka
from k2lib.kafka.topics import GAPS
from k2lib.schema.records import GAP, QUOTE, TRADE
from k2lib.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TRADES = "market.equities.trades.asx"
QUOTES = "market.equities.quotes.asx"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store_in(tmp_path_factory.mktemp("store")) as one:
        yield one


@dataclass(frozen=True)
class Both:
    """Two homes with the same records: one on files, one on the object store."""

    files: K2
    remote: K2

    def same(self, ask: Callable[[K2], pl.DataFrame]) -> pl.DataFrame:
        """Return the answer to a question, which is the same of both."""
        of_files, of_remote = ask(self.files), ask(self.remote)
        assert of_files.equals(of_remote), f"{of_files} {of_remote}"
        return of_remote


def filled(k2: K2) -> K2:
    """Commit trades three times, a quote and a gap; leave two trades in Kafka."""
    for number in range(3):
        rows = [
            trade(3 * number + one, symbol=name) for one, name in enumerate(("BHP", "CBA", "BHP"))
        ]
        k2.pipeline.produce(TRADES, rows_table(rows), TRADE)
        k2.pipeline.settle()
    k2.pipeline.produce(QUOTES, rows_table([quote(1)], "quotes_v2"), QUOTE)
    k2.pipeline.produce(GAPS, rows_table([gap("g", 1)], "gaps"), GAP)
    k2.pipeline.settle()
    k2.pipeline.produce(TRADES, rows_table([trade(9), trade(2), trade(10)]), TRADE)
    k2.pipeline.flush()
    first(lambda: k2.complete_to("trades_v2"), lambda told: told.behind == 0)
    return k2


@pytest.fixture(scope="module")
def both(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    with ExitStack() as stack:
        homes = [
            filled(
                stack.enter_context(K2.open(home=folder / name, commit_interval_s=1000, **settings))
            )
            for name, settings in (("files", {}), ("remote", store.warehouse()))
        ]
        yield Both(*homes)


QUESTIONS: dict[str, Callable[[K2], pl.DataFrame]] = {
    "lake": lambda k2: k2.trades("BHP", tail=False),
    "lake and Kafka": lambda k2: k2.trades("BHP"),
    "the last": lambda k2: k2.trades("BHP", last=2),
    "a span": lambda k2: k2.trades("BHP", start=at(2), end=at(6)),
    "quotes": lambda k2: k2.quotes("BHP"),
    "bars": lambda k2: k2.bars("BHP", every="1m"),
    "SQL": lambda k2: k2.sql("SELECT * FROM trades_v2 ORDER BY message_id"),
    "SQL of the lake": lambda k2: k2.sql("SELECT count(*) FROM lake.trades_v2"),
    "SQL of bars": lambda k2: k2.sql("SELECT * FROM bars_1m ORDER BY symbol, start"),
    "SQL of a span": lambda k2: k2.sql(
        "SELECT message_id FROM trades_v2 ORDER BY 1", start=at(3), end=at(5)
    ),
    "gaps": lambda k2: k2.sql("SELECT * FROM gaps"),
    "a former snapshot": lambda k2: k2.trades("BHP", as_of=k2.snapshots()["snapshot_id"][0]),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_a_lake_in_files(both: Both, question: str) -> None:
    assert len(both.same(QUESTIONS[question])) > 0


def test_a_replay_is_that_of_a_lake_in_files(both: Both) -> None:
    replays = [
        [dataclasses.astuple(one) if dataclasses.is_dataclass(one) else repr(one) for one in events]
        for events in (
            k2.replay("BHP", start=at(0), end=at(20)) for k2 in (both.files, both.remote)
        )
    ]
    assert replays[0] == replays[1]
    assert len(replays[1]) > 2


def test_dead_letters_are_kept_in_the_bucket_and_retried(both: Both) -> None:
    both.remote.pipeline.produce_again(TRADES, [{"value": b"no record", "key": b"BHP"}], TRADE)
    both.remote.pipeline.settle()
    wait_until(lambda: both.remote.dead_letters(reason="undecodable").height == 1)
    (letter,) = both.remote.retry_dead_letters().letters
    assert letter.outcome == "not retried"


def test_the_audit_holds_of_a_bucket_that_files_were_loaded_into(
    store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "trades").mkdir()
    line = "03/10/2014,10:00:06.717,36.67,100,0,X,\n"
    (tmp_path / "trades" / "7078.csv").write_text(f"{line}{line}not a trade\n")
    with K2.open(home=tmp_path / "home", commit_interval_s=0.2, **store.warehouse()) as k2:
        k2.load_asx(tmp_path / "trades", reference=reference_in(tmp_path))
        report = audit(k2.settings, [tmp_path / "trades"])
    assert report.first_difference is None
    assert {one.name for one in report.checks if one.state == "held"} > {
        "ids",
        "files on disk",
        "records",
    }


def reference_in(folder: Path) -> Path:
    (folder / "reference-data").mkdir()
    (folder / "reference-data" / "company_info.csv").write_text(
        "company_id,symbol,company_name,ISIN,start_date,end_date\n"
        "7078,BHP,BHP BILLITON LTD,AU000000BHP4,05/07/2008,03/31/2014\n"
    )
    return folder / "reference-data"


def test_the_api_answers_from_the_bucket_and_shows_no_other_file_of_it(both: Both) -> None:
    with api_of(both.remote) as client:
        answer = asked(client, "/v1/trades", symbol="BHP")
    assert [one["message_id"] for one in answer["data"]] == both.remote.trades("BHP")[
        "message_id"
    ].to_list()
    with pytest.raises(QueryError, match="is no file of a table"):
        both.remote.sql("SELECT * FROM 's3://elsewhere/x.parquet'")


@pytest.fixture
def remote(store: ObjectStore, tmp_path: Path) -> Settings:
    """Return the settings of a home whose lake is a bucket of its own."""
    return Settings(home=tmp_path / "home", **store.warehouse())


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    with opened({}, tmp_path / "kafka") as one:
        yield one


def table_of(settings: Settings, name: str = "trades_v2") -> Table:
    table = load_table(open_catalog(settings), name)
    assert table is not None
    return table


def seen(store: ObjectStore, settings: Settings, name: str = "trades_v2") -> Audit:
    return audit_of(table_of(settings, name), store.files())


def test_rows_land_once_though_sent_twice_and_offsets_join(
    store: ObjectStore, remote: Settings, kafka: Kafka
) -> None:
    for number in range(3):
        produce(kafka, many_trades(1_000, first=500 * number))
        with running_sink(kafka, remote) as running:
            running.wait(lambda: running.named(BatchDone))
    assert seen(store, remote).column() == message_ids(2_000)
    highs = [high for _, high in watermarks(kafka)]
    assert sorted(seen(store, remote).ends().values()) == sorted(high for high in highs if high)
    seen(store, remote).assert_contiguous()


@pytest.mark.parametrize("fate", [lose_reply, lose_commit])
def test_a_commit_whose_reply_is_lost_is_made_once(
    store: ObjectStore, remote: Settings, kafka: Kafka, fate: OnCommit
) -> None:
    with catalog_proxy(store.catalog_url) as proxy:
        ensure_table(open_catalog(remote), TABLES["trades_v2"])
        settings = remote.model_copy(update={"catalog_uri": proxy.url})
        with running_sink(kafka, settings) as running:
            running.wait(lambda: running.sink.has_begun)
            came = proxy.once(fate)
            produce(kafka, many_trades(500))
            running.sink.discover.set()
            running.wait(lambda: came.is_set() and running.named(SinkPaused))
            produce(kafka, many_trades(500, first=500))
            running.wait(lambda: len(seen(store, remote).column()) >= 1_000)
    assert not running.errors
    assert seen(store, remote).column() == message_ids(1_000)
    seen(store, remote).assert_contiguous()


def test_two_sinks_that_share_no_lock_do_no_harm(
    store: ObjectStore, remote: Settings, kafka: Kafka, tmp_path: Path
) -> None:
    elsewhere = remote.model_copy(update={"home": tmp_path / "elsewhere"})
    ensure_table(open_catalog(remote), TABLES["trades_v2"])
    with running_sink(kafka, remote) as one, running_sink(kafka, elsewhere) as other:
        for number in range(5):
            produce(kafka, many_trades(200, first=200 * number))
            one.sink.discover.set()
            other.sink.discover.set()
        one.wait(lambda: len(seen(store, remote).column()) >= 1_000)
    assert not one.errors and not other.errors
    assert seen(store, remote).column() == message_ids(1_000)


def test_a_store_that_is_killed_pauses_the_sink_and_loses_nothing(
    store: ObjectStore, remote: Settings, kafka: Kafka
) -> None:
    with running_sink(kafka, remote) as running:
        produce(kafka, many_trades(500))
        running.sink.discover.set()
        running.wait(lambda: running.added() == 500)
        store.kill()
        produce(kafka, many_trades(500, first=500))
        running.wait(lambda: running.named(SinkPaused))
        store.start()
        running.wait(lambda: running.added() == 1_000)
    assert "start it, or correct its address" in running.named(SinkPaused)[0].reason
    assert seen(store, remote).column() == message_ids(1_000)


STEPS = ("batch_read", "files_written", "commit_done", "batch_done")
COMMIT_ROWS = 1_000


def child(settings: Mapping[str, Any], *, event: str = "", nth: int = 0) -> subprocess.Popen[bytes]:
    arguments = json.dumps({"settings": dict(settings), "event": event, "nth": nth})
    return subprocess.Popen([sys.executable, SUPPORT / "kill_sink.py", arguments])


def test_a_sink_killed_at_any_step_of_a_commit_loses_no_row_and_doubles_none(
    store: ObjectStore, empty_kafka: dict[str, str], tmp_path: Path
) -> None:
    warehouse = store.warehouse()
    settings = {
        "home": str(tmp_path / "home"),
        "commit_rows": COMMIT_ROWS,
        **warehouse,
        **empty_kafka,
    }
    remote = Settings(**settings)
    with opened(empty_kafka, tmp_path) as kafka:
        produce(kafka, many_trades(9 * COMMIT_ROWS))
        ends = sorted(high for _, high in watermarks(kafka))
    with catalog_proxy(store.catalog_url) as proxy:
        settings["catalog_uri"] = proxy.url
        for step in STEPS:
            assert child(settings, event=step, nth=2).wait(60) == -signal.SIGKILL
            audited(store, remote)
        for fate in (lose_commit, lose_reply):
            victim = child(settings)
            came = proxy.once(killing(victim, fate))
            wait_until(came.is_set)
            assert victim.wait(60) == -signal.SIGKILL
            audited(store, remote)
        last = child(settings)
        wait_until(lambda: sorted(seen(store, remote).ends().values()) == ends)
        last.send_signal(signal.SIGINT)
        assert last.wait(60) == 0
    assert seen(store, remote).column() == message_ids(9 * COMMIT_ROWS)


def audited(store: ObjectStore, settings: Settings) -> None:
    """Fail unless the table has as many rows as its offsets say, each once."""
    found = seen(store, settings)
    found.assert_contiguous()
    ids = found.column()
    assert len(ids) == len(set(ids)) == sum(found.ends().values())


def killing(victim: subprocess.Popen[bytes], fate: OnCommit) -> OnCommit:
    def on_commit(forward: Forward) -> None:
        fate(forward)
        victim.kill()

    return on_commit


def test_maintenance_merges_expires_and_deletes_as_on_files(
    store: ObjectStore, remote: Settings
) -> None:
    table, clock = ensure_table(open_catalog(remote), TABLES["trades_v2"]), Clock()
    maintenance = Maintenance(TABLES["trades_v2"], state=remote.home / "run" / "x", now=clock)
    commit_each(table, range(24))
    orphan = f"{table.location().removeprefix('s3://')}/data/k2-of-a-killed-writer.parquet"
    with store.files().open_output_stream(orphan) as file:
        file.write(b"rows that were never committed")
    merged = maintenance.run_now(table)
    assert (merged.files_merged, merged.files_written) == (24, 1)
    assert merged.snapshots_expired > 0
    clock.advance(minutes=11)
    assert maintenance.run_now(table).files_deleted > 0
    assert ids_of(table) == ids(range(24))
    assert read_offsets(table) == offsets(24)
    kept = {file.path for file in listed(store, f"{table.location()}/data")}
    assert orphan not in kept
    assert set(seen(store, remote).files) <= kept


def listed(store: ObjectStore, folder: str) -> list[FileInfo]:
    selector = FileSelector(folder.removeprefix("s3://"), recursive=True)
    return [one for one in store.files().get_file_info(selector) if one.is_file]


def test_no_secret_is_in_the_lake_the_home_or_a_log(
    store: ObjectStore, remote: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with K2(remote) as k2:
        k2.pipeline.produce(TRADES, rows_table([trade(1)]), TRADE)
        k2.pipeline.settle()
        shown = f"{k2!r} {k2.settings!r}"
    metadata = table_of(remote).metadata.model_dump_json()
    files = b"".join(path.read_bytes() for path in remote.home.rglob("*") if path.is_file())
    assert SECRET not in shown + metadata + caplog.text
    assert SECRET.encode() not in files


def test_endpoint_region_and_keys_may_be_those_of_the_environment(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = store.warehouse()
    for setting, name in OF_AWS.items():
        monkeypatch.setenv(name, warehouse.pop(setting))
    with K2.open(home=tmp_path / "home", **warehouse) as k2:
        k2.pipeline.produce(TRADES, rows_table([trade(1)]), TRADE)
        k2.pipeline.settle()
        assert len(k2.trades("BHP", tail=False)) == 1


OF_AWS = {
    "s3_endpoint": "AWS_ENDPOINT_URL",
    "s3_region": "AWS_DEFAULT_REGION",
    "s3_access_key_id": "AWS_ACCESS_KEY_ID",
    "s3_secret_access_key": "AWS_SECRET_ACCESS_KEY",
}
FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no credential": ({"catalog_credential": None}, ("K2_CATALOG_CREDENTIAL",)),
    "a wrong credential": ({"catalog_credential": "lake-key:wrong"}, ("K2_CATALOG_CREDENTIAL",)),
    "a wrong token": (
        {"catalog_credential": None, "catalog_token": "wrong"},
        ("K2_CATALOG_TOKEN",),
    ),
    "a wrong key": ({"s3_secret_access_key": "wrong"}, ("K2_S3_SECRET_ACCESS_KEY",)),
    "no key": (
        {"s3_access_key_id": None, "s3_secret_access_key": None},
        ("K2_S3_SECRET_ACCESS_KEY",),
    ),
    "no such bucket": ({"warehouse": "s3://nowhere"}, ("s3://nowhere", "K2_WAREHOUSE")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_refused_is_said_in_one_line_with_its_remedy(
    store: ObjectStore,
    remote: Settings,
    run: Callable[..., tuple[int, str, str]],
    asx_sample: Path,
    fault: str,
) -> None:
    changed, says = FAULTS[fault]
    settings = {**store.warehouse(), **changed}
    variables = {f"K2_{name.upper()}": text for name, text in settings.items() if text is not None}
    code, _, err = run("load", "asx", asx_sample / "trades", K2_TIMEOUT_S="2", **variables)
    line = err.splitlines()[-1]
    assert code == 1
    assert line.startswith("k2: ") and "Traceback" not in err
    assert [text for text in says if text not in line] == []
    assert SECRET not in err and "wrong" not in err

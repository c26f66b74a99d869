"""`k2 audit` holds on a home that holds, and names each of the damages planted in others."""

import json
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo
from support.damage import (
    as_other_engine,
    data_files,
    doubled,
    edit_metadata,
    lost,
    rewrite,
    rows_of,
    with_value,
)
from support.delete_files import delete_first_row
from support.live import SOON, SYMBOLS, streams, venue_of, wait_for_lake
from support.waiting import wait_until

from k2lib import K2
from k2lib.audit import AuditReport, audit
from k2lib.audit.checks import outside
from k2lib.schema.records import DEAD_LETTER, GAP
from k2lib.simulator import OfflineExchange

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")
SIM = "BINANCE_SIM"
TOPIC = "market.equities.trades.asx"
TRADES = (
    "03/10/2014,10:00:06.717,36.67,100,0,X,\n"
    "03/10/2014,10:00:06.717,36.67,100,0,X,\n"
    "03/10/2014,10:00:07.001,36.68,20000,3,X,B1\n"
    "not a trade\n"
    "03/10/2014,10:00:08.250,36.7,1,,X,\n"
)
QUOTES = "03/10/2014,10:00:06.700,36.66,36.68,300,50\n03/10/2014,10:00:06.700,36.66,0,300,0\n"
REFERENCE = (
    "company_id,symbol,company_name,ISIN,start_date,end_date\n"
    "7078,BHP,BHP BILLITON LTD,AU000000BHP4,05/07/2008,03/31/2014\n"
)
# The ids 5 to 7 are missing, and `gaps` says so.
ARCHIVE = "".join(
    f"{number},{60_000 + number}.5,0.0{number},1.5,17382816{number:02}000000,True,True\n"
    for number in (1, 2, 3, 4, 8, 9, 10)
)
NOON = datetime(2025, 1, 31, tzinfo=UTC)


def gap_row(state: str, revision: int) -> dict[str, Any]:
    gap_id = str(uuid.uuid5(NAMESPACE, f"{SIM}|BTCUSDT|5"))
    return {
        "message_id": str(uuid.uuid5(NAMESPACE, f"{gap_id}|{revision}")),
        "gap_id": gap_id,
        "revision": revision,
        "noticed": NOON,
        "exchange": SIM,
        "symbol": "BTCUSDT",
        "from_id": 5,
        "to_id": 7,
        "state": state,
        "filled": 0,
        "covered": 0,
        "absent": 3 * revision,
        "note": "",
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of files to load: ASX, and an archive that lacks three trades."""
    folder = tmp_path_factory.mktemp("sources")
    for name, text in {
        "asx/trades/7078.csv": TRADES,
        "asx/quotes/7078.csv": QUOTES,
        "asx/reference-data/company_info.csv": REFERENCE,
        "zips/exchange.txt": SIM,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with zipfile.ZipFile(folder / "zips" / "BTCUSDT-trades-2025-01-31.zip", "w") as archive:
        archive.writestr("BTCUSDT-trades-2025-01-31.csv", ARCHIVE)
    return folder


def fill(k2: K2, sources: Path) -> None:
    """Load the files, some of them twice, and record the gap."""
    k2.load_asx(sources / "asx")
    k2.load_binance_archive(sources / "zips")
    k2.load_asx(sources / "asx" / "trades")
    rows = [gap_row("noticed", 0), gap_row("none_at_venue", 1)]
    k2.pipeline.produce("market.gaps", pa.Table.from_pylist(rows, schema=GAP.arrow), GAP)
    k2.pipeline.settle()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Path:
    """Return a copy of a home, to be put where it was written."""
    home = tmp_path_factory.mktemp("homes") / "home"
    with K2.open(home=home, commit_interval_s=0.2) as k2:
        fill(k2, sources)
    return home.rename(home.with_name("whole"))


@pytest.fixture
def home(whole: Path) -> Iterator[Path]:
    """Return a home whose owner has ended."""
    home = whole.with_name("home")
    yield Path(shutil.copytree(whole, home))
    shutil.rmtree(home)


@pytest.fixture
def open_home(tmp_path: Path, sources: Path) -> Iterator[Path]:
    """Return a home whose owner lives, and so its log."""
    with K2.open(home=tmp_path / "home", commit_interval_s=0.2) as k2:
        fill(k2, sources)
        yield tmp_path / "home"


def states(report: AuditReport, state: str) -> set[tuple[str, str]]:
    return {(one.name, one.table) for one in report.checks if one.state == state}


def names(report: AuditReport, state: str = "different") -> set[str]:
    return {name for name, _ in states(report, state)}


def first(report: AuditReport) -> str:
    assert report.first_difference is not None, report.summary
    return report.first_difference


def asx_trade(home: Path, price: str = "36.68") -> str:
    """Return the message_id of the ASX trade at a price."""
    (message_id,) = [
        row["message_id"]
        for row in rows_of(home)
        if row["exchange"] == "ASX" and row["price"] == Decimal(price)
    ]
    return str(message_id)


@pytest.mark.slow
def test_a_home_that_holds_is_all_held(k2: K2, sources: Path) -> None:
    fill(k2, sources)
    report = audit(k2.settings, [sources])
    assert (report.first_difference, names(report, "not checked")) == (None, set())
    counts = {
        table: [
            sum(vars(one)[name] for one in report.partitions if one.table == table)
            for name in ("records", "rows", "dead_letters", "deduplicated", "deleted", "missing")
        ]
        for table in ("trades_v2", "quotes_v2", "dead_letters", "gaps")
    }
    assert counts == {
        "trades_v2": [15, 11, 0, 4, 0, 0],
        "quotes_v2": [2, 2, 0, 0, 0, 0],
        "dead_letters": [2, 1, 0, 1, 0, 0],
        "gaps": [2, 2, 0, 0, 0, 0],
    }
    symbols = {(one.table, one.symbol): one for one in report.symbols}
    assert symbols["trades_v2", "BHP"].quantity_in_files == "20201"
    assert [one.rows_in_files == one.rows_in_table for one in report.symbols] == [True] * 3


def test_without_its_owner_a_home_holds_and_what_the_log_would_tell_is_named(
    home: Path, sources: Path
) -> None:
    report = audit(home, [sources])
    assert (report.first_difference, names(report, "not checked")) == (None, {"records", "values"})
    (why,) = {one.not_checked for one in report.checks if one.not_checked}
    assert why == "the log of an embedded broker is there only while its owner lives"


def test_an_audit_changes_nothing_in_the_home(home: Path, sources: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    audit(home, [sources])
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_lost_row_is_named(home: Path, sources: Path) -> None:
    rewrite(home, "trades_v2", asx_trade(home), lost)
    report = audit(home, [sources])
    assert names(report) == {"rows of data files", "rows of named files"}
    assert first(report).startswith("rows of data files: trades_v2: the data files: expected 11 ")
    (of_files,) = [one for one in report.checks if one.name == "rows of named files" and one.result]
    assert "ASX BHP: expected 1 rows" in of_files.result
    assert "2014-03-09 23:00:07.001" in of_files.result and "36.68" in of_files.result


@pytest.mark.slow
def test_with_the_log_a_lost_row_is_named_by_its_record(open_home: Path) -> None:
    message_id = asx_trade(open_home)
    rewrite(open_home, "trades_v2", message_id, lost)
    report = audit(open_home)
    (records,) = [
        one for one in report.checks if one.state == "different" and one.name == "records"
    ]
    assert records.table == "trades_v2"
    assert "market.equities.trades.asx partition" in records.result
    assert f"found 1 are none of these, for example offset 2, message_id {message_id}" in (
        records.result
    )


def test_a_doubled_row_is_named(home: Path) -> None:
    message_id = asx_trade(home)
    rows = as_other_engine(home, "trades_v2").scan(EqualTo("message_id", message_id)).to_arrow()
    as_other_engine(home, "trades_v2").append(rows)
    report = audit(home)
    assert names(report) == {"unique ids"}
    assert f"for example {message_id}, 2 times" in first(report)


def test_a_doubled_row_in_a_file_is_named(home: Path) -> None:
    rewrite(home, "trades_v2", asx_trade(home), doubled)
    assert names(audit(home)) == {"rows of data files", "unique ids"}


def test_a_changed_price_is_named(home: Path, sources: Path) -> None:
    message_id = asx_trade(home)
    rewrite(home, "trades_v2", message_id, with_value("price", Decimal("36.69000000")))
    report = audit(home, [sources])
    assert names(report) == {"ids", "rows of named files"}
    assert first(report).startswith("ids: trades_v2:") and first(report).endswith(message_id)


@pytest.mark.slow
def test_with_the_log_a_changed_price_is_named_though_no_id_depends_on_it(open_home: Path) -> None:
    message_id = str(uuid.uuid5(NAMESPACE, f"{SIM}|BTCUSDT|9"))
    rewrite(open_home, "trades_v2", message_id, with_value("price", Decimal("1.00000000")))
    report = audit(open_home)
    assert names(report) == {"values"}
    assert first(report).endswith(message_id)


def test_a_changed_side_is_named_by_the_named_files(home: Path, sources: Path) -> None:
    message_id = str(uuid.uuid5(NAMESPACE, f"{SIM}|BTCUSDT|9"))
    rewrite(home, "trades_v2", message_id, with_value("side", "BUY"))
    report = audit(home, [sources])
    assert names(report) == {"rows of named files"}
    assert " x 0.09000000 " in first(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("currency", "XXX"), ("trade_id", "X-1"), ("trade_conditions", ["X"])],
)
def test_with_the_log_each_changed_column_is_named(
    open_home: Path, name: str, value: object
) -> None:
    message_id = str(uuid.uuid5(NAMESPACE, f"{SIM}|BTCUSDT|9"))
    rewrite(open_home, "trades_v2", message_id, with_value(name, value))
    report = audit(open_home)
    assert names(report) == {"values"}
    assert first(report).endswith(message_id)


def test_a_changed_id_is_named(home: Path) -> None:
    other = str(uuid.uuid5(NAMESPACE, "another"))
    rewrite(home, "trades_v2", asx_trade(home), with_value("message_id", other))
    report = audit(home)
    assert names(report) == {"ids"}
    assert first(report).endswith(other)


def skip_an_offset(home: Path) -> tuple[int, int]:
    """Let the newest snapshot of trades begin one later; return partition and offset skipped."""
    skipped = []

    def skip(metadata: dict[str, Any]) -> None:
        snapshot = max(metadata["snapshots"], key=lambda one: one["sequence-number"])
        offsets = json.loads(snapshot["summary"]["k2.offsets"])
        (log,) = offsets
        for partition, bounds in offsets[log][TOPIC].items():
            if bounds[1]:
                skipped.append((int(partition), bounds[0]))
                bounds[0] += 1
        snapshot["summary"]["k2.offsets"] = json.dumps(offsets)

    edit_metadata(home, "trades_v2", skip)
    (only,) = skipped
    return only


def test_a_skipped_offset_is_named(home: Path) -> None:
    partition, offset = skip_an_offset(home)
    report = audit(home)
    assert names(report) == {"offsets"}
    assert first(report).startswith(f"offsets: trades_v2: {TOPIC} partition {partition}: expected ")
    assert first(report).endswith(f"found it begins at {offset + 1}")


def test_a_table_property_that_says_other_offsets_than_its_snapshot_is_named(home: Path) -> None:
    def lead(metadata: dict[str, Any]) -> None:
        record = json.loads(metadata["properties"]["k2.offsets"])
        for partitions in (topics[TOPIC] for topics in record["offsets"].values()):
            next(iter(partitions.values()))[1] += 5
        metadata["properties"]["k2.offsets"] = json.dumps(record)

    edit_metadata(home, "trades_v2", lead)
    report = audit(home)
    assert names(report) == {"offsets"}
    assert f"offsets: trades_v2: {TOPIC} partition " in first(report)
    assert "expected the table property ends at" in first(report)


def test_a_loss_that_was_accepted_skips_no_offset(home: Path) -> None:
    partition, offset = skip_an_offset(home)
    position = f"{partition}:{offset}-{offset}"
    text = f"{TOPIC}|{position}|{sha256(b'').hexdigest()}"
    letter = {
        "message_id": str(uuid.uuid5(NAMESPACE, text)),
        "noticed": NOON,
        "source": TOPIC,
        "position": position,
        "reason": "lost",
        "detail": "",
        "raw": b"",
        "raw_size": 0,
    }
    rows = pa.Table.from_pylist([letter], schema=DEAD_LETTER.arrow)
    as_other_engine(home, "dead_letters").append(rows)
    assert audit(home).first_difference is None


def test_a_missing_file_is_named(home: Path, sources: Path) -> None:
    gone = data_files(home, "trades_v2")[0]
    gone.unlink()
    report = audit(home, [sources])
    assert names(report) == {"files on disk"}
    assert str(gone) in first(report) and "missing" in first(report)
    assert ("unique ids", "trades_v2") in states(report, "not checked")


def test_an_orphan_file_is_named_once_it_is_old(home: Path) -> None:
    file = data_files(home, "trades_v2")[0]
    others, ours = file.with_name("others.parquet"), file.with_name("k2-ours.parquet")
    shutil.copy(file, others)
    assert audit(home).held
    assert str(others) in first(audit(home, grace_s=-1))
    an_hour_ago = time.time() - 3600
    os.utime(others, (an_hour_ago, an_hour_ago))
    assert audit(home).held
    others.rename(ours)
    assert str(ours) in first(audit(home))


def test_a_hole_that_gaps_does_not_explain_is_named(home: Path) -> None:
    for row in rows_of(home, "gaps"):
        rewrite(home, "gaps", row["message_id"], with_value("state", "filled"))
    report = audit(home)
    assert "ids 5 to 7" in first(report) and f"{SIM} BTCUSDT" in first(report)


def test_an_unrecorded_gap_is_named(home: Path) -> None:
    for row in rows_of(home, "gaps"):
        rewrite(home, "gaps", row["message_id"], lost)
    report = audit(home)
    assert names(report) == {"rows of data files", "venue ids"}
    (ids,) = [one for one in report.checks if one.name == "venue ids"]
    assert "expected ids 5 to 7" in ids.result


def test_a_removed_dead_letter_is_named(home: Path, sources: Path) -> None:
    (letter,) = rows_of(home, "dead_letters")
    rewrite(home, "dead_letters", letter["message_id"], lost)
    report = audit(home, [sources])
    assert names(report) == {"rows of data files", "rows of named files"}
    assert "rows of data files: dead_letters" in first(report)
    (of_files,) = [one for one in report.checks if one.name == "rows of named files" and one.result]
    assert "trades/7078.csv" in of_files.result and "line 4" in of_files.result


def test_a_row_that_the_table_lacks_of_a_named_file_is_named(
    home: Path, sources: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources / "asx", tmp_path / "asx"))
    with (folder / "trades" / "7078.csv").open("a") as file:
        file.write("03/10/2014,10:00:09.000,36.71,7,,X,\n")
    report = audit(home, [folder])
    assert names(report) == {"rows of named files"}
    assert "ASX BHP: expected 1 rows" in first(report) and "36.71" in first(report)


@pytest.mark.slow
def test_rows_that_another_engine_deleted_are_accounted_for(k2: K2, sources: Path) -> None:
    fill(k2, sources)
    home = k2.settings.home
    as_other_engine(home, "trades_v2").delete(EqualTo("source_sequence", 3))
    as_other_engine(home, "trades_v2").delete(EqualTo("message_id", asx_trade(home)))
    report = audit(k2.settings, [sources])
    assert (report.first_difference, names(report, "not checked")) == (None, set())
    assert sum(one.deleted for one in report.partitions) == 2


def test_the_command_names_the_first_difference(
    home: Path, sources: Path, tmp_path: Path, run: Any
) -> None:
    page = tmp_path / "audit.html"
    code, out, err = run("audit", sources, "--html", page, "--json", K2_HOME=str(home))
    assert (code, json.loads(out)["held"]) == (0, True)
    assert "<script" not in page.read_text() and "pyiceberg" in page.read_text()
    message_id = asx_trade(home)
    rewrite(home, "trades_v2", message_id, with_value("price", Decimal("36.69000000")))
    code, out, err = run("audit", K2_HOME=str(home))
    assert code == 1 and "different" in out and "not checked" in out
    assert err.splitlines()[-1].startswith("k2: ids: trades_v2: message_id: expected the UUIDv5")
    assert run("audit", tmp_path / "none", K2_HOME=str(home))[0] == 2


@pytest.mark.slow
def test_it_holds_beside_a_running_stream_with_faults(tmp_path: Path) -> None:
    with (
        OfflineExchange(rate=300.0) as exchange,
        K2.open(home=tmp_path / "home", commit_interval_s=0.2) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON),
    ):
        wait_until(lambda: streams(tmp_path / "home", 200))
        reports = [audit(k2.settings)]
        for fault in ("skip", "cut", "skip", "void"):
            exchange.fault(fault)
            reports.append(audit(k2.settings))
        wait_for_lake(k2, exchange)
        reports.append(audit(k2.settings))
    assert [(one.first_difference, names(one, "not checked")) for one in reports] == [
        (None, {"rows of named files"})
    ] * len(reports)


def test_columns_that_another_engine_renamed_are_found(home: Path, sources: Path) -> None:
    with as_other_engine(home, "trades_v2").update_schema() as update:
        update.rename_column("price", "px")
    assert audit(home, [sources]).first_difference is None


def test_rows_are_not_checked_beside_delete_files(home: Path) -> None:
    delete_first_row(as_other_engine(home, "trades_v2"))
    report = audit(home)
    assert report.held
    assert {("unique ids", "trades_v2"), ("venue ids", "trades_v2")} < states(report, "not checked")
    assert "compact the table" in str({one.not_checked for one in report.checks})


@pytest.mark.parametrize(
    ("hole", "explained", "left"),
    [
        ((5, 7), [], [(5, 7)]),
        ((5, 7), [(1, 4), (8, 9)], [(5, 7)]),
        ((5, 7), [(5, 7)], []),
        ((5, 9), [(6, 6), (8, 20)], [(5, 5), (7, 7)]),
        ((5, 9), [(1, 20), (6, 7)], []),
    ],
)
def test_only_what_no_gap_has_is_unexplained(
    hole: tuple[int, int], explained: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    assert outside(*hole, explained) == left


def test_of_equal_lines_the_table_has_as_many_as_the_file_that_has_most(
    home: Path, sources: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources / "asx", tmp_path / "asx"))
    (folder / "more" / "trades").mkdir(parents=True)
    line = TRADES.splitlines(keepends=True)[0]
    (folder / "more" / "trades" / "7078.csv").write_text(line)
    reference = folder / "reference-data"
    assert audit(home, [folder], reference=reference).held
    report = audit(home, [folder], reference=reference, parts=True)
    assert "ASX BHP: expected 3 rows" in first(report)


def test_where_snapshots_between_were_expired_none_begins_before_an_older_one_ends(
    home: Path,
) -> None:
    def expire(metadata: dict[str, Any]) -> None:
        snapshots = sorted(metadata["snapshots"], key=lambda one: one["sequence-number"])
        del snapshots[-1]["parent-snapshot-id"]

    edit_metadata(home, "trades_v2", expire)
    assert audit(home).held

    def go_back(metadata: dict[str, Any]) -> None:
        snapshot = max(metadata["snapshots"], key=lambda one: one["sequence-number"])
        text = snapshot["summary"]["k2.offsets"]
        offsets = json.loads(text)
        (log,) = offsets
        for bounds in offsets[log][TOPIC].values():
            bounds[0] = 0
        snapshot["summary"]["k2.offsets"] = json.dumps(offsets)

    edit_metadata(home, "trades_v2", go_back)
    report = audit(home)
    assert names(report) == {"offsets"}
    assert "where an older one ends, found it begins at 0" in first(report)

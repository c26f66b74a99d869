"""What a chaos run must leave behind, read by pyiceberg, confluent_kafka and fastavro alone."""

import contextlib
import io
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import fastavro
from confluent_kafka import Consumer, TopicPartition
from pyiceberg.table import StaticTable

TABLES: Final = {
    "trades": "trades_v2",
    "quotes": "quotes_v2",
    "reference": "reference_v2",
    "dead_letters": "dead_letters",
    "gaps": "gaps",
}
TIMEOUT_S: Final = 10.0
READ_S: Final = 60.0
LOCKED_S: Final = 0.3
SIM: Final = "BINANCE_SIM"

Partition = tuple[str, int]
Offsets = dict[tuple[str, str, str], tuple[int, int]]


def newest_metadata(home: Path, table: str = "trades_v2") -> str | None:
    """Return where the newest metadata of a table is; None where there is no table."""
    uri = f"file:{home / 'catalog.db'}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_S)) as catalog:
            query = "select metadata_location from iceberg_tables where table_name = ?"
            found = catalog.execute(query, [table]).fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else str(found[0])


def open_table(home: Path, name: str) -> StaticTable | None:
    """Open a table as its newest metadata has it; None where there is none."""
    location = newest_metadata(home, name)
    return None if location is None else StaticTable.from_metadata(location)


def column(table: StaticTable, *names: str, where: str = "") -> list[Any]:
    """Return the values of columns, all rows, as tuples where there are several."""
    scan = (
        table.scan(row_filter=where, selected_fields=names)
        if where
        else table.scan(selected_fields=names)
    )
    rows = scan.to_arrow()
    columns = [rows[name].to_pylist() for name in names]
    return columns[0] if len(names) == 1 else list(zip(*columns, strict=True))


def missing_ids(home: Path, last: Mapping[str, int]) -> dict[str, int]:
    """Return how many of the exchange's ids, from the first stored to the last, are not there."""
    table = open_table(home, "trades_v2")
    if table is None:
        return {symbol: -1 for symbol in last}
    found = sim_ids(table)
    return {
        symbol: end - min(found[symbol]) + 1 - len({one for one in found[symbol] if one <= end})
        if symbol in found
        else -1
        for symbol, end in last.items()
    }


def sim_ids(table: StaticTable) -> dict[str, list[int]]:
    """Return the exchange's ids in the table, by symbol, doubles included."""
    ids: dict[str, list[int]] = {}
    rows = column(table, "symbol", "source_sequence", where=f"exchange = '{SIM}'")
    for symbol, number in rows:
        ids.setdefault(symbol, []).append(number)
    return ids


@dataclass(frozen=True)
class Log:
    """What Kafka has: the message_ids of each kind of record, and where each partition ends."""

    ids: Mapping[str, list[str]]
    ends: Mapping[Partition, int]


def read_log(bootstrap: str, registry_url: str) -> Log:
    """Read all our topics from their beginning.

    Raises:
        TimeoutError: not all of it came in time.
    """
    client = Consumer({"bootstrap.servers": bootstrap, "group.id": "chaos-check"})
    try:
        topics = client.list_topics(timeout=TIMEOUT_S).topics
        partitions = [
            TopicPartition(name, number, 0)
            for name, topic in sorted(topics.items())
            if name.startswith("market.")
            for number in topic.partitions
        ]
        ends = {
            (one.topic, one.partition): client.get_watermark_offsets(one, timeout=TIMEOUT_S)[1]
            for one in partitions
        }
        client.assign(partitions)
        return Log(_ids(_records(client, ends), registry_url), ends)
    finally:
        client.close()


def _records(client: Consumer, ends: Mapping[Partition, int]) -> Iterator[tuple[str, bytes]]:
    left = {partition: end for partition, end in ends.items() if end}
    deadline = time.monotonic() + READ_S
    while left:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Kafka did not give all records within {READ_S:g} s: {left}")
        for message in client.consume(5_000, 0.2):
            if message.error() is not None:
                continue
            yield str(message.topic()), message.value() or b""
            partition = str(message.topic()), int(message.partition() or 0)
            if int(message.offset() or 0) + 1 >= left.get(partition, 0):
                left.pop(partition, None)


def _ids(records: Iterator[tuple[str, bytes]], registry_url: str) -> dict[str, list[str]]:
    @cache
    def schema(number: int) -> Any:
        with urlopen(f"{registry_url}/schemas/ids/{number}", timeout=TIMEOUT_S) as answer:
            return fastavro.parse_schema(json.loads(json.load(answer)["schema"]))

    ids: dict[str, list[str]] = {kind: [] for kind in TABLES}
    for topic, value in records:
        parts = topic.split(".")
        kind = parts[1] if len(parts) == 2 else parts[2]
        writer = schema(int.from_bytes(value[1:5], "big"))
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), writer, None)
        ids[kind].append(record["message_id"])
    return ids


def check(
    home: Path, *, last: Mapping[str, int], files: Path, log: Log
) -> tuple[list[str], list[str]]:
    """Return what was found, and what is wrong: nothing, where all held."""
    found, wrong = [], []
    for symbol, missing in missing_ids(home, last).items():
        wrong += [f"{symbol}: {missing} of the exchange's ids are lost"] if missing else []
    for kind, name in TABLES.items():
        table = open_table(home, name)
        if table is None:
            wrong += [f"{name} is missing"] if log.ids[kind] else []
            continue
        ids = column(table, "message_id")
        unique, sent = set(ids), set(log.ids[kind])
        found.append(f"{name}: {len(ids):,} rows, {len(table.snapshots())} snapshots kept")
        if len(ids) != len(unique):
            wrong.append(f"{name}: {len(ids) - len(unique)} rows twice")
        if unique != sent:
            wrong.append(
                f"{name}: {len(sent - unique)} records of Kafka lost, "
                f"{len(unique - sent)} rows that Kafka never had"
            )
        wrong += _check_offsets(name, table, kind, log.ends)
        absent = sorted(path for path in referenced(table) if not Path(path).exists())
        wrong += [f"{name}: {len(absent)} live files missing, first {absent[0]}"] if absent else []
    wrong += _check_files(home, files)
    return [*found, *_dead_letters(home)], wrong


def _dead_letters(home: Path) -> list[str]:
    """Return why records are in the dead letters; the files of a run have no bad line."""
    table = open_table(home, "dead_letters")
    rows = [] if table is None else column(table, "source", "reason", "detail")
    counts = Counter(f"{source}, {reason}: {detail}" for source, reason, detail in rows)
    return [f"{count} dead letters of {what}" for what, count in counts.most_common()]


def _check_offsets(
    name: str, table: StaticTable, kind: str, ends: Mapping[Partition, int]
) -> list[str]:
    wrong = []
    snapshots = {one.snapshot_id: one for one in table.snapshots()}
    for snapshot in snapshots.values():
        before = snapshots.get(snapshot.parent_snapshot_id or -1)
        if before is None or _offsets(before) is None or (own := _offsets(snapshot)) is None:
            continue
        appends = snapshot.summary is not None and snapshot.summary.operation.value == "append"
        for partition, (_, end) in (_offsets(before) or {}).items():
            start = own[partition][0 if appends else 1]
            if start != end:
                wrong.append(f"{name}: {partition} ends at {end}, and goes on at {start}")
    current = table.current_snapshot()
    reached = {} if current is None else _offsets(current) or {}
    stored = {(topic, int(number)): end for (_, topic, number), (_, end) in reached.items()}
    for place, end in ends.items():
        if end and _kind(place[0]) == kind and stored.get(place) != end:
            wrong.append(f"{name}: {place} ends at {end}, the table at {stored.get(place)}")
    return wrong


def _kind(topic: str) -> str:
    parts = topic.split(".")
    return parts[1] if len(parts) == 2 else parts[2]


def _offsets(snapshot: Any) -> Offsets | None:
    text = snapshot.summary["k2.offsets"] if snapshot.summary is not None else None
    if text is None:
        return None
    return {
        (log, topic, number): (start, end)
        for log, topics in json.loads(text).items()
        for topic, numbers in topics.items()
        for number, (start, end) in numbers.items()
    }


def referenced(table: StaticTable) -> set[str]:
    """Return the files that any kept snapshot of the table needs."""
    files: set[str] = set()
    for snapshot in table.snapshots():
        files.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in files:
                files.add(manifest.manifest_path)
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                files |= {entry.data_file.file_path for entry in entries}
    return {path.removeprefix("file://") for path in files}


def unreferenced(home: Path) -> list[str]:
    """Return the files in the tables' folders that no kept snapshot and no metadata needs."""
    left: list[str] = []
    for name in TABLES.values():
        table = open_table(home, name)
        if table is None:
            continue
        needed = referenced(table)
        logged = {entry.metadata_file for entry in table.metadata.metadata_log}
        needed |= {path.removeprefix("file://") for path in logged | {table.metadata_location}}
        folder = Path(table.location().removeprefix("file://"))
        found = (str(path) for path in folder.rglob("*") if path.is_file())
        left += sorted(path for path in found if path not in needed and not path.endswith(".crc"))
    return left


def _check_files(home: Path, files: Path) -> list[str]:
    """Compare how many lines the files have with the rows and dead letters of each symbol."""
    trades, quotes = open_table(home, "trades_v2"), open_table(home, "quotes_v2")
    letters = open_table(home, "dead_letters")
    if trades is None or quotes is None:
        return ["trades_v2 or quotes_v2 is missing"]
    rows = Counter(column(trades, "symbol")) + Counter(column(quotes, "symbol"))
    refused: Counter[str] = Counter() if letters is None else Counter(column(letters, "source"))
    lines = (files / "reference-data" / "company_info.csv").read_text().splitlines()[1:]
    wrong = []
    for company, symbol in (line.split(",")[:2] for line in lines):
        paths = [files / kind / f"{company}.csv" for kind in ("trades", "quotes")]
        held = sum(path.read_bytes().count(b"\n") for path in paths if path.exists())
        stored = rows[symbol] + refused[f"{company}.csv"]
        if held != stored:
            wrong.append(f"{symbol}: the files have {held} lines, the lake {stored}")
    return wrong

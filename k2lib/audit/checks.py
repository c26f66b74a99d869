"""The checks: each takes what was read of a table, and says whether its account holds."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from duckdb import DuckDBPyConnection
from pyiceberg.table.snapshots import Snapshot

from k2lib.audit.identity import other_ids
from k2lib.audit.kafka_log import LogRange
from k2lib.audit.report import NAMED, Check, Difference, PartitionAccount
from k2lib.audit.tables import (
    CAUSE,
    DELETED_AT,
    LogPartition,
    PinnedTable,
    compared,
    files_on_disk,
    listed_path,
    offsets_of,
    summary,
)

RESTORE: Final = "restore it from a copy"
EMBEDDED: Final = "embedded-"
# Data files of K2, and metadata as every engine names them: committed soon after they are written.
SOON: Final = re.compile(
    r".*/(k2-[^/]*\.parquet|[^/]*\.metadata\.json|snap-[^/]*\.avro|[0-9a-f-]{36}-m\d+\.avro)"
)


def files(
    pinned: PinnedTable, *, grace_s: float, foreign_s: float, pending: Iterable[str], now: float
) -> Check:
    """Check that the table's folder has the files that are needed, and for long no other ones.

    Args:
        grace_s: how old another file may be; `foreign_s` if another engine may yet commit it.
        pending: paths that maintenance has noted, and deletes once their grace is over.
    """
    kept = [pinned.files(snapshot) for snapshot in pinned.table.snapshots()]
    needed = pinned.metadata_files().union(*(one.all for one in kept))
    on_disk = files_on_disk(pinned.table)
    logged = {entry.metadata_file for entry in pinned.table.metadata.metadata_log}
    missing = sorted(one for one in needed - logged if listed_path(one) not in on_disk)
    known = {listed_path(one) for one in needed | pinned.formerly_kept()} | set(pending)
    orphans = sorted(
        path
        for path, at in on_disk.items()
        if path not in known and now - at > (grace_s if SOON.fullmatch(path) else foreign_s)
    )
    differences = [
        *(Difference(one, "the file is there", f"it is missing: {RESTORE}") for one in missing),
        *(Difference(one, "no old file that nothing needs", "an orphan file") for one in orphans),
    ]
    return _check("files on disk", pinned, f"{len(on_disk):,} files", differences)


def rows_of_files(connection: DuckDBPyConnection, pinned: PinnedTable) -> Check:
    """Check that the data files have as many rows as the manifests and the snapshot say."""
    listed = pinned.files(pinned.lineage[0]).data if pinned.lineage else {}
    (found,) = _row(connection, f"SELECT count(*) FROM {pinned.name}.rows")
    says = {
        "its manifests say": sum(listed.values()),
        "its snapshot says": pinned.rows_in_metadata(),
    }
    differences = [
        Difference("the data files", f"{rows:,} rows, as {who}", f"{found:,} rows")
        for who, rows in says.items()
        if rows not in (None, found)
    ]
    return _check("rows of data files", pinned, f"{found:,} rows", differences[:1])


def records(
    connection: DuckDBPyConnection, pinned: PinnedTable, ranges: Sequence[LogRange]
) -> tuple[list[PartitionAccount], Check]:
    """Check that each record that the table has read is a row, or that it is known why not."""
    name = pinned.name
    connection.execute(f"CREATE TABLE {name}.ranges (topic VARCHAR, part INTEGER, read_to BIGINT)")
    for one in ranges:
        place = [one.topic, one.partition, one.end]
        connection.execute(f"INSERT INTO {name}.ranges VALUES (?, ?, ?)", place)
    connection.execute(
        f"""CREATE TABLE {name}.outcomes AS
        SELECT topic, part, pos, message_id, CASE
            WHEN letters.source IS NOT NULL THEN 'dead letter'
            WHEN message_id IS NULL THEN 'missing'
            WHEN row_number() OVER (
                PARTITION BY message_id, letters.source ORDER BY topic, part, pos) > 1
                THEN 'deduplicated'
            WHEN message_id IN (SELECT message_id FROM {name}.rows) THEN 'row'
            WHEN message_id IN (SELECT message_id FROM {name}.deleted) THEN 'deleted'
            ELSE 'missing' END AS outcome
        FROM {name}.records
        JOIN {name}.ranges USING (topic, part)
        LEFT JOIN (
            SELECT source, position FROM dead_letters.rows
            UNION SELECT source, position FROM dead_letters.records
        ) AS letters ON letters.source = topic AND letters.position = part || ':' || pos
        WHERE pos < read_to"""
    )
    accounts = [_account(connection, one) for one in ranges]
    differences = [_missing(connection, one) for one in accounts if one.missing]
    differences += [
        Difference(
            f"{one.topic} partition {one.partition}",
            f"the records from offset {one.end} on",
            f"Kafka has none before {one.first}: {one.first - one.end:,} are lost",
        )
        for one in accounts
        if 0 < one.end < one.first
    ]
    unknown = _unknown_deletion(pinned)
    if unknown is not None and any(one.missing for one in accounts):
        return accounts, not_checked("records", name, unknown)
    counted = sum(one.records for one in accounts)
    extra, note = _rows_without_record(connection, pinned, ranges)
    return accounts, _check(
        "records", pinned, f"{counted:,} records", [*differences, *extra], note=note
    )


def _account(connection: DuckDBPyConnection, part: LogRange) -> PartitionAccount:
    counts = dict(
        connection.execute(
            f"""SELECT outcome, count(*) FROM {part.table}.outcomes
            WHERE topic = ? AND part = ? GROUP BY outcome""",
            [part.topic, part.partition],
        ).fetchall()
    )
    return PartitionAccount(
        part.table,
        part.topic,
        part.partition,
        first=part.first,
        end=part.end,
        records=sum(counts.values()),
        rows=counts.get("row", 0),
        dead_letters=counts.get("dead letter", 0),
        deduplicated=counts.get("deduplicated", 0),
        deleted=counts.get("deleted", 0),
        missing=counts.get("missing", 0),
        unread=max(part.high - max(part.end, part.first), 0),
    )


def _missing(connection: DuckDBPyConnection, account: PartitionAccount) -> Difference:
    offset, message_id = _row(
        connection,
        f"""SELECT pos, message_id FROM {account.table}.outcomes
        WHERE outcome = 'missing' AND topic = '{account.topic}' AND part = {account.partition}
        ORDER BY pos LIMIT 1""",
    )
    return Difference(
        f"{account.topic} partition {account.partition}",
        f"{account.records:,} records are rows, dead letters, deduplicated or deleted by others",
        f"{account.missing:,} are none of these",
        f"offset {offset}, message_id {message_id or 'not decodable'}",
    )


def _unknown_deletion(pinned: PinnedTable) -> str | None:
    """Say where rows were deleted that cannot be read any more."""
    at = pinned.table.properties.get(DELETED_AT, "")
    is_known = pinned.has_all_history or not at.isdecimal()
    if is_known and all(files is not None for _, files in pinned.deletions()):
        return None
    when = f"{datetime.fromtimestamp(int(at) / 1000, UTC):%Y-%m-%d %H:%M}" if at else "once"
    return (
        f"another engine deleted rows ({when}) and expired the snapshot that had them: the "
        "records that are missing cannot be told from those"
    )


def _rows_without_record(
    connection: DuckDBPyConnection, pinned: PinnedTable, ranges: Sequence[LogRange]
) -> tuple[list[Difference], str]:
    """Rows whose record is not in the log can only come from offsets that are gone."""
    count, example = _row(
        connection,
        f"SELECT count(*), min(message_id) FROM {pinned.name}.rows "
        f"ANTI JOIN {pinned.name}.records USING (message_id)",
    )
    there = {(one.log, one.topic, one.partition) for one in ranges}
    others = {place: end for place, (_, end) in pinned.offsets.items() if place not in there}
    gone = sum(one.first for one in ranges) + sum(others.values())
    if not count:
        return [], ""
    if count <= gone or _had_embedded_logs(pinned):
        return [], f"{count:,} rows are of records that are no longer in the log"
    expected = f"at most {gone:,} rows whose records are no longer in the log"
    return [Difference("the rows", expected, f"{count:,} rows without a record", example)], ""


def _had_embedded_logs(pinned: PinnedTable) -> bool:
    """Whether earlier embedded logs may have filled it, of which a table keeps no offsets."""
    logs = {log for one in pinned.table.snapshots() for log, _, _ in offsets_of(one) or {}}
    embedded = {log for log in logs if log.startswith(EMBEDDED)}
    return bool(embedded) and (len(embedded) > 1 or not pinned.has_all_history)


def values(connection: DuckDBPyConnection, pinned: PinnedTable) -> Check:
    """Check that each row says what a record of its message_id says."""
    columns = ", ".join(f'"{name}"' for name in compared(pinned.name))
    counted, other, example = _row(
        connection,
        f"""WITH of_log AS (
            SELECT {columns} FROM {pinned.name}.rows SEMI JOIN {pinned.name}.records
            USING (message_id)
        ),
        other AS (SELECT * FROM of_log EXCEPT SELECT {columns} FROM {pinned.name}.records)
        SELECT (SELECT count(*) FROM of_log), count(*), min(message_id) FROM other""",
    )
    differences = [
        Difference("the rows", "rows say what their records say", f"{other:,} do not", example)
    ]
    return _check("values", pinned, f"{counted:,} rows", differences if other else [])


def offsets(
    connection: DuckDBPyConnection, pinned: PinnedTable, ranges: Sequence[LogRange] | None
) -> Check:
    """Check that each snapshot begins where the one before it ended, and none beyond the log."""
    differences = _other_in_property(pinned)
    with_offsets = [one for one in pinned.in_order if offsets_of(one) is not None]
    for older, snapshot in zip([None, *with_offsets], with_offsets, strict=False):
        before = _with_offsets_before(pinned, snapshot)
        if before is not None:
            differences += _steps(connection, before, snapshot)
        elif older is not None and not pinned.was_rolled_back:
            differences += _steps_back(older, snapshot)
    for one in ranges or ():
        if one.end > one.high:
            place = f"{one.topic} partition {one.partition}"
            expected = f"at most {one.high}, the high watermark"
            differences.append(Difference(place, expected, f"the table ends at {one.end}"))
    return _check("offsets", pinned, f"{len(with_offsets):,} snapshots", differences)


def _other_in_property(pinned: PinnedTable) -> list[Difference]:
    """Return the partitions of which the table property does not say what its snapshot says."""
    snapshot_id, _, recorded = pinned.recorded_offsets
    snapshot = pinned.by_id.get(snapshot_id)
    said = None if snapshot is None else offsets_of(snapshot)
    return [
        Difference(
            f"{place[1]} partition {place[2]}",
            f"the table property ends at {end}, as its snapshot {snapshot_id}",
            f"it ends at {recorded[place][1] if place in recorded else None}",
        )
        for place, (_, end) in (said or {}).items()
        if place not in recorded or recorded[place][1] != end
    ]


def _with_offsets_before(pinned: PinnedTable, snapshot: Snapshot) -> Snapshot | None:
    """Return the newest ancestor that has offsets; None where one between was expired."""
    one = pinned.parent(snapshot)
    while one is not None and offsets_of(one) is None:
        one = pinned.parent(one)
    return one


def _steps(connection: DuckDBPyConnection, before: Snapshot, after: Snapshot) -> list[Difference]:
    """Return the partitions in which a snapshot does not begin where its ancestor ends."""
    ours, differences = offsets_of(after) or {}, []
    copies = CAUSE in summary(after)
    for place, reached in (offsets_of(before) or {}).items():
        log, topic, partition = place
        found = ours.get(place)
        if found is None and log.startswith(EMBEDDED):
            continue  # another embedded log was begun
        expected = reached if copies else reached[1]
        start = None if found is None else found if copies else found[0]
        if start == expected and found is not None and found[0] <= found[1]:
            continue
        if found is not None and _is_accepted_loss(connection, place, reached[1], found[0]):
            continue
        differences.append(
            Difference(
                f"{topic} partition {partition}",
                f"snapshot {after.snapshot_id} begins at {expected}, where its parent ends",
                f"it begins at {start}",
            )
        )
    return differences


def _steps_back(older: Snapshot, newer: Snapshot) -> list[Difference]:
    """Return the partitions that a later snapshot begins before an older one ends."""
    ours = offsets_of(newer) or {}
    return [
        Difference(
            f"{place[1]} partition {place[2]}",
            f"snapshot {newer.snapshot_id} begins at {end} or later, where an older one ends",
            f"it begins at {ours[place][0]}",
        )
        for place, (_, end) in (offsets_of(older) or {}).items()
        if place in ours and ours[place][0] < end
    ]


def _is_accepted_loss(
    connection: DuckDBPyConnection, place: LogPartition, end: int, start: int
) -> bool:
    _, topic, partition = place
    (count,) = connection.execute(
        """SELECT count(*) FROM (
            SELECT source, position, reason FROM dead_letters.rows
            UNION SELECT source, position, reason FROM dead_letters.records
        ) WHERE reason = 'lost' AND source = ? AND position = ?""",
        [topic, f"{partition}:{end}-{start - 1}"],
    ).fetchall()[0]
    return bool(count)


def unique_ids(connection: DuckDBPyConnection, pinned: PinnedTable) -> Check:
    """Check that no message_id is there twice."""
    rows, distinct = _row(
        connection,
        f"SELECT count(*), count(DISTINCT message_id) FROM {pinned.name}.rows",
    )
    differences = []
    if rows != distinct:
        example, times = _row(
            connection,
            f"SELECT message_id, count(*) FROM {pinned.name}.rows "
            "GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1",
        )
        found = f"{rows - distinct:,} rows more than ids"
        example = f"{example}, {times} times"
        differences = [Difference("message_id", "each id once", found, example)]
    return _check("unique ids", pinned, f"{rows:,} rows", differences)


def ids(connection: DuckDBPyConnection, pinned: PinnedTable) -> Check:
    """Check that each message_id is the UUIDv5 of its row."""
    (rows,) = _row(connection, f"SELECT count(*) FROM {pinned.name}.rows")
    count, example, unknown = other_ids(connection, pinned.name)
    found = f"{count:,} have another one"
    differences = [Difference("message_id", "the UUIDv5 of the row", found, example)]
    note = f"of {unknown:,} rows too little is kept to compute it" if unknown else ""
    return _check("ids", pinned, f"{rows:,} rows", differences if count else [], note=note)


def venue_ids(
    connection: DuckDBPyConnection, pinned: PinnedTable, *, until: datetime | None
) -> Check:
    """Check that the venue's ids have no hole that `gaps` does not explain.

    Args:
        until: holes before trades that were received later may yet be filled or recorded.
    """
    (counted,) = _row(connection, "SELECT count(source_sequence) FROM trades_v2.rows")
    holes = connection.execute(
        """WITH numbered AS (
            SELECT exchange, symbol, ingestion_timestamp, source_sequence AS id,
                lag(source_sequence) OVER (
                    PARTITION BY exchange, symbol ORDER BY source_sequence) AS before
            FROM (SELECT * FROM trades_v2.rows UNION ALL SELECT * FROM trades_v2.deleted)
            WHERE source_sequence IS NOT NULL
        )
        SELECT exchange, symbol, before + 1, id - 1, ingestion_timestamp > ? AS is_new
        FROM numbered WHERE id > before + 1 ORDER BY ALL""",
        [until],
    ).fetchall()
    explained = connection.execute(
        """SELECT exchange, symbol, from_id, to_id FROM (
            SELECT exchange, symbol, from_id, to_id, revision, state, gap_id FROM gaps.rows
            UNION
            SELECT exchange, symbol, from_id, to_id, revision, state, gap_id FROM gaps.records
        )
        QUALIFY revision = max(revision) OVER (PARTITION BY gap_id) AND state <> 'filled'
        ORDER BY ALL"""
    ).fetchall()
    known: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for exchange, symbol, low, high in explained:
        known.setdefault((exchange, symbol), []).append((low, high))
    unexplained = [
        (exchange, symbol, *part)
        for exchange, symbol, low, high, is_new in holes
        if not is_new
        for part in outside(low, high, known.get((exchange, symbol), []))
    ]
    differences = [
        Difference(
            f"{exchange} {symbol}",
            f"ids {low} to {high}, or a row of gaps that says why not",
            f"{high - low + 1:,} ids are missing",
            f"id {low}",
        )
        for exchange, symbol, low, high in unexplained
    ]
    new = sum(bool(is_new) for *_, is_new in holes)
    notes = [
        f"{len(holes) - new:,} holes, as gaps says" if len(holes) > new and not unexplained else "",
        f"{new:,} holes too new to be explained" if new else "",
    ]
    note = "; ".join(filter(None, notes))
    return _check("venue ids", pinned, f"{counted:,} ids", differences, note=note)


def outside(low: int, high: int, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of [low, high] that no range has; ranges are in order."""
    parts = []
    for start, end in ranges:
        if start > high:
            break
        if start > low:
            parts.append((low, start - 1))
        low = max(low, end + 1)
    return [*parts, (low, high)] if low <= high else parts


def not_checked(name: str, table: str, why: str) -> Check:
    """Return a check that could not be made."""
    return Check(name, table, not_checked=why)


def _check(
    name: str,
    pinned: PinnedTable,
    counted: str,
    differences: Sequence[Difference],
    *,
    note: str = "",
) -> Check:
    if len(differences) > NAMED:
        note = "; ".join(filter(None, [f"{len(differences):,} differences in all", note]))
    return Check(name, pinned.name, counted, tuple(differences[:NAMED]), note=note)


def _row(connection: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return tuple(connection.execute(query).fetchall()[0])

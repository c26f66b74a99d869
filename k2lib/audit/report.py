"""What an audit counted, and whether each account held."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal

State = Literal["held", "different", "not checked"]
# So many differences of a check are named; all are counted.
NAMED: Final = 10
# What becomes of the records that a table has read.
OUTCOMES: Final = ("rows", "dead_letters", "deduplicated", "deleted", "missing")


@dataclass(frozen=True)
class Difference:
    """One place where an account does not hold: a partition, an instrument, a file, a snapshot."""

    place: str
    expected: str
    found: str
    example: str | None = None

    def __str__(self) -> str:
        example = "" if self.example is None else f", for example {self.example}"
        return f"{self.place}: expected {self.expected}, found {self.found}{example}"


@dataclass(frozen=True)
class Check:
    """One account of one table.

    Attributes:
        counted: what was looked at, for example `1,200 rows`.
        differences: at most ten of them.
        not_checked: why it could not be checked.
        note: what is no difference, and good to know.
    """

    name: str
    table: str
    counted: str = ""
    differences: tuple[Difference, ...] = ()
    not_checked: str | None = None
    note: str = ""

    @property
    def state(self) -> State:
        """Whether it held."""
        if self.not_checked is not None:
            return "not checked"
        return "different" if self.differences else "held"

    @property
    def result(self) -> str:
        """What came out, in words."""
        if self.not_checked is not None:
            return self.not_checked
        return "; ".join([*map(str, self.differences), *filter(None, [self.note])])


@dataclass(frozen=True)
class PartitionAccount:
    """What became of the records of a partition: records = the five numbers that follow it.

    Attributes:
        first: the offset of the first record that Kafka still has; those before it are gone.
        end: the offset up to which the table has read.
        deleted: rows that another engine removed.
        missing: records that are nowhere; a difference.
        unread: offsets from there to the high watermark.
    """

    table: str
    topic: str
    partition: int
    first: int
    end: int
    records: int
    rows: int
    dead_letters: int
    deduplicated: int
    deleted: int
    missing: int
    unread: int


@dataclass(frozen=True)
class SymbolAccount:
    """The rows of an instrument in the named files and in the table; quotes by their bids."""

    table: str
    exchange: str
    symbol: str
    rows_in_files: int
    rows_in_table: int
    price_in_files: str
    price_in_table: str
    quantity_in_files: str
    quantity_in_table: str


PARTITION_COLUMNS: Final = tuple(one.name for one in fields(PartitionAccount))[1:]
SYMBOL_COLUMNS: Final = tuple(one.name for one in fields(SymbolAccount))


@dataclass(frozen=True)
class AuditReport:
    """An account of a home.

    Attributes:
        kafka: the Kafka whose log was read, or why none was.
        snapshots: the snapshot of each table at which it was read.
    """

    home: str
    kafka: str
    began: datetime
    seconds: float
    versions: Mapping[str, str]
    snapshots: Mapping[str, int | None]
    checks: tuple[Check, ...]
    partitions: tuple[PartitionAccount, ...] = ()
    symbols: tuple[SymbolAccount, ...] = ()

    @property
    def held(self) -> bool:
        """Whether no check found a difference; some may not have been checked."""
        return self.first_difference is None

    @property
    def first_difference(self) -> str | None:
        """The first difference in one line: check, table, place, expected, found, example."""
        for check in self.checks:
            for difference in check.differences:
                return f"{check.name}: {check.table}: {difference}"
        return None

    @property
    def summary(self) -> str:
        """The result in one line."""
        states = [check.state for check in self.checks]
        different, skipped = states.count("different"), states.count("not checked")
        more = f", {different} did not" if different else ""
        more += f", {skipped} not checked" if skipped else ""
        return f"{states.count('held')} of {len(states)} checks held{more}"

    @property
    def equations(self) -> list[str]:
        """What became of the records that each table has read, in one line each."""
        lines = []
        for table in dict.fromkeys(one.table for one in self.partitions):
            parts = [one for one in self.partitions if one.table == table]
            totals = {name: sum(vars(one)[name] for one in parts) for name in OUTCOMES}
            terms = " + ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in totals.items())
            lines.append(f"{table}: {sum(totals.values()):,} records = {terms}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        checks = [{**asdict(one), "state": one.state} for one in self.checks]
        return {
            **asdict(self),
            "began": self.began.isoformat(),
            "held": self.held,
            "summary": self.summary,
            "checks": checks,
        }

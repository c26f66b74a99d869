"""Remember which services of a home run: `<home>/run/services.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from k2lib.ops.processes import Process, alive


@dataclass(frozen=True)
class Entry:
    """A process that was started, and the port it was given."""

    port: int
    pid: int
    birth: str

    @property
    def process(self) -> Process:
        """The process, which may be gone."""
        return Process(self.pid, self.birth)

    @property
    def lives(self) -> bool:
        """Whether that very process still runs."""
        return alive(self.process)


@dataclass(frozen=True)
class Ledger:
    """Entries by service; `started` is set once all of them have answered."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    started: datetime | None = None

    def living(self, service: str) -> Entry | None:
        """Return a service's entry if its process runs."""
        entry = self.entries.get(service)
        return entry if entry is not None and entry.lives else None

    def with_entry(self, service: str, entry: Entry) -> "Ledger":
        """Return the ledger with one more start, not yet answered."""
        return Ledger({**self.entries, service: entry})

    def without_dead(self) -> "Ledger":
        """Return the ledger with the entries whose processes run."""
        return Ledger({name: entry for name, entry in self.entries.items() if entry.lives})

    def all_started(self) -> "Ledger":
        """Return the ledger with the time since when all answer."""
        return replace(self, started=self.started or datetime.now(UTC))


def read(home: Path) -> Ledger:
    """Read a home's ledger; a home without one has an empty ledger."""
    try:
        told = json.loads(_file(home).read_text())
    except FileNotFoundError:
        return Ledger()
    started = told.pop("started")
    entries = {name: Entry(**entry) for name, entry in told.items()}
    return Ledger(entries, datetime.fromisoformat(started) if started else None)


def write(home: Path, ledger: Ledger) -> None:
    """Write a home's ledger in one step; an empty one leaves no file."""
    file = _file(home)
    if not ledger.entries:
        file.unlink(missing_ok=True)
        return
    entries = {name: asdict(entry) for name, entry in ledger.entries.items()}
    started = ledger.started.isoformat() if ledger.started else None
    part = file.with_suffix(".part")
    part.write_text(json.dumps({**entries, "started": started}, indent=2))
    part.replace(file)


def _file(home: Path) -> Path:
    return home / "run" / "services.json"

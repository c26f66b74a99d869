"""Maintains every table of a home as if it were so many minutes later; nothing else may write it.

Run: python -m bench.chaos_later MINUTES: the home is that of the settings.
"""

import sys
from datetime import UTC, datetime, timedelta
from functools import partial

from k2lib import K2
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.tables import TABLES, load_table


def main(minutes: float) -> None:
    """Compact, expire and clean once now and once then, since files have a grace."""
    with K2.open() as k2:
        for later in (timedelta(), timedelta(minutes=minutes)):
            for spec in TABLES.values():
                if (table := load_table(k2.catalog, spec.name)) is not None:
                    state = k2.settings.home / "run" / f"unreferenced-{spec.name}.json"
                    moment = datetime.now(UTC) + later
                    Maintenance(spec, state=state, now=partial(_same, moment)).run_now(table)


def _same(moment: datetime) -> datetime:
    return moment


if __name__ == "__main__":
    main(float(sys.argv[1]))

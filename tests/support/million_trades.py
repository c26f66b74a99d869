"""A table of millions of trades, made of one file that is copied."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
from support.log_rows import many_trades

from k2lib import K2
from k2lib.iceberg.tables import TABLES, ensure_table


def add_million_times(k2: K2, times: int, *, folder: Path) -> None:
    """Add a file of a million trades so many times, written once."""
    rows = many_trades(1_000_000, symbols=tuple(f"S{number:02d}" for number in range(50)))
    files = [folder / f"million-{number}.parquet" for number in range(times)]
    pq.write_table(rows, files[0])
    for copy in files[1:]:
        shutil.copy(files[0], copy)
    table = ensure_table(k2.catalog, TABLES["trades_v2"])
    table.add_files([f"file://{file.resolve()}" for file in files])

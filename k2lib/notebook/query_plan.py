"""How much of a table a question touches, told before any of its data is read."""

from collections.abc import Mapping

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table

PLANNED = {"question": pl.String, "files": pl.Int64, "rows": pl.Int64, "bytes": pl.Int64}


def planned(table: Table, questions: Mapping[str, str | None]) -> pl.DataFrame:
    """Plan questions with pyiceberg, and count what each would read.

    Args:
        questions: by name, a filter as pyiceberg writes it; None asks for every row.
    Returns:
        A row a question: question, files, and the rows and bytes that those files hold.
    """
    return pl.DataFrame([_plan(table, *one) for one in questions.items()], PLANNED, orient="row")


def _plan(table: Table, question: str, row_filter: str | None) -> tuple[str, int, int, int]:
    scan = table.scan(row_filter=AlwaysTrue() if row_filter is None else row_filter)
    files = [task.file for task in scan.plan_files()]
    rows = sum(file.record_count for file in files)
    return question, len(files), rows, sum(file.file_size_in_bytes for file in files)

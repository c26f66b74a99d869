"""`k2 backup` and `k2 restore`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k2lib.cli.shared import AsJson, open_home, print_json

if TYPE_CHECKING:
    from k2lib.ops.backup import OnFile


def backup(
    path: Annotated[Path, typer.Argument(help="Folder of the backup; made where it is missing.")],
    as_json: AsJson = False,
) -> None:
    """Copy the tables to a folder, beside whoever writes; only what is new since the last time."""
    from k2lib.cli.terminal import working
    from k2lib.ops.backup import back_up

    with open_home() as k2, working("copying") as show_step:
        report = back_up(
            k2.catalog,
            path,
            home=k2.settings.home,
            on_file=_shown_by(show_step),
        )
    if as_json:
        print_json(report.to_json())
        return
    _print_rows(report.rows)
    typer.echo(
        f"{report.path}: {report.files_copied:,} files copied ({report.bytes_copied:,} bytes), "
        f"{report.files_kept:,} were there"
    )


def restore(
    path: Annotated[Path, typer.Argument(help="Folder of the backup.")],
    as_json: AsJson = False,
) -> None:
    """Make the tables of a backup in the home of the settings, which has none yet."""
    from k2lib.cli.terminal import working
    from k2lib.ops.restore import restore as restore_tables
    from k2lib.settings import read_settings

    settings = read_settings()
    with working("restoring") as show_step:
        report = restore_tables(
            path,
            settings,
            on_file=_shown_by(show_step),
        )
    if as_json:
        print_json(report.to_json())
        return
    _print_rows(report.rows)
    typer.echo(f"home {report.home}: {report.files:,} files restored ({report.bytes:,} bytes)")


def _shown_by(show_step: Callable[[str], None]) -> "OnFile":
    """Return a listener that shows how far a table is."""
    return lambda table, done, files: show_step(f"{table}: {done:,} of {files:,} files")


def _print_rows(rows: Mapping[str, int]) -> None:
    for table, count in rows.items():
        typer.echo(f"{table}: {count:,} rows")

"""`k2 backup` and `k2 restore`."""

from pathlib import Path
from typing import Annotated

import typer

from k2lib.cli.shared import AsJson, open_home, print_json


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
            on_file=lambda table, done, files: show_step(f"{table}: {done:,} of {files:,} files"),
        )
    if as_json:
        print_json(report.to_json())
        return
    for table, rows in report.rows.items():
        typer.echo(f"{table}: {rows:,} rows")
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
            on_file=lambda table, done, files: show_step(f"{table}: {done:,} of {files:,} files"),
        )
    if as_json:
        print_json(report.to_json())
        return
    for table, rows in report.rows.items():
        typer.echo(f"{table}: {rows:,} rows")
    typer.echo(f"home {report.home}: {report.files:,} files restored ({report.bytes:,} bytes)")

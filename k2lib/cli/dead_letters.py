"""Commands on dead letters: `k2 dead-letters list`, `show`, `retry`."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from k2lib.cli.shared import FAILED, AsJson, open_home, print_json

if TYPE_CHECKING:
    from k2lib.retry import RetryReport

Reason = Annotated[str | None, typer.Option(help="Of one reason, for example undecodable.")]
Source = Annotated[str | None, typer.Option(help="Of one file name, or topic.")]
SHOWN: Final = ("noticed", "reason", "source", "position", "detail", "message_id")


def list_letters(
    reason: Reason = None,
    source: Source = None,
    last: Annotated[int | None, typer.Option(min=0, help="So many of the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the dead letters, the newest first."""
    from k2lib.query.export import write

    with open_home() as k2:
        letters = k2.dead_letters(reason=reason, source=source, last=last)
        frame = letters if as_json else letters.select(SHOWN)
        write(frame, "json" if as_json else "table", output=None, stdout=sys.stdout.buffer)


def show(
    message_id: Annotated[str, typer.Argument(help="As `list` shows it.")], as_json: AsJson = False
) -> None:
    """Show one dead letter: all that is kept of it."""
    from k2lib.query.dead_letters import letter_rows
    from k2lib.query.export import json_rows

    with open_home() as k2:
        letter = k2.dead_letters(message_id)
    if as_json:
        typer.echo(json_rows(letter)[0])
        return
    (row,) = letter_rows(letter)
    headers: dict[str, bytes] = row.pop("headers") or {}
    for name, value in (*row.items(), *((f"header {name}", one) for name, one in headers.items())):
        typer.echo(f"{name:<10}  {_text(value)}")


def retry(
    message_id: Annotated[str | None, typer.Argument(help="As `list` shows it.")] = None,
    reason: Reason = None,
    source: Source = None,
    every: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Produce records again that can be decoded now; exit code 2 if one cannot."""
    if message_id is None and reason is None and source is None and not every:
        raise typer.BadParameter("name a message_id, --reason, --source, or --all")
    with open_home() as k2:
        report = k2.retry_dead_letters(message_id, reason=reason, source=source)
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)
    if report.failed:
        raise typer.Exit(FAILED)


def _print_report(report: "RetryReport") -> None:
    for one in report.letters:
        why = "" if one.reason is None else f": {one.reason}"
        typer.echo(f"{one.message_id}  {one.source} {one.position}  {one.outcome}{why}")
    if not report.letters:
        typer.echo("no dead letters")


def _text(value: Any) -> str:
    """Bytes as text where they are one line that can be shown, else as hex."""
    if not isinstance(value, bytes):
        return "" if value is None else str(value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return text if text.isprintable() else f"0x{value.hex()}"

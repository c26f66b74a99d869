"""`k2 top`: a home on a full screen, and the same view for `k2 watch`."""

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated, Final

import typer

from k2lib.cli.shared import AsJson, Seconds, open_home, print_json

REFRESH_S: Final = 1.0
ENDS: Final = frozenset("qQ\x04")
Key = Callable[[float], str | None]


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one screen and end.")] = False,
    seconds: Seconds = None,
    as_json: AsJson = False,
) -> None:
    """Show on a full screen what runs in this home, until q or Ctrl-C."""
    from k2lib.cli.terminal import out

    if as_json or once or not out().is_terminal:
        _print_once(as_json=as_json)
    else:
        show_top(seconds=seconds)


def _print_once(*, as_json: bool) -> None:
    from k2lib.cli.terminal import out
    from k2lib.cli.top_state import TopReader
    from k2lib.cli.top_view import TopView

    with open_home() as k2:
        state = TopReader(k2).read()
    print_json(state.to_json()) if as_json else out().print(TopView(state))


def show_top(
    *,
    seconds: float | None = None,
    only_feed: bool = False,
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """Show the home of the settings on the alternate screen, and restore the terminal.

    Args:
        only_feed: leave out sinks, tables and services.
        goes_on: asked before each screen; False ends it.
    """
    from rich.live import Live

    from k2lib.cli.terminal import out
    from k2lib.cli.top_state import TopReader
    from k2lib.cli.top_view import TopView

    end_s = float("inf") if seconds is None else time.monotonic() + seconds
    with ExitStack() as parts:
        k2 = parts.enter_context(open_home())
        reader = TopReader(k2)
        console = out()

        def view() -> TopView:
            return TopView(reader.read(), height=console.height, only_feed=only_feed)

        first = view()
        parts.enter_context(suppress(KeyboardInterrupt))
        key = parts.enter_context(_keys())
        screen = Live(first, console=console, screen=True, auto_refresh=False)
        live = parts.enter_context(screen)
        while (left_s := end_s - time.monotonic()) > 0 and goes_on():
            if key(min(REFRESH_S, left_s)) in ENDS:
                return
            live.update(view(), refresh=True)


@contextmanager
def _keys() -> Iterator[Key]:
    """Yield a function that waits for a key; keys are not echoed meanwhile."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield _read_key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _read_key(wait_s: float) -> str | None:
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return sys.stdin.read(1) or "\x04" if ready else None


def _no_key(wait_s: float) -> None:
    time.sleep(wait_s)

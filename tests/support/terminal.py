"""A command in a real terminal of any size: what its screen shows, and a picture of it."""

import fcntl
import html
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyte
from playwright.sync_api import sync_playwright
from support.paths import CHROMIUM, CHROMIUM_ARGUMENTS
from support.waiting import wait_until

BACKGROUND = "#0d1117"
FOREGROUND = "#c9d1d9"
COLORS = {
    "default": FOREGROUND,
    "green": "#3fb950",
    "red": "#ff7b72",
    "brown": "#d29922",
    "cyan": "#39c5cf",
}
LEAVES_SCREEN = b"\x1b[?1049l"


class Terminal:
    """Runs `k2` in a pseudo-terminal and keeps its screen; a context manager."""

    def __init__(
        self, arguments: Sequence[str], *, columns: int, lines: int, env: Mapping[str, str]
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.written = bytearray()
        self.number, self.child_number = pty.openpty()
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.child_number, termios.TIOCSWINSZ, size)
        self.modes = termios.tcgetattr(self.child_number)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "k2lib", *arguments],
            env=kept | {"TERM": "xterm-256color"} | dict(env),
            stdin=self.child_number,
            stdout=self.child_number,
            stderr=self.child_number,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        # The reader ends when nobody holds the terminal's other end.
        os.close(self.child_number)
        self._thread.join(10)
        os.close(self.number)

    def _read(self) -> None:
        # Linux reports the end of a terminal as an error.
        with suppress(OSError):
            while chunk := os.read(self.number, 65536):
                with self._lock:
                    self.written += chunk
                    self._stream.feed(chunk)

    def rows(self) -> list[str]:
        """Return the lines of the screen, without blanks at their ends."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        """Return the screen."""
        return "\n".join(self.rows())

    def press(self, key: str) -> None:
        """Type a key."""
        os.write(self.number, key.encode())

    def wait_until_ended(self) -> int:
        """Wait until the command ends; return its exit code."""
        wait_until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def is_restored(self) -> bool:
        """Tell whether the terminal left the alternate screen and has the modes of the start."""
        return LEAVES_SCREEN in self.written and termios.tcgetattr(self.child_number) == self.modes

    def save_picture(self, path: Path) -> None:
        """Draw the screen by Chromium."""
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS)
            )
            page = browser.new_page()
            page.set_content(self._page())
            page.locator("pre").screenshot(path=path)
            browser.close()

    def _page(self) -> str:
        with self._lock:
            lines = [
                "".join(
                    _cell(self._screen.buffer[y][x]) for x in range(self._screen.columns)
                ).rstrip()
                for y in range(self._screen.lines)
            ]
        style = (
            f"pre{{display:inline-block;margin:0;padding:10px;background:{BACKGROUND};"
            f"color:{FOREGROUND};font:12px/16px 'DejaVu Sans Mono',monospace;"
            f"width:{self._screen.columns}ch}}"
        )
        text = "\n".join(lines)
        return f"<style>{style}</style><pre>{text}</pre>"


def _take_terminal() -> None:
    """Let Ctrl-C on the terminal reach the command, also where the tests run in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _cell(cell: pyte.screens.Char) -> str:
    text = html.escape(cell.data)
    if cell.fg == "default" and not cell.bold:
        return text
    weight = "font-weight:bold;" if cell.bold else ""
    return f'<span style="{weight}color:{COLORS.get(cell.fg, FOREGROUND)}">{text}</span>'

"""The live notebook in a real JupyterLab in Chromium: it moves, it obeys, it is light.

`python tests/notebook/test_lab.py` writes the picture of the documentation, docs/live-widget.png.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import (
    ConsoleMessage,
    Locator,
    Page,
    TimeoutError,
    WebSocket,
    sync_playwright,
)
from support.paths import CHROMIUM, CHROMIUM_ARGUMENTS, ROOT
from support.waiting import wait_until

from k2lib.notebook.runner import notebooks_folder

SHOT = ROOT / "build" / "live-widget.png"
MOST_BYTES_PER_S = 200_000
MEASURED_MS = 6_000
# After so long the lines of the view fill most of its window.
FULL_MS = 45_000
PARAMETERS = {"offline": True, "seconds": 600}


@dataclass
class Seen:
    """What a page said and what its web sockets brought."""

    errors: list[str] = field(default_factory=list)
    n_bytes: int = 0
    has_kernel: bool = False

    def said(self, message: ConsoleMessage) -> None:
        """Keep an error."""
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def opened(self, web_socket: WebSocket) -> None:
        """Count what a socket brings."""
        web_socket.on("framereceived", self.received)

    def received(self, payload: str | bytes) -> None:
        """Count one frame; one of them is the kernel's first word."""
        frame = payload.encode() if isinstance(payload, str) else payload
        self.n_bytes += len(frame)
        self.has_kernel |= b"kernel_info_reply" in frame


@dataclass
class Lab:
    """A page on which the notebook has been run down to its live view."""

    page: Page
    seen: Seen

    def button(self, name: str) -> Locator:
        """Return a button of the view."""
        return self.page.locator(".jp-OutputArea button.widget-button", has_text=name)

    def shoot(self, path: Path) -> None:
        """Write a picture of the view."""
        view = self.page.locator(".widget-vbox", has=self.page.locator(".k2-lamp")).first
        view.scroll_into_view_if_needed()
        self.page.wait_for_timeout(1_000)
        view.screenshot(path=path)

    def state(self) -> str:
        """Return what the lamp says."""
        return self.page.locator(".k2-state").first.inner_text()

    def newest(self) -> str:
        """Return the newest line of the tape."""
        return self.page.locator(".k2-tape tr").first.inner_text()

    def stands_still(self) -> bool:
        """Say whether no trade came within a second, in which some 100 would."""
        newest = self.newest()
        self.page.wait_for_timeout(1_000)
        return self.newest() == newest

    def drawn(self) -> str:
        """Return the path of the first price line."""
        return (
            self.page.locator(".js-plotly-plot .scatterlayer .js-line").first.get_attribute("d")
            or ""
        )

    def wait_for(self, state: str) -> None:
        """Wait until the lamp says so."""
        self.page.wait_for_function(
            "state => document.querySelector('.k2-state')?.innerText.startsWith(state)", arg=state
        )


def _copied(folder: Path) -> Path:
    """Copy the notebook, with other parameters and no outputs."""
    notebook = nbformat.read(notebooks_folder() / "03_binance_live.ipynb", as_version=4)
    changed = {**PARAMETERS, "home": str(folder / "home")}
    cell = next(one for one in notebook.cells if "parameters" in one.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in changed.items())
    for one in notebook.cells:
        if one.cell_type == "code":
            one.outputs = []
    copy = folder / "notebooks" / "live.ipynb"
    copy.parent.mkdir()
    nbformat.write(notebook, copy)
    return copy


def _ask_for_no_news(settings: Path) -> None:
    path = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    path.parent.mkdir(parents=True)
    path.write_text('{"checkForUpdates": false, "doNotDisturbMode": true, "fetchNews": "false"}')


def _leave_out_jupysql(config: Path) -> None:
    """Its button's extension stumbles over its own settings at each start of the lab."""
    path = config / "labconfig" / "page_config.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"disabledExtensions": {"jupysql-plugin": true}}')


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url) as reply:
        return bool(reply.status == 200)
    return False


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Run a JupyterLab of its own on the folder's notebooks; yield the copy's address."""
    token, port = secrets.token_hex(16), _free_port()
    _ask_for_no_news(folder / "lab-SETTINGS")
    _leave_out_jupysql(folder / "config")
    names = ("CONFIG", "DATA", "RUNTIME")
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in names}
    own |= {
        f"JUPYTERLAB_{name}_DIR": str(folder / f"lab-{name}") for name in ("SETTINGS", "WORKSPACES")
    }
    own |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", f"--IdentityProvider.token={token}", "--allow-root"]
    command += [f"--ServerApp.root_dir={folder / 'notebooks'}", "--ServerApp.port_retries=0"]
    command += [
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/api?token={token}"))
            yield f"http://127.0.0.1:{port}/lab/tree/live.ipynb?token={token}&reset"
        finally:
            server.terminate()
            server.wait()


def _has_kernel(page: Page, seen: Seen) -> bool:
    """Say whether the kernel has answered; what comes is seen while the page is waited for."""
    page.wait_for_timeout(100)
    return seen.has_kernel


def _runs(page: Page) -> bool:
    """Ask for all cells to run; before the kernel is there the lab does nothing, without a word."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    with contextlib.suppress(TimeoutError):
        page.locator(".jp-InputPrompt", has_text="[*]").first.wait_for(timeout=30_000)
        return True
    return False


@contextlib.contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    """Open the notebook in a lab, run it, and wait until its view shows a live feed."""
    _copied(folder)
    seen = Seen()
    with _server(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 1200})
        page.set_default_timeout(240_000)
        page.on("console", seen.said)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("websocket", seen.opened)
        page.goto(address)
        wait_until(lambda: _has_kernel(page, seen), seconds=120)
        page.keyboard.press("Control+b")
        wait_until(lambda: _runs(page), seconds=120)
        lab = Lab(page, seen)
        lab.wait_for("live")
        yield lab
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return the notebook as it runs in a lab."""
    with open_lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.mark.slow
def test_frames_arrive(lab: Lab) -> None:
    lab.page.locator(".k2-tape tr").first.wait_for()
    for _ in range(3):
        drawn, newest = lab.drawn(), lab.newest()
        wait_until(lambda: lab.drawn() != drawn and lab.newest() != newest)  # noqa: B023
    lab.shoot(SHOT)


@pytest.mark.slow
def test_the_view_is_light(lab: Lab) -> None:
    lab.page.wait_for_timeout(1_000)
    before = lab.seen.n_bytes
    lab.page.wait_for_timeout(MEASURED_MS)
    per_s = (lab.seen.n_bytes - before) / MEASURED_MS * 1000
    assert 1_000 < per_s < MOST_BYTES_PER_S, f"{per_s:,.0f} bytes/s"


@pytest.mark.slow
def test_stop_leaves_the_venue_and_start_comes_back(lab: Lab) -> None:
    lab.button("stop").click()
    lab.wait_for("stopped")
    wait_until(lab.stands_still)
    newest = lab.newest()
    lab.button("start").click()
    lab.wait_for("live")
    wait_until(lambda: lab.newest() != newest)


@pytest.mark.slow
def test_go_on_leaves_a_picture_and_the_notebook_runs_to_its_end(lab: Lab) -> None:
    lab.button("go on").click()
    lab.page.locator(".jp-Notebook .k2-lamp").wait_for(state="detached")
    last = lab.page.locator(".jp-CodeCell .jp-InputPrompt").last
    last.scroll_into_view_if_needed()
    wait_until(lambda: last.inner_text().strip("[]: ").isdigit())
    assert lab.page.locator(".jp-OutputArea .js-plotly-plot").count() == 2
    assert not lab.page.locator("[data-mime-type='application/vnd.jupyter.error']").count()


@pytest.mark.slow
def test_the_browser_has_nothing_to_complain_of(lab: Lab) -> None:
    assert not lab.seen.errors


def main() -> None:
    """Write the picture of the documentation."""
    with tempfile.TemporaryDirectory() as folder, open_lab(Path(folder)) as opened:
        opened.page.wait_for_timeout(FULL_MS)
        opened.shoot(ROOT / "docs" / "live-widget.png")


if __name__ == "__main__":
    main()

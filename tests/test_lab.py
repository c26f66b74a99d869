"""The live notebook in a real JupyterLab in Chromium: it moves, it obeys, it is light.

`python tests/test_lab.py` writes the picture of the documentation, docs/live-widget.png.
"""

import contextlib
import os
import re
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
from playwright.sync_api import ConsoleMessage, Locator, Page, WebSocket, sync_playwright
from waiting import wait_until

from k2lib.serve.notebooks.runs import notebooks_folder

ROOT = Path(__file__).resolve().parents[1]
SHOT = ROOT / "build" / "live-widget.png"
CHROMIUM = "/usr/bin/chromium"
MOST_BYTES_PER_S = 200_000
MEASURED_MS = 6_000
PARAMETERS = {"offline": True, "seconds": 600}
# Said by JupyterLab itself, on any page and without any notebook: there is no network to ask for
# news and extensions, and optional files of a server's configuration are not there.
OF_THE_LAB = re.compile(
    r"api/(news|workspaces|contents/.*checkpoints)|/lab/api/(news|translations|listings)|"
    r"jupyterlab\.github\.io|pypi\.org|favicon|"
    r"Failed to load resource: net::ERR_(INTERNET_DISCONNECTED|NAME_NOT_RESOLVED)"
)


@dataclass
class Seen:
    """What a page said and what its web sockets brought."""

    errors: list[str] = field(default_factory=list)
    n_bytes: int = 0

    def said(self, message: ConsoleMessage) -> None:
        """Keep an error that is not the lab's own."""
        told = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not OF_THE_LAB.search(told):
            self.errors.append(told)

    def opened(self, web_socket: WebSocket) -> None:
        """Count what a socket brings."""
        web_socket.on("framereceived", self.received)

    def received(self, payload: str | bytes) -> None:
        """Count one frame."""
        self.n_bytes += len(payload.encode() if isinstance(payload, str) else payload)


@dataclass
class Lab:
    """A page on which the notebook has been run down to its live view."""

    page: Page
    seen: Seen

    def button(self, name: str) -> Locator:
        """Return a button of the view."""
        return self.page.locator(".jp-OutputArea button.widget-button", has_text=name)

    def state(self) -> str:
        """Return what the lamp says."""
        return self.page.locator(".k2-state").first.inner_text()

    def newest(self) -> str:
        """Return the newest line of the tape."""
        return self.page.locator(".k2-tape tr").first.inner_text()

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
        one.pop("outputs", None) if one.cell_type != "code" else one.update(outputs=[])
    copy = folder / "notebooks" / "live.ipynb"
    copy.parent.mkdir()
    nbformat.write(notebook, copy)
    return copy


def _ask_for_no_news(settings: Path) -> None:
    path = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    path.parent.mkdir(parents=True)
    path.write_text('{"checkForUpdates": false, "doNotDisturbMode": true, "fetchNews": "false"}')


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


@contextlib.contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    """Open the notebook in a lab, run it, and wait until its view shows a live feed."""
    _copied(folder)
    seen = Seen()
    with _server(folder) as address, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(90_000)
        page.on("console", seen.said)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("websocket", seen.opened)
        # Cells run before the kernel has answered would be dropped without a word.
        with page.expect_websocket(lambda one: "/channels" in one.url) as kernel:
            page.goto(address)
        kernel.value.wait_for_event("framereceived", lambda frame: b"kernel_info_reply" in frame)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        page.keyboard.press("Control+b")
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        lab = Lab(page, seen)
        lab.wait_for("live")
        yield lab
        browser.close()


def shoot(lab: Lab, path: Path) -> None:
    """Write a picture of the view once its lines fill most of a window."""
    lab.page.wait_for_timeout(30_000)
    view = lab.page.locator(".jp-OutputArea-output", has=lab.page.locator(".k2-lamp")).first
    view.screenshot(path=path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return the notebook as it runs in a lab."""
    with open_lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.mark.slow
def test_frames_arrive(lab: Lab) -> None:
    lab.page.locator(".k2-tape tr").first.wait_for()
    drawn, newest = lab.drawn(), lab.newest()
    lab.page.wait_for_timeout(2_000)
    assert lab.drawn() != drawn and lab.newest() != newest
    lab.page.screenshot(path=SHOT)


@pytest.mark.slow
def test_the_view_is_light(lab: Lab) -> None:
    lab.page.wait_for_timeout(1_000)
    before = lab.seen.n_bytes
    lab.page.wait_for_timeout(MEASURED_MS)
    per_s = (lab.seen.n_bytes - before) / MEASURED_MS * 1000
    assert 1_000 < per_s < MOST_BYTES_PER_S


@pytest.mark.slow
def test_stop_leaves_the_venue_and_start_comes_back(lab: Lab) -> None:
    lab.button("stop").click()
    lab.wait_for("stopped")
    newest = lab.newest()
    lab.page.wait_for_timeout(1_000)
    assert lab.newest() == newest
    lab.button("start").click()
    lab.wait_for("live")
    assert lab.newest() != newest


@pytest.mark.slow
def test_go_on_leaves_a_picture_and_the_notebook_ends_well(lab: Lab) -> None:
    lab.button("go on").click()
    lab.page.locator(".jp-Notebook .k2-lamp").wait_for(state="detached")
    assert lab.page.locator(".jp-OutputArea .js-plotly-plot").count() >= 1


@pytest.mark.slow
def test_the_browser_has_nothing_to_complain_of(lab: Lab) -> None:
    assert not lab.seen.errors


def main() -> None:
    """Write the picture of the documentation."""
    with tempfile.TemporaryDirectory() as folder, open_lab(Path(folder)) as opened:
        shoot(opened, ROOT / "docs" / "live-widget.png")


if __name__ == "__main__":
    main()

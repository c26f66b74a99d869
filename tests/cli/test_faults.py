"""Every command on every broken part: one line that names it, the right code, soon, no secret."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from support.broken_parts import BROKEN_PARTS, SECRET, BrokenPart
from support.paths import SUPPORT
from support.ports import refusing_port

from k2lib import K2
from k2lib.cli import app, main
from k2lib.settings import Settings
from k2lib.simulator import write_archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LIMIT_S: Final = 15.0
OF_THE_RUN: Final = re.compile(r"K2: |\d\d:\d\d:\d\d ")
# Of processor time, of which they take some 120 s: how long the cells wait for a busy machine is no
# fact of theirs, and a busy one counts more of it for the same work.
ALL_LIMIT_S: Final = 300.0
REFERENCE: Final = (
    "company_id,symbol,company_name,ISIN,start_date,end_date\n"
    "9009,XYZ,XYZ MINING LTD,AU000000XYZ9,05/07/2008,03/31/2014\n"
)
LINES: Final = "03/10/2014,10:00:06.717,1.11,3667,0,,\n03/10/2014,10:00:07.717,1.12,10,0,,\n"


@dataclass(frozen=True)
class Command:
    """How the tests call a command.

    Attributes:
        arguments: `{folder}` is where its files are.
        variables: settings that it needs.
        ends_at: what ends one that runs until Ctrl-C, given its port.
        always_fails: whether it ends in one line here even if nothing is broken.
        apart: what it reads and writes is not of the home: another test breaks that.
    """

    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    ends_at: Callable[[int, threading.Event], object] | None = None
    always_fails: bool = False
    apart: bool = False


def _served(port: int, ended: threading.Event) -> None:
    """Wait until a server answers, whatever it says, or has ended."""
    while not ended.wait(0.02):
        http = HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError, HTTPException), closing(http):
            http.request("GET", "/ready")
            http.getresponse().read()
            return


COMMANDS: Final = {
    "load asx": Command(("load", "asx", "{folder}/trades")),
    "load binance-archive": Command(
        ("load", "binance-archive", "--exchange", "BINANCE_SIM", "{folder}/zips")
    ),
    "stream binance": Command(("stream", "binance", "--offline", "--seconds", "0.2")),
    "watch": Command(("watch", "--json"), always_fails=True),
    "sql": Command(("sql", "select sum(quantity) from trades_v2")),
    "api": Command(("api", "--port", "{port}", "--quiet"), ends_at=_served),
    "sink": Command(
        ("sink", "trades_v2"), {"K2_SCHEMA_REGISTRY_URL": "mock://x"}, always_fails=True
    ),
    # Without Java it has no more to do than to say so.
    "up": Command(("up",), {"PATH": ""}, always_fails=True),
    "status": Command(("status",)),
    # It has a line on its screen for what it cannot read: tests/cli/test_top.py.
    "top": Command(("top", "--once"), apart=True),
    "logs": Command(("logs", "kafka"), always_fails=True),
    "down": Command(("down",)),
    "audit": Command(("audit", "{folder}/trades")),
    "maintain": Command(("maintain",)),
    "backup": Command(("backup", "{folder}/backup")),
    "restore": Command(("restore", "{folder}/none"), apart=True),
    "dead-letters list": Command(("dead-letters", "list")),
    "dead-letters show": Command(("dead-letters", "show", "none"), always_fails=True),
    "dead-letters retry": Command(("dead-letters", "retry", "--all")),
    "reset": Command(("reset", "--yes")),
    "notebooks": Command(("notebooks",), apart=True),
    "demo": Command(("demo",), apart=True),
    "simulate asx": Command(("simulate", "asx"), apart=True),
    "simulate binance": Command(("simulate", "binance"), apart=True),
}
CELLS: Final = [
    pytest.param(name, part, id=f"{name}: {part.name}")
    for part in BROKEN_PARTS
    for name, command in COMMANDS.items()
    if not command.apart and (name in part.stops or (part.spares and not command.always_fails))
]
TOOK_S: Final[dict[str, float]] = {}
CPU_S: Final[dict[str, float]] = {}


def _names(command: Any, *path: str) -> Iterator[str]:
    """Name a command, or the commands of a group."""
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, one in command.commands.items():
        yield from _names(one, *path, name)


def test_every_command_is_in_the_matrix() -> None:
    assert set(_names(typer.main.get_command(app))) == COMMANDS.keys()
    in_cells = {name for cell in CELLS for name in cell.values[:1]}
    assert in_cells == {name for name, command in COMMANDS.items() if not command.apart}


def test_every_part_stops_commands_that_there_are() -> None:
    assert {name for part in BROKEN_PARTS for name in part.stops} <= COMMANDS.keys()


@pytest.fixture(autouse=True)
def _timed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Note how long a test takes, with the home that it begins with."""
    began, cpu_began = time.monotonic(), _cpu_s()
    yield
    TOOK_S[request.node.name] = time.monotonic() - began
    CPU_S[request.node.name] = _cpu_s() - cpu_began


def _cpu_s() -> float:
    """Return the seconds of processor time of this process and the children that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder that any user can enter, with files to load."""
    folder = Path(tempfile.mkdtemp(prefix="k2-faults-"))
    folder.chmod(0o755)
    for name, text in {
        "trades/9009.csv": LINES,
        "reference-data/company_info.csv": REFERENCE,
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    write_archive(folder / "zips", "BTCUSDT", date(2025, 1, 31), limit=5)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Return a copy of a home that has trades of each command."""
    home = folder / "home"
    with K2.open(home=home, commit_interval_s=0.2) as k2:
        k2.load_asx(folder / "trades")
        k2.load_binance_archive(folder / "zips", exchange="BINANCE_SIM")
    return home.rename(folder / "whole")


@pytest.fixture
def home(folder: Path, whole: Path) -> Path:
    """Return a home with data, at the place where they were written."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    return Path(shutil.copytree(whole, home))


@contextmanager
def _ended_by(wait: Callable[[int, threading.Event], object] | None, port: int) -> Iterator[None]:
    """Press Ctrl-C once the wait is over, unless the command has ended before."""
    ended = threading.Event()

    def press() -> None:
        if wait is not None:
            wait(port, ended)
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The lines on standard error, but those that say what was opened and how it goes."""
        lines = [line.strip() for line in self.err.splitlines()]
        return [line for line in lines if line and not OF_THE_RUN.match(line)]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> Callable[..., Outcome]:
    """Return the command line, run in this process."""

    def run(command: Command, home: Path, variables: Mapping[str, str]) -> Outcome:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = [one.format(folder=folder, port=port) for one in command.arguments]
        with monkeypatch.context() as patch:
            for name in Settings.model_fields:
                patch.delenv(f"K2_{name.upper()}", raising=False)
            ours = {"K2_HOME": str(home), "K2_COMMIT_INTERVAL_S": "0.1", "K2_TIMEOUT_S": "1"}
            for name, value in (ours | dict(command.variables) | dict(variables)).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["k2", *arguments])
            began = time.monotonic()
            with _ended_by(command.ends_at, port), pytest.raises(SystemExit) as ended:
                main()
            seconds = time.monotonic() - began
        out, err = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), out, err, seconds)

    return run


@pytest.mark.parametrize(("name", "part"), CELLS)
def test_a_command_on_a_broken_part(
    name: str, part: BrokenPart, home: Path, run: Callable[..., Outcome]
) -> None:
    command = COMMANDS[name]
    with part.breaks(home) as variables:
        outcome = run(command, home, variables)
    text = outcome.out + outcome.err
    assert "Traceback" not in text, text
    assert SECRET not in text, text
    assert outcome.seconds < LIMIT_S
    if name in part.stops:
        assert outcome.code in (1, 2), text
        assert 1 <= len(outcome.lines) <= 2, text
        says = [one.format(home=home, **variables) for one in part.says]
        assert [one for one in says if one not in outcome.lines[-1]] == [], outcome.lines[-1]
        assert outcome.lines[-1].startswith("k2: ")
    else:
        assert outcome.code == 0, text


@pytest.mark.parametrize("name", ["services that were killed", "a Kafka at which nobody listens"])
def test_an_answer_without_what_kafka_has_says_so(
    name: str, home: Path, run: Callable[..., Outcome]
) -> None:
    part = next(one for one in BROKEN_PARTS if one.name == name)
    with part.breaks(home) as variables:
        outcome = run(COMMANDS["sql"], home, variables)
    assert outcome.code == 0
    assert "without what Kafka has: " in outcome.lines[-1]
    assert "127.0.0.1:" in outcome.lines[-1] and "does not answer" in outcome.lines[-1]


def _child(
    home: Path,
    variables: Mapping[str, str],
    *program: str,
    preexec_fn: Callable[[], object] | None = None,
) -> Outcome:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    ours = {"K2_HOME": str(home), "K2_COMMIT_INTERVAL_S": "0.1", "K2_TIMEOUT_S": "1"}
    began = time.monotonic()
    done = subprocess.run(
        program,
        env=kept | ours | dict(variables),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=preexec_fn,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def _load_asx(*paths: Path | str) -> Sequence[str]:
    return sys.executable, "-m", "k2lib", "load", "asx", *map(str, paths)


def _check_line(outcome: Outcome, *says: str) -> None:
    text = outcome.out + outcome.err
    assert "Traceback" not in text, text
    assert SECRET not in text, text
    assert outcome.code in (1, 2), text
    assert 1 <= len(outcome.lines) <= 2, text
    assert [one for one in says if one not in outcome.lines[-1]] == [], outcome.lines[-1]


# Root may write everywhere, unless it gives that up.
GIVEN_UP: Final = "-dac_override,-dac_read_search"
AS_A_USER: Final = (
    (str(shutil.which("setpriv")), f"--inh-caps={GIVEN_UP}", f"--bounding-set={GIVEN_UP}")
    if os.geteuid() == 0
    else ()
)


WRITE_IT: Final = ("load asx", "load binance-archive", "stream binance", "maintain", "reset")
READ_IT: Final = ("sql", "status", "audit", "dead-letters list", "dead-letters retry")


@pytest.fixture(scope="module")
def on_read_only_home(folder: Path, whole: Path) -> Mapping[str, Outcome]:
    """Run commands on a home that their user may read and not write, all in one process."""
    home = Path(shutil.copytree(whole, folder / "home", dirs_exist_ok=True))
    paths = (home, *home.rglob("*"))
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    names = [*WRITE_IT, *READ_IT]
    calls = [[one.format(folder=folder) for one in COMMANDS[name].arguments] for name in names]
    program = (*AS_A_USER, sys.executable, str(SUPPORT / "run_commands.py"), json.dumps(calls))
    done = _child(home, {}, *program)
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    outcomes = [Outcome(**json.loads(line)) for line in done.out.splitlines()]
    return dict(zip(names, outcomes, strict=True))


@pytest.mark.parametrize("name", WRITE_IT)
def test_a_home_that_is_read_only_is_not_written(
    name: str, on_read_only_home: Mapping[str, Outcome], folder: Path
) -> None:
    _check_line(on_read_only_home[name], f"{folder}/home", "Permission denied", "let this user")


@pytest.mark.parametrize("name", READ_IT)
def test_a_home_that_is_read_only_can_be_read(
    name: str, on_read_only_home: Mapping[str, Outcome]
) -> None:
    outcome = on_read_only_home[name]
    assert outcome.code == 0, outcome.out + outcome.err


LARGEST: Final = 40_000


def _no_large_files() -> None:
    """Let no file grow beyond a size: as on a full disk, a write ends in the middle."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))


def test_a_disk_that_is_full(home: Path, folder: Path, tmp_path: Path) -> None:
    lines = [f"03/10/2014,10:00:06.717,{n * 7919 % 9973 + 1}.17,{n},0,,\n" for n in range(5_000)]
    (tmp_path / "9009.csv").write_text("".join(lines))
    reference = folder / "reference-data"
    program = _load_asx("--reference", reference, tmp_path / "9009.csv")
    outcome = _child(home, {}, *program, preexec_fn=_no_large_files)
    _check_line(outcome, "table trades_v2 at file://", "cannot be written: ", "File too large")


def test_an_s3_that_cannot_be_reached(tmp_path: Path, folder: Path) -> None:
    with refusing_port() as port:
        variables = {
            "K2_WAREHOUSE": "s3://bucket/lake",
            "K2_S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "K2_S3_ACCESS_KEY_ID": "key",
            "K2_S3_SECRET_ACCESS_KEY": SECRET,
            "K2_S3_REGION": "us-east-1",
        }
        outcome = _child(tmp_path / "home", variables, *_load_asx(folder / "trades"))
    address = f"http://127.0.0.1:{port}"
    _check_line(outcome, "the warehouse s3://bucket/lake at", address, "start it")


LONG: Final = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "asx", LONG),
        ("load", "asx", "--reference", LONG, "{folder}/trades"),
        ("load", "binance-archive", LONG),
        ("sql", "select 1", "--output", LONG),
        ("sink", LONG),
        ("simulate", "asx", LONG),
        ("simulate", "binance", "--script", LONG),
        ("audit", LONG),
        ("audit", "--html", LONG),
        ("notebooks", LONG),
        ("notebooks", "01", "--output", LONG),
        ("demo", "--build", LONG),
    ],
)
def test_a_name_of_300_characters(
    arguments: tuple[str, ...], home: Path, run: Callable[..., Outcome]
) -> None:
    outcome = run(Command(arguments), home, {})
    text = outcome.out + outcome.err
    assert "Traceback" not in text, text
    assert outcome.code in (1, 2), text
    assert LONG in outcome.lines[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "asx", "{folder}/file/x"),
        ("notebooks", "01", "--output", "{folder}/file/x"),
        ("demo", "--build", "{folder}/file/x"),
    ],
)
def test_a_folder_that_cannot_be_made(
    arguments: tuple[str, ...], home: Path, folder: Path, run: Callable[..., Outcome]
) -> None:
    (folder / "file").write_text("")
    _check_line(run(Command(arguments), home, {}), f"{folder}/file", "name another place")


def test_the_whole_matrix_is_quick() -> None:
    all_s, cpu_s = sum(TOOK_S.values()), sum(CPU_S.values())
    slowest, slowest_s = max(TOOK_S.items(), key=lambda cell: cell[1], default=("none", 0.0))
    print(
        f"\n{len(TOOK_S)} cells in {all_s:.1f} s, {cpu_s:.1f} s of it on a processor; "
        f"the slowest: {slowest} ({slowest_s:.1f} s)"
    )
    assert cpu_s < ALL_LIMIT_S

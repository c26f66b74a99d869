"""The commands on live trades, run as a user runs them: reports, exit codes, what is said."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from support.live import streams
from support.ports import refusing_port, silent_port
from support.redis_server import RedisServer
from support.waiting import wait_until

from k2lib.cli.simulate import read_script
from k2lib.errors import ConfigError
from k2lib.feed.check import check_venue
from k2lib.feed.status_file import read_status, status_path
from k2lib.ops.offline_rate import rate_of_home
from k2lib.simulator import OfflineExchange, write_archive
from k2lib.venues.binance.venue import binance

# Most tests here stream, several in a process of their own.
pytestmark = pytest.mark.slow
Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]
STREAM = ("stream", "binance")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def exchange() -> Iterator[OfflineExchange]:
    """Run an exchange beside the command, as a real venue is."""
    with OfflineExchange() as opened:
        yield opened


def settings_of(exchange: OfflineExchange) -> dict[str, str]:
    """Return the settings that make an exchange the venue."""
    ws, rest = ",".join(exchange.ws_urls), ",".join(exchange.rest_urls)
    return {"K2_BINANCE_WS_URLS": ws, "K2_BINANCE_REST_URLS": rest}


@contextmanager
def child(home: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process of its own; what is left of it is killed at the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    with subprocess.Popen(
        [sys.executable, "-m", "k2lib", *arguments],
        env=kept | {"K2_HOME": str(home), "K2_COMMIT_INTERVAL_S": "0.2"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes its children deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def closes_gaps(home: Path) -> bool:
    """Tell whether the feed of a home has told of a closed gap of each symbol."""
    told = read_status(status_path(home))
    return told is not None and all(one.gaps_closed for one in told.status.symbols)


def streamed(home: Path, *arguments: str, until: Callable[[], object]) -> Outcome:
    """Stream offline until a fact holds."""
    with child(home, *STREAM, "--offline", *arguments) as process:
        wait_until(until)
        process.terminate()
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def only_error(err: str) -> str:
    """Return the one line that says what is wrong."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("k2: ")]
    return line


def said(err: str) -> list[str]:
    """Return the lines that are neither about the home nor the error."""
    lines = (line for line in err.splitlines() if not line.startswith(("k2: ", "K2: ")))
    return [line for line in lines if line.strip()]


def assert_contiguous(report: dict[str, Any]) -> None:
    """Fail unless every id from the first to the last is in the lake once."""
    assert report["symbols"]
    for one in report["symbols"]:
        lake = one["lake"]
        assert lake["rows"] == lake["last_id"] - lake["first_id"] + 1 >= one["trades"] > 0
        assert (lake["twice"], lake["missing"], lake["unexplained"]) == (0, 0, 0)


def test_an_offline_stream_ends_with_contiguous_ids_in_the_lake(tmp_path: Path) -> None:
    code, out, err = streamed(tmp_path, "--json", until=lambda: streams(tmp_path, 50))
    report = json.loads(out)
    assert (code, report["exchange"], report["state"]) == (0, "BINANCE_SIM", "stopped")
    assert_contiguous(report)
    assert "feed of BTCUSDT, ETHUSDT from BINANCE_SIM: streams ws://127.0.0.1:" in err


def test_the_report_for_people_has_a_row_a_symbol_for_the_run_and_for_the_lake(
    tmp_path: Path,
) -> None:
    options = ("--symbols", "ethusdt", "--quotes")
    code, out, _ = streamed(tmp_path, *options, until=lambda: streams(tmp_path))
    assert code == 0
    assert re.match(r"BINANCE_SIM: \d+ trades in [\d.]+ s, 0 reconnects, 0 dead letters", out)
    assert out.count("ETHUSDT") == 2 and "unexplained" in out and "…" not in out


def test_a_second_run_fills_what_was_missed_in_between(tmp_path: Path) -> None:
    streamed(tmp_path, until=lambda: streams(tmp_path))
    code, out, err = streamed(tmp_path, "--json", until=lambda: closes_gaps(tmp_path))
    report = json.loads(out)
    assert (code, report["gaps"]) == (0, {"filled": 2})
    assert_contiguous(report)
    assert "gap_noticed: symbol BTCUSDT" in err and "gap_closed: symbol ETHUSDT" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_a_stream_with_its_report(tmp_path: Path, number: int) -> None:
    with child(tmp_path, *STREAM, "--offline", "--json") as process:
        wait_until(lambda: streams(tmp_path))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert_contiguous(json.loads(out))


def test_without_a_terminal_a_line_now_and_then_says_where_the_stream_stands(
    tmp_path: Path,
) -> None:
    line = re.compile(r"BINANCE_SIM live at ws://.*BTCUSDT .* trades/s, lag \d+\.\d+ s")
    options = ("--seconds", "60", "--symbols", "BTCUSDT")
    with child(tmp_path, *STREAM, "--offline", *options) as process:
        assert process.stderr is not None
        assert any(line.search(said) for said in process.stderr)


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (["--rate", "9"], {}, "--rate 9 is for --offline: a real venue trades as it does"),
        (["--us", "--offline"], {}, "--us and --offline name two venues: leave one out"),
        (["--offline", "--symbols", "FOO"], {}, "'FOO' is not a symbol such as BTCUSDT"),
        (["--offline", "--symbols", ","], {}, "name at least one symbol"),
        (["--offline", "--no-sink"], {}, "without sinks the embedded broker loses all at its end"),
        (
            [],
            {"K2_BINANCE_WS_URLS": "stream.binance.com", "K2_BINANCE_REST_URLS": "https://x"},
            "K2_BINANCE_WS_URLS='stream.binance.com': give addresses like wss://host:port",
        ),
        (
            [],
            {"K2_BINANCE_WS_URLS": "ws://127.0.0.1:1"},
            "set K2_BINANCE_WS_URLS and K2_BINANCE_REST_URLS together, or neither",
        ),
        (
            ["--us"],
            {"K2_BINANCE_WS_URLS": "ws://127.0.0.1:1", "K2_BINANCE_REST_URLS": "http://127.0.0.1"},
            "K2_BINANCE_WS_URLS and --us name two venues: leave one out",
        ),
        (["--offline"], {"K2_REDIS_URL": "redis:/x"}, "K2_REDIS_URL is no address of a Redis"),
        (["--offline"], {"K2_METRICS_PORT": "x"}, "K2_METRICS_PORT='x': "),
    ],
)
def test_a_stream_that_cannot_begin_says_why_in_one_line(
    run: Run, arguments: list[str], variables: dict[str, str], told: str
) -> None:
    code, out, err = run(*STREAM, *arguments, **variables)
    assert (code, out, said(err)) == (2, "", [])
    assert told in only_error(err)


def test_an_unknown_symbol_is_told_with_those_near_it(run: Run, exchange: OfflineExchange) -> None:
    code, _, err = run(*STREAM, "--symbols", "BTCUSDX", **settings_of(exchange))
    assert (code, said(err)) == (2, [])
    assert only_error(err) == "k2: Binance has no symbol BTCUSDX (near: BTCUSDT, BTCUSDC, BTCTUSD)"


def test_a_refused_connection_names_the_host_and_simulates_nothing(run: Run) -> None:
    with refusing_port() as port:
        urls = {"K2_BINANCE_WS_URLS": f"ws://127.0.0.1:{port}"}
        urls["K2_BINANCE_REST_URLS"] = f"http://127.0.0.1:{port}"
        code, out, err = run(*STREAM, **urls)
    line = only_error(err)
    assert (code, out, said(err)) == (2, "", [])
    assert f"lets us in nowhere: ws://127.0.0.1:{port}: " in line and "Connect call failed" in line
    assert "--offline" not in line


def test_hosts_that_take_connections_and_never_answer_are_named_in_time(
    run: Run, exchange: OfflineExchange
) -> None:
    with silent_port() as port:
        urls = settings_of(exchange) | {"K2_BINANCE_WS_URLS": f"ws://127.0.0.1:{port}"}
        code, _, err = run(*STREAM, K2_TIMEOUT_S="1", **urls)
    assert code == 2
    assert only_error(err) == (
        f"k2: BINANCE_SIM lets us in nowhere: ws://127.0.0.1:{port}: no answer within 1 s"
    )


def test_a_symbol_that_only_the_venue_knows_is_told_with_why_it_was_not_asked(run: Run) -> None:
    with refusing_port() as port:
        urls = {"K2_BINANCE_WS_URLS": f"ws://127.0.0.1:{port}"}
        urls["K2_BINANCE_REST_URLS"] = f"http://127.0.0.1:{port}"
        code, _, err = run(*STREAM, "--symbols", "WIFUSDT", **urls)
    assert code == 2
    assert re.search(rf"WIFUSDT are not known .*{port}.*refused", only_error(err))


@pytest.fixture
def expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OfflineExchange]:
    """Run an exchange whose certificate is of an authority that is trusted, and expired."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", not_after=LONG_AGO).configure_cert(server)
    with OfflineExchange(ssl_context=server) as opened:
        yield opened


def test_an_expired_certificate_is_told(run: Run, expired: OfflineExchange) -> None:
    code, out, err = run(*STREAM, **settings_of(expired))
    assert (code, out, said(err)) == (2, "", [])
    assert "certificate has expired" in only_error(err)


def test_a_check_of_an_expired_certificate_fails_at_every_host(
    run: Run, expired: OfflineExchange
) -> None:
    code, out, err = run(*STREAM, "--check", **settings_of(expired))
    assert [line.split()[0] for line in out.splitlines()] == ["FAILED", "FAILED"]
    assert (code, out.count("certificate has expired")) == (2, 2)
    assert "2 of 2 steps failed" in only_error(err)


def test_a_redis_that_is_not_there_heals_while_the_stream_goes_on(tmp_path: Path) -> None:
    redis, home = RedisServer(tmp_path), tmp_path / "home"
    told: list[str] = []
    with child(home, *STREAM, "--offline", "--json", K2_REDIS_URL=redis.url) as process:
        assert process.stderr is not None
        told += until(process.stderr, "redis_gone firing: Redis is gone")
        with redis:
            told += until(process.stderr, "redis_gone resolved: Redis answers again")
            wait_until(lambda: streams(home))
            process.terminate()
            out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert_contiguous(json.loads(out))
    assert sum("redis_gone firing" in line for line in told) == 1


def until(lines: Iterator[str], text: str) -> list[str]:
    """Read lines up to the one that has the text."""
    read = []
    for line in lines:
        read.append(line)
        if text in line:
            return read
    raise AssertionError(f"{text!r} is not in {read}")


def test_a_check_passes_where_every_host_answers(run: Run) -> None:
    with OfflineExchange(hosts=2) as exchange:
        code, out, _ = run(*STREAM, "--check", "--json", **settings_of(exchange))
        steps = [(one["step"], one["host"], one["passed"]) for one in json.loads(out)]
    rest = [
        (step, url, True) for url in exchange.rest_urls for step in ("REST time", "exchangeInfo")
    ]
    ws = [(step, url, True) for url in exchange.ws_urls for step in ("connect", "first trade")]
    assert (code, steps) == (0, rest + ws)


def test_a_check_names_the_host_that_is_not_reached_and_why(
    run: Run, exchange: OfflineExchange
) -> None:
    urls = settings_of(exchange)
    with refusing_port() as port:
        urls["K2_BINANCE_WS_URLS"] += f",ws://127.0.0.1:{port}"
        code, out, err = run(*STREAM, "--check", **urls)
    (failed,) = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert (code, out.count("passed ")) == (2, 4)
    assert f"connect      ws://127.0.0.1:{port}: " in failed and "Connect call failed" in failed
    assert "1 of 5 steps failed" in only_error(err)


def test_a_check_takes_symbols_with_their_venue_and_refuses_those_of_another(
    run: Run, exchange: OfflineExchange
) -> None:
    check = ("stream", "binance", "--check", "--symbols")
    assert run(*check, "BINANCE_SIM:BTCUSDT,ETHUSDT", **settings_of(exchange))[0] == 0
    code, _, err = run(*check, "BINANCE:BTCUSDT", **settings_of(exchange))
    assert (code, only_error(err)) == (1, "k2: BINANCE:BTCUSDT is not of BINANCE_SIM: leave it out")
    code, _, err = run("simulate", "binance", "--symbols", "BINANCE:BTCUSDT")
    assert (code, only_error(err)) == (1, "k2: BINANCE:BTCUSDT is not of BINANCE_SIM: leave it out")


def test_a_check_needs_no_home(run: Run, tmp_path: Path, exchange: OfflineExchange) -> None:
    assert run(*STREAM, "--check", **settings_of(exchange))[0] == 0
    assert not (tmp_path / "home").exists()


def test_a_check_fails_where_no_trade_comes() -> None:
    with OfflineExchange(rate=0.0001) as exchange:
        venue = binance(exchange.ws_urls, exchange.rest_urls)
        last = list(check_venue(venue, ["BTCUSDT"], trade_s=0.3))[-1]
    assert (last.step, last.passed, last.detail) == (
        "first trade",
        False,
        "no trade came: 0.3 s went by",
    )


def test_a_check_fails_where_our_clock_is_wrong() -> None:
    with OfflineExchange(clock=lambda: time.time() - 9000) as exchange:
        venue = binance(exchange.ws_urls, exchange.rest_urls)
        first = next(iter(check_venue(venue, ["BTCUSDT"])))
    assert not first.passed
    assert re.match(r"our clock is (89|90)\d\d\.\d+ s ahead: set this machine's", first.detail)


def test_a_check_tells_an_unknown_symbol() -> None:
    with OfflineExchange() as exchange:
        venue = binance(exchange.ws_urls, exchange.rest_urls)
        checks = list(check_venue(venue, ["BTCUSDX"], trade_s=0.2))
    assert [(one.step, one.passed) for one in checks[:2]] == [
        ("REST time", True),
        ("exchangeInfo", False),
    ]
    assert "no symbol BTCUSDX" in checks[1].detail


def test_a_simulated_exchange_says_how_it_is_reached_and_what_it_made(tmp_path: Path) -> None:
    options = ("--port", "0", "--hosts", "2", "--symbols", "BTCUSDT", "--json")
    with (
        child(tmp_path, "simulate", "binance", *options) as process,
        httpx2.Client(timeout=60) as web,
    ):
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        reply = web.post(told["control"], json={"name": "void", "n": 3})
        urls = told["K2_BINANCE_REST_URLS"].split(",")
        pings = [web.get(f"{url}/api/v3/ping").status_code for url in urls]
        newest = f"{urls[0]}/api/v3/trades?symbol=BTCUSDT&limit=1"
        before = web.get(newest).json()
        wait_until(lambda: web.get(newest).json() != before)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, reply.status_code, pings) == (0, 200, [200, 200]), err
    made = json.loads(out)["made"]["BTCUSDT"]
    assert made["last_id"] >= made["first_id"]


def test_the_addresses_of_a_simulated_exchange_can_be_copied_into_a_shell(run: Run) -> None:
    code, out, _ = run("simulate", "binance", "--port", 0, "--seconds", 0.1)
    assert code == 0
    assert re.search(r"^  export K2_BINANCE_WS_URLS=ws://127\.0\.0\.1:\d+$", out, re.MULTILINE)
    assert re.search(r"^  export K2_BINANCE_REST_URLS=http://127\.0\.0\.1:\d+$", out, re.MULTILINE)
    assert re.search(r"^  curl .* http://127\.0\.0\.1:\d+/control/faults$", out, re.MULTILINE)
    assert re.search(r"^BTCUSDT: ids \d+ to \d+, 0 left out$", out, re.MULTILINE)


def test_a_simulated_exchange_plays_its_script(tmp_path: Path) -> None:
    script = tmp_path / "faults.jsonl"
    script.write_text('{"at_s": 0, "name": "void", "n": 4, "symbol": "BTCUSDT"}\n\n')
    options = ("--port", "0", "--script", str(script), "--symbols", "BTCUSDT", "--json")
    with child(tmp_path, "simulate", "binance", *options) as process:
        assert process.stdout is not None
        control = json.loads(process.stdout.readline())["control"]
        truth = control.replace("faults", "truth")
        wait_until(lambda: is_past_void_ids(httpx2.get(truth, timeout=60).json()["BTCUSDT"]))
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["made"]["BTCUSDT"]["void"]) == (0, 4)


def is_past_void_ids(truth: dict[str, Any]) -> bool:
    """Tell whether the exchange made ids after those that it left out."""
    return bool(truth["void"]) and truth["last_id"] > truth["void"][-1][1]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cut", "line 1: not JSON"),
        ('{"at_s": 1}', "line 1: no fault named"),
        ('{"name": "cut"}', "line 1: at_s=None is no number of seconds"),
        ('{"at_s": -1, "name": "cut"}', "line 1: at_s=-1 is no number of seconds"),
    ],
)
def test_a_line_of_a_script_that_is_no_fault_is_told(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "faults.jsonl"
    path.write_text(line)
    with pytest.raises(ConfigError, match=re.escape(f"--script {path}, {told}")):
        read_script(path)


def test_a_port_in_use_and_a_script_that_is_not_there_are_told(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("simulate", "binance", "--port", port)
    assert code == 1 and str(port) in only_error(err)
    code, _, err = run("simulate", "binance", "--script", tmp_path / "none")
    assert code == 1 and f"--script {tmp_path}/none: cannot be read" in only_error(err)


def test_the_offline_exchange_of_a_home_keeps_its_rate(tmp_path: Path) -> None:
    assert [rate_of_home(tmp_path, 20.0), rate_of_home(tmp_path, None)] == [20.0, 20.0]
    assert rate_of_home(tmp_path / "other", None) == 50.0
    with pytest.raises(ConfigError, match=r"--rate 30: .* take --rate 20, or another home"):
        rate_of_home(tmp_path, 30.0)


def test_an_archive_is_loaded_and_its_broken_files_end_in_exit_code_2(
    run: Run, tmp_path: Path
) -> None:
    good = write_archive(tmp_path / "good", "BTCUSDT", date(2025, 1, 31), limit=500)
    code, out, _ = run("load", "binance-archive", "--json", "--exchange", "BINANCE_SIM", good)
    (file,) = json.loads(out)["files"]
    assert (code, file["rows"], file["already_there"], file["error"]) == (0, 500, 0, None)
    code, out, err = run("load", "binance-archive", tmp_path / "BTCUSDT-trades-2025-01-30.zip")
    assert code == 2
    assert "cannot be read" in " ".join(err.split())


def test_assets_of_a_symbol_that_is_not_known_are_given(run: Run, tmp_path: Path) -> None:
    file = write_archive(tmp_path, "WIFUSDT", date(2025, 1, 31), limit=5)
    code, out, _ = run("load", "binance-archive", "--json", file)
    assert code == 2 and "--assets BASE/QUOTE" in json.loads(out)["files"][0]["error"]
    code, out, _ = run("load", "binance-archive", "--json", "--assets", "WIF/USDT", file)
    assert (code, json.loads(out)["files"][0]["rows"]) == (0, 5)


def test_a_stream_can_be_watched_from_another_process_until_it_is_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with child(home, *STREAM, "--offline", "--json") as stream:
        wait_until(lambda: streams(home))
        with child(home, "watch", "--json") as once:
            looked = json.loads(once.communicate(timeout=60)[0])
        with child(home, "watch") as watching:
            assert watching.stdout is not None
            line = watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            _, err = watching.communicate(timeout=60)
        stream.terminate()
        stream.communicate(timeout=60)
    assert (looked["exchange"], looked["state"], watching.returncode) == ("BINANCE_SIM", "live", 0)
    assert re.search(r"BINANCE_SIM live at ws://.*BTCUSDT .* trades/s", line), err


def test_watching_a_home_without_a_stream_says_so(run: Run) -> None:
    code, out, err = run("watch")
    assert (code, out) == (1, "")
    assert re.match(r"k2: no stream runs in the home .*/home: none ever did\.", only_error(err))
    run(*STREAM, "--offline", "--seconds", 0.5)
    code, _, err = run("watch")
    assert code == 1
    assert re.search(r": stopped at \d{4}-.* UTC \(closed\)\.", only_error(err))

"""`docker-compose.yml` as it is, on stand-in images: the way of a trade, kills, the audit."""

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from support.compose_stack import ComposeStack
from support.docker_engine import DockerEngine
from support.waiting import wait_until

# The first test brings the stack up. Each goes on where the one before it ended.
pytestmark = pytest.mark.timeout(400)

SYMBOLS = ("BTCUSDT", "ETHUSDT")
REACHED_S = 240
# The exchange first: a new one has no trades from before its start.
KILLED = (
    *("exchange", "stream", "sink", "kafka", "registry", "s3", "redis", "api"),
    *("lab", "prometheus", "alertmanager"),
)


@pytest.fixture(scope="module")
def stack(
    engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory, told: list[str]
) -> Iterator[ComposeStack]:
    """Bring the stack up, and take it down with all that it keeps."""
    stack = ComposeStack(engine, tmp_path_factory.mktemp("compose"))
    stack.down()
    try:
        began = time.monotonic()
        stack.up()
        told.append(f"all healthy {since(began)} after `up`")
        yield stack
    finally:
        stack.down()


def since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def lake_rows(stack: ComposeStack, symbol: str, *, limit: int = 20_000) -> list[dict[str, Any]]:
    """Return the newest trades that the lake has, without what only Kafka has yet."""
    instrument = f"symbol={symbol}&exchange=BINANCE_SIM"
    answer = stack.try_get(f"/v1/trades?{instrument}&order=desc&limit={limit}&tail=false")
    return [] if answer is None else list(answer["data"])


def newest_id(stack: ComposeStack, symbol: str) -> int:
    """Return the venue's id of the newest trade that the lake has; 0 while there is none."""
    rows = lake_rows(stack, symbol, limit=1)
    return int(rows[0]["source_sequence"]) if rows else 0


def made(stack: ComposeStack) -> dict[str, Any]:
    """Return by symbol the ids that the exchange has made."""
    return stack.get("/control/truth", service="exchange")


def wait_for_the_lake(stack: ComposeStack) -> dict[str, Any]:
    """Wait until all that is made by now is in the lake and told by HTTP; return its ids."""
    ids = made(stack)
    for symbol in SYMBOLS:
        last = ids[symbol]["last_id"]
        wait_until(lambda symbol=symbol, last=last: newest_id(stack, symbol) >= last, REACHED_S)
    return ids


def test_every_service_becomes_healthy(stack: ComposeStack) -> None:
    assert set(stack.containers) == set(stack.services)
    assert stack.unhealthy() == {}


def test_a_trade_goes_from_the_exchange_to_the_lake_on_s3_to_http(
    stack: ComposeStack, told: list[str]
) -> None:
    began = time.monotonic()
    last = made(stack)["BTCUSDT"]["last_id"]
    wait_for_the_lake(stack)
    told.append(f"a trade is read from the lake over HTTP {since(began)} after it was made")
    at = f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={last}&limit=1"
    (theirs,) = stack.get(at, service="exchange")
    (ours,) = [row for row in lake_rows(stack, "BTCUSDT") if row["source_sequence"] == last]
    assert ours["trade_id"] == f"BINANCE_SIM-{last}"
    assert Decimal(ours["price"]) == Decimal(theirs["price"])
    assert Decimal(ours["quantity"]) == Decimal(theirs["qty"])


def test_prometheus_scrapes_stream_sink_and_api(stack: ComposeStack) -> None:
    def scraped() -> set[str]:
        answer = stack.get("/api/v1/query?query=up==1", service="prometheus")
        return {one["metric"]["service"] for one in answer["data"]["result"]}

    wait_until(lambda: scraped() == {"stream", "sink", "api"})


@pytest.mark.parametrize("service", KILLED)
def test_a_killed_service_heals(stack: ComposeStack, told: list[str], service: str) -> None:
    began = time.monotonic()
    stack.kill(service)
    wait_until(lambda: service not in stack.unhealthy(), REACHED_S)
    healthy = since(began)
    wait_for_the_lake(stack)
    told.append(f"{service} killed: healthy after {healthy}, all trades in the lake {since(began)}")


def test_every_trade_since_the_last_start_of_the_exchange_is_in_the_lake_once(
    stack: ComposeStack, told: list[str]
) -> None:
    for symbol, ids in wait_for_the_lake(stack).items():
        query = (
            "SELECT count(*) AS rows, count(DISTINCT source_sequence) AS ids FROM lake.trades_v2 "
            f"WHERE symbol = '{symbol}' "
            f"AND source_sequence BETWEEN {ids['first_id']} AND {ids['last_id']}"
        )
        (found,) = json.loads(stack.run("sink", "k2", "sql", query, "--json"))
        count = ids["last_id"] - ids["first_id"] + 1
        assert found == {"rows": count, "ids": count}
        told.append(f"{symbol}: {count:,} trades made, {found['rows']:,} rows in the lake")


def test_jupyterlab_reads_the_lake_and_serves_the_notebooks(stack: ComposeStack) -> None:
    count = "from k2lib import K2; print(K2.open().sql('SELECT count(*) FROM trades_v2').item())"
    assert int(stack.run("lab", "python3", "-c", count).split()[-1]) > 0
    assert "01_schema_v2.ipynb" in stack.run("lab", "ls", "/srv/notebooks")


def test_no_service_was_ended_for_its_memory(stack: ComposeStack, told: list[str]) -> None:
    used = stack.memory()
    told.append(", ".join(f"{name} {amount}" for name, amount in sorted(used.items())))
    assert not [name for name, state in stack.states().items() if state["OOMKilled"]]


def test_the_audit_is_exact(stack: ComposeStack, told: list[str]) -> None:
    report = json.loads(stack.run("sink", "k2", "audit", "--json"))
    told.append(f"audit: {report['summary']}")
    assert report["held"]
    unchecked = {one["name"] for one in report["checks"] if one["state"] == "not checked"}
    assert unchecked == {"rows of named files"}


def test_down_leaves_nothing(stack: ComposeStack) -> None:
    stack.down()
    assert stack.left() == {}

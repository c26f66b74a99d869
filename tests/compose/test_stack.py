"""`docker-compose.yml` as it is, on stand-in images: the way of a trade, kills, the audit."""

from collections.abc import Iterator

import pytest
from support.compose_stack import ComposeStack
from support.docker_engine import DockerEngine
from support.waiting import wait_until

# The first test brings the stack up.
pytestmark = pytest.mark.timeout(400)

# Of the lake alone: without what is still in Kafka.
NEWEST = "/v1/trades?symbol=BTCUSDT&exchange=BINANCE_SIM&order=desc&limit=1&tail=false"


@pytest.fixture(scope="module")
def stack(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """Bring the stack up, and take it down with all that it keeps."""
    stack = ComposeStack(engine, tmp_path_factory.mktemp("compose"))
    stack.down()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def newest_id(stack: ComposeStack) -> int:
    """Return the venue's id of the newest trade that the lake has; 0 while there is none."""
    answer = stack.try_get(NEWEST)
    rows = [] if answer is None else answer["data"]
    return int(rows[0]["source_sequence"]) if rows else 0


def test_every_service_becomes_healthy(stack: ComposeStack) -> None:
    assert stack.unhealthy() == {}


def test_a_trade_is_followed_from_the_exchange_to_the_lake_to_http(stack: ComposeStack) -> None:
    made = stack.get("/control/truth", service="exchange")["BTCUSDT"]["last_id"]
    wait_until(lambda: newest_id(stack) >= made, 240)
    trade = stack.get(NEWEST)["data"][0]
    assert trade["exchange"] == "BINANCE_SIM"
    assert trade["vendor_data"]["origin"] == "stream"

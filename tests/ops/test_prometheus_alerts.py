"""Each alert fires and is resolved by a real fault, from K2 through Prometheus to the receiver."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.prometheus_server import Watching, watching

from k2lib.ops.metrics import Metrics, MetricsServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    """Start one Prometheus and one Alertmanager for all tests."""
    with watching(tmp_path_factory.mktemp("prometheus")) as one:
        yield one


def test_a_process_that_is_gone_is_noticed_until_it_answers_again(watch: Watching) -> None:
    with MetricsServer(Metrics(), port=0) as server:
        port = urlsplit(server.url).port
        assert port is not None
        watch.targets({"stream": f"127.0.0.1:{port}"})
    watch.wait_for("process_down", status="firing")
    with MetricsServer(Metrics(), port=port):
        watch.wait_for("process_down", status="resolved")
    assert watch.statuses("process_down") == ["firing", "resolved"]

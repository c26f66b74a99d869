"""K2: which Kafka it takes, and what it says when asked for what is not there."""

import time
from pathlib import Path

import pytest

from k2lib import K2
from k2lib.client import choose_kafka
from k2lib.errors import ConfigError, QueryError
from k2lib.ops.services import Services
from k2lib.settings import read_settings


def test_without_anything_else_kafka_is_embedded(tmp_path: Path) -> None:
    assert choose_kafka(read_settings({"home": tmp_path})).mode == "embedded"


def test_settings_choose_the_kafka(tmp_path: Path) -> None:
    settings = {"kafka_bootstrap": "127.0.0.1:1", "schema_registry_url": "http://127.0.0.1:2"}
    chosen = choose_kafka(read_settings({"home": tmp_path, **settings}))
    assert str(chosen) == "Kafka yours (127.0.0.1:1)"


def test_a_properties_file_chooses_the_kafka_and_its_options(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("# ours\nbootstrap.servers=127.0.0.1:1\nclient.id=k2\n")
    url = "http://127.0.0.1:2"
    chosen = choose_kafka(
        read_settings({"home": tmp_path, "kafka_config": path, "schema_registry_url": url})
    )
    assert chosen.cluster is not None
    assert (chosen.cluster.bootstrap, chosen.cluster.options) == (
        "127.0.0.1:1",
        {"client.id": "k2"},
    )


def test_the_address_of_the_settings_counts_before_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("bootstrap.servers=127.0.0.1:1\n")
    kafka = {"kafka_bootstrap": "127.0.0.1:2", "schema_registry_url": "http://127.0.0.1:3"}
    chosen = choose_kafka(read_settings({"home": tmp_path, "kafka_config": path, **kafka}))
    assert chosen.cluster is not None
    assert chosen.cluster.client()["bootstrap.servers"] == "127.0.0.1:2"


def test_an_address_in_the_file_is_checked_and_its_password_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("bootstrap.servers=user:hunter2@host:1\n")
    with pytest.raises(ConfigError) as caught:
        choose_kafka(read_settings({"home": tmp_path, "kafka_config": path}))
    assert str(caught.value) == "bootstrap.servers=…: give host:port, several joined by commas"


def test_an_option_that_kafka_does_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("bogus.option=1\n")
    kafka = {"kafka_bootstrap": "127.0.0.1:1", "schema_registry_url": "http://127.0.0.1:2"}
    with pytest.raises(ConfigError, match=r"bogus\.option"):
        choose_kafka(read_settings({"home": tmp_path, "kafka_config": path, **kafka}))


def test_a_catalog_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="K2_CATALOG_URI"):
        K2.open(home=tmp_path, catalog_uri="foo://bar")


def test_a_home_that_cannot_be_made_is_refused() -> None:
    with K2.open(home="/proc/none") as k2, pytest.raises(ConfigError, match="/proc/none"):
        assert k2.pipeline


def test_a_kafka_without_a_registry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="K2_SCHEMA_REGISTRY_URL"):
        choose_kafka(read_settings({"home": tmp_path, "kafka_bootstrap": "127.0.0.1:1"}))


@pytest.mark.stack
def test_services_left_running_in_the_home_are_taken(
    services: Services, services_home: Path
) -> None:
    chosen = choose_kafka(read_settings({"home": services_home}))
    assert str(chosen) == f"Kafka local services ({services.bootstrap})"


def test_opening_takes_less_than_a_second(tmp_path: Path) -> None:
    K2.open(home=tmp_path / "warm").close()
    began = time.process_time()
    K2.open(home=tmp_path / "cold").close()
    assert time.process_time() - began < 1.0


def test_it_says_in_one_line_what_it_took(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2:
        assert repr(k2) == f"K2: home {tmp_path}, Kafka embedded (in this process)"


def test_a_table_never_written_is_named(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2, pytest.raises(QueryError, match="trades_v2 is empty"):
        k2.table("trades_v2")


def test_a_table_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2, pytest.raises(QueryError, match="no table x; there are tr"):
        k2.table("x")


def test_sinks_without_a_kafka_say_how_to_get_one(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2, pytest.raises(ConfigError, match="k2 up"):
        k2.sink()


def test_a_sink_of_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2, pytest.raises(ConfigError, match="no table trades"):
        k2.sink(["trades"])


def test_corporate_actions_are_read_and_not_stored(tmp_path: Path, asx_sample: Path) -> None:
    with K2.open(home=tmp_path) as k2:
        actions = k2.corporate_actions(asx_sample / "reference-data")
    assert actions.dividends["symbol"].null_count() == 0
    assert not (tmp_path / "warehouse").exists()

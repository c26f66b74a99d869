"""Kafka with SASL and TLS, and a registry that asks who comes: clients get in, or say why not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kafka_cluster import PASSWORD, USER, SecureKafka, secure_kafka, write_identity
from support.lake_rows import rows_table, trade
from support.registry_proxy import TOKEN, registry_proxy
from support.waiting import wait_until

from k2lib import K2
from k2lib.audit import audit
from k2lib.schema.records import TRADE

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TRADES = "market.equities.trades.asx"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    with secure_kafka(tmp_path_factory.mktemp("secured")) as one:
        yield one


@pytest.fixture(scope="module")
def registry(secured: SecureKafka) -> Iterator[str]:
    """Return the address of the registry behind TLS and a question for a user or a token."""
    who = {"user": USER, "password": PASSWORD, "authority": secured.authority}
    with registry_proxy(secured.registry_url, **who) as url:
        yield url


def sasl(secured: SecureKafka, mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
    return {
        "kafka_bootstrap": secured.secure,
        "kafka_sasl_mechanism": mechanism,
        "kafka_sasl_username": USER,
        "kafka_sasl_password": PASSWORD,
        "kafka_ssl_ca": secured.ca,
        "schema_registry_ca": secured.ca,
    }


def mutual(secured: SecureKafka) -> dict[str, Any]:
    write_identity(secured.authority, "client", secured.folder / "client.pem")
    return {
        "kafka_bootstrap": secured.mutual,
        "kafka_ssl_ca": secured.ca,
        "kafka_ssl_certificate": secured.folder / "client.pem",
        "kafka_ssl_key": secured.folder / "client.pem",
        "schema_registry_ca": secured.ca,
    }


BASIC = {"schema_registry_user": USER, "schema_registry_password": PASSWORD}
WAYS: dict[str, tuple[Callable[[SecureKafka], dict[str, Any]], dict[str, Any]]] = {
    "SCRAM, and a user": (sasl, BASIC),
    "PLAIN, and a token": (
        lambda secured: sasl(secured, "PLAIN"),
        {"schema_registry_token": TOKEN},
    ),
    "a certificate": (mutual, BASIC),
}


@pytest.mark.parametrize("number", range(len(WAYS)), ids=list(WAYS))
def test_every_client_gets_in(
    secured: SecureKafka, registry: str, tmp_path: Path, number: int
) -> None:
    way, access = list(WAYS.values())[number]
    settings = {**way(secured), **access, "schema_registry_url": registry}
    home = {"home": tmp_path / "home", "commit_interval_s": 1000}
    topic, venue = f"{TRADES}_{number}", f"ASX_{number}"
    # Of ids of their own: the topics of all ways feed one table, which has an id once.
    stored, unread = (trade(2 * number + one, exchange=venue) for one in range(2))
    with K2.open(**home, **settings) as k2:
        k2.pipeline.produce(topic, rows_table([stored]), TRADE)
        k2.pipeline.settle()
        k2.pipeline.produce(topic, rows_table([unread]), TRADE)
        k2.pipeline.flush()
        with K2.open(**home, **settings) as reader:
            wait_until(lambda: len(reader.trades("BHP", exchange=venue)) == 2)
            assert len(reader.trades("BHP", exchange=venue, tail=False)) == 1
        report = audit(k2.settings)
    states = {(one.name, one.table): one.state for one in report.checks}
    assert states["records", "trades_v2"] == "held"


FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a wrong password": (
        {"kafka_sasl_password": "wrong-1"},
        ("Authentication failed", "K2_KAFKA_SASL_PASSWORD"),
    ),
    "a wrong password in the clear": (
        {"kafka_sasl_password": "wrong-1", "kafka_sasl_mechanism": "PLAIN"},
        ("Authentication failed", "K2_KAFKA_SASL_PASSWORD"),
    ),
    "an unknown authority": (
        {"kafka_ssl_ca": None},
        ("certificate verify failed", "K2_KAFKA_SSL_CA"),
    ),
    "plain text on a port of TLS": (
        {"kafka_security_protocol": "PLAINTEXT"},
        ("that port speaks TLS", "K2_KAFKA_SECURITY_PROTOCOL"),
    ),
    "no file": ({"kafka_ssl_ca": "nowhere.pem"}, ("K2_KAFKA_SSL_CA=nowhere.pem: No such file",)),
}


@pytest.mark.parametrize("command", [("load", "asx"), ("sink",)], ids=["load", "sink"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_kafka_refuses_is_one_line_with_its_remedy(
    secured: SecureKafka,
    registry: str,
    run: Callable[..., tuple[int, str, str]],
    asx_sample: Path,
    fault: str,
    command: tuple[str, ...],
) -> None:
    changed, says = FAULTS[fault]
    settings = {**sasl(secured), **BASIC, "schema_registry_url": registry, **changed}
    check_refused(run, command, asx_sample, settings, says)


def test_a_reader_who_is_refused_answers_from_the_lake_and_says_so(
    secured: SecureKafka, registry: str, tmp_path: Path
) -> None:
    settings = {**sasl(secured), **BASIC, "schema_registry_url": registry}
    with K2.open(home=tmp_path / "home", **settings) as k2:
        k2.pipeline.produce(TRADES, rows_table([trade(1)]), TRADE)
        k2.pipeline.settle()
    with K2.open(home=tmp_path / "home", **{**settings, "kafka_sasl_password": "wrong-1"}) as k2:
        told = k2.complete_to("trades_v2")
        assert len(k2.trades("BHP", exchange="ASX")) == 1
    assert "Authentication failed" in str(told.reason)
    assert "K2_KAFKA_SASL_PASSWORD" in str(told.reason)


REGISTRY_FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no user": ({}, ("answers 401", "K2_SCHEMA_REGISTRY_USER")),
    "a wrong password": (
        {"schema_registry_user": USER, "schema_registry_password": "wrong-1"},
        ("answers 401", "K2_SCHEMA_REGISTRY_PASSWORD"),
    ),
    "an unknown authority": (
        {**BASIC, "schema_registry_ca": None},
        ("CERTIFICATE_VERIFY_FAILED", "K2_SCHEMA_REGISTRY_CA"),
    ),
    "a wrong token": ({"schema_registry_token": "wrong-1"}, ("K2_SCHEMA_REGISTRY_TOKEN",)),
}


@pytest.mark.parametrize("fault", REGISTRY_FAULTS)
def test_what_the_registry_refuses_is_one_line_with_its_remedy(
    secured: SecureKafka,
    registry: str,
    run: Callable[..., tuple[int, str, str]],
    asx_sample: Path,
    fault: str,
) -> None:
    changed, says = REGISTRY_FAULTS[fault]
    settings = {**sasl(secured), "schema_registry_url": registry, **changed}
    check_refused(run, ("load", "asx"), asx_sample, settings, says)


def check_refused(
    run: Callable[..., tuple[int, str, str]],
    command: tuple[str, ...],
    sample: Path,
    settings: dict[str, Any],
    says: tuple[str, ...],
) -> None:
    """Fail unless a command ends with one line that says this and no secret."""
    paths = (sample / "trades",) if command[0] == "load" else ()
    given = {f"K2_{name.upper()}": str(one) for name, one in settings.items() if one is not None}
    code, _, err = run(*command, *paths, **given)
    line = err.splitlines()[-1]
    assert code == 1, err
    assert line.startswith("k2: ") and "Traceback" not in err
    assert [text for text in says if text not in line] == [], line
    assert PASSWORD not in err and "wrong-1" not in err

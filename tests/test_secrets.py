"""No secret of the settings reaches an error, a log, a status, a metric, a file or a traceback."""

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from support.feeding import settings_in
from support.log_rows import TRADES_TOPIC
from support.ports import refusing_port, silent_port
from support.waiting import wait_until

from k2lib import K2
from k2lib.audit import audit
from k2lib.errors import K2Error
from k2lib.events import Event, StateLost
from k2lib.kafka.registry import SchemaRegistry
from k2lib.schema.records import TRADE
from k2lib.settings import Settings, read_settings
from k2lib.simulator import OfflineExchange
from k2lib.venues.binance.venue import binance

SECRET = "hunter2"
ADDRESSES = {
    "schema_registry_url": f"http://user:{SECRET}@127.0.0.1:9",
    "catalog_uri": f"http://user:{SECRET}@127.0.0.1:9",
    "redis_url": f"redis://user:{SECRET}@127.0.0.1:9/0",
    "alert_webhook_url": f"http://user:{SECRET}@127.0.0.1:9/{SECRET}?token={SECRET}",
    "s3_secret_access_key": SECRET,
    "s3_session_token": SECRET,
    "catalog_credential": f"id:{SECRET}",
    "catalog_token": SECRET,
    "kafka_sasl_password": SECRET,
    "kafka_ssl_key_password": SECRET,
    "schema_registry_password": SECRET,
    "schema_registry_token": SECRET,
    "api_keys": SECRET,
}


def opened(home: Path, **settings: object) -> None:
    K2.open(home=home, timeout_s=0.5, **settings).close()


def audited(home: Path, **settings: object) -> None:
    audit(read_settings({"home": home, "timeout_s": 0.5, **settings}))


def registered(url: str) -> None:
    SchemaRegistry(url, timeout_s=0.5).register(TRADES_TOPIC, TRADE)


def in_file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


FAILURES: dict[str, Callable[[Path, int, int], None]] = {
    "a refused catalog": lambda home, port, _: opened(
        home, catalog_uri=f"http://user:{SECRET}@127.0.0.1:{port}"
    ),
    "a silent catalog": lambda home, _, port: opened(
        home, catalog_uri=f"http://user:{SECRET}@127.0.0.1:{port}"
    ),
    "a catalog without driver": lambda home, *_: opened(
        home, catalog_uri=f"postgresql://user:{SECRET}@127.0.0.1/k2"
    ),
    "a catalog of no kind": lambda home, *_: opened(home, catalog_uri=f"foo://u:{SECRET}@bar"),
    "no YAML": lambda home, *_: opened(
        home, catalog_config=in_file(home.parent / "yaml", f"a: b\n token: *{SECRET}\n")
    ),
    "no properties": lambda home, *_: opened(
        home, kafka_config=in_file(home.parent / "kafka", f"sasl.password {SECRET}\n")
    ),
    "a Kafka with a password": lambda home, *_: opened(
        home, kafka_bootstrap=f"u:{SECRET}@host:1", schema_registry_url="mock://x"
    ),
    "a registry that is none": lambda *_: registered(f"ftp://user:{SECRET}@host"),
    "a refused registry": lambda _, port, __: registered(f"http://u:{SECRET}@127.0.0.1:{port}"),
    "a silent registry": lambda _, __, port: registered(f"http://u:{SECRET}@127.0.0.1:{port}"),
    "a warehouse": lambda home, *_: opened(home, warehouse=f"s3://key:{SECRET}@bucket/lake"),
    "an audit of a refused catalog": lambda home, port, _: audited(
        home, catalog_uri=f"http://user:{SECRET}@127.0.0.1:{port}"
    ),
    "an S3": lambda home, *_: opened(home, s3_endpoint=f"http://key:{SECRET}@host"),
    "a venue": lambda home, *_: opened(home, binance_ws_urls=f"wss://u:{SECRET}@host"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_no_traceback_has_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        refusing_port() as refused,
        silent_port() as silent,
        pytest.raises(K2Error) as caught,
    ):
        FAILURES[name](tmp_path / "home", refused, silent)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    assert SECRET not in caplog.text


def test_settings_do_not_show_their_secrets() -> None:
    settings = read_settings(ADDRESSES)
    assert SECRET not in f"{settings!r} {settings}"
    assert settings.schema_registry_url == ADDRESSES["schema_registry_url"]


@pytest.mark.slow
def test_a_stream_tells_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with refusing_port() as port, OfflineExchange() as exchange:
        settings = settings_in(
            tmp_path,
            metrics_port=0,
            redis_url=f"redis://user:{SECRET}@127.0.0.1:{port}/0",
            alert_webhook_url=f"http://user:{SECRET}@127.0.0.1:{port}/{SECRET}?token={SECRET}",
            s3_secret_access_key=SECRET,
        )
        venue = binance().at(exchange.ws_urls, exchange.rest_urls)
        seen: list[type[Event]] = []
        with (
            K2(settings, on_event=lambda e: seen.append(type(e))) as k2,
            k2.feed(["BTCUSDT"], venue=venue) as feed,
        ):
            page = str(k2.watch.metrics_url)
            wait_until(lambda: StateLost in seen)
            told = [
                httpx2.get(page, trust_env=False).text,
                json.dumps(feed.status().to_json(), default=str),
                repr(k2),
                repr(k2.kafka),
            ]
            files = {path: path.read_bytes() for path in _files(settings)}
    files |= {path: path.read_bytes() for path in _files(settings)}
    assert [text for text in (*told, caplog.text) if SECRET in text] == []
    assert [path for path, data in files.items() if SECRET.encode() in data] == []


def _files(settings: Settings) -> list[Path]:
    return [path for path in settings.home.rglob("*") if path.is_file()]

"""What clients of Kafka and the registry are told of the settings, and what a probe finds out."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.ports import refusing_port, silent_port
from support.tls import Tls

from k2lib.errors import ConfigError, TransientError
from k2lib.kafka.access import AccessCheck, kafka_options, registry_options
from k2lib.kafka.cluster import Cluster
from k2lib.settings import Settings


def options(home: Path, **changed: Any) -> dict[str, str]:
    return kafka_options(Settings(home=home, **changed))


def test_without_settings_there_are_no_options(tmp_path: Path) -> None:
    assert options(tmp_path) == {}
    assert registry_options(Settings(home=tmp_path)) == {}


def test_a_user_alone_is_scram_over_tls(tmp_path: Path) -> None:
    assert options(tmp_path, kafka_sasl_username="u", kafka_sasl_password="p") == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "p",
    }


def test_an_authority_alone_is_tls(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    expected = {"security.protocol": "SSL", "ssl.ca.location": str(ca)}
    assert options(tmp_path, kafka_ssl_ca=ca) == expected


def test_settings_count_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("sasl.mechanism=PLAIN\nsasl.username=old\nsecurity.protocol=SASL_PLAINTEXT\n")
    assert options(tmp_path, kafka_config=file, kafka_sasl_username="new") == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "new",
    }


def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"K2_KAFKA_SSL_KEY=nowhere: No such file or directory"):
        options(tmp_path, kafka_ssl_key="nowhere")
    settings = Settings(home=tmp_path, schema_registry_config=Path("nowhere"))
    with pytest.raises(ConfigError, match=r"K2_SCHEMA_REGISTRY_CONFIG=nowhere: No such file"):
        registry_options(settings)


def test_the_registry_is_told_a_user_or_a_token(tmp_path: Path) -> None:
    user = Settings(home=tmp_path, schema_registry_user="u", schema_registry_password="p:q")
    assert registry_options(user) == {"basic.auth.user.info": "u:p:q"}
    token = registry_options(Settings(home=tmp_path, schema_registry_token="t"))
    assert token["bearer.auth.token"] == "t"


def test_a_port_that_refuses_or_says_nothing_is_left_to_whoever_asks_next() -> None:
    with refusing_port() as port:
        AccessCheck(Cluster(f"127.0.0.1:{port}", timeout_s=1))()
    with silent_port() as port:
        AccessCheck(Cluster(f"127.0.0.1:{port}", timeout_s=1))()


def test_plain_text_on_a_port_of_tls_is_told(tls_port: int) -> None:
    check = AccessCheck(Cluster(f"127.0.0.1:{tls_port}", timeout_s=4))
    for _ in range(2):
        with pytest.raises(TransientError, match=r"that port speaks TLS, and PLAINTEXT was asked"):
            check()


@pytest.fixture
def tls_port() -> Iterator[int]:
    """Yield a port that speaks TLS, of an authority that nobody here knows."""
    context = Tls().server()

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = server.accept()
                with suppress(OSError), context.wrap_socket(plain, server_side=True):
                    pass
                plain.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()

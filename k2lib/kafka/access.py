"""Access to Kafka and the registry: what their clients are told, and why they are refused."""

import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from k2lib.errors import TransientError
from k2lib.kafka.cluster import CONNECT_S, Cluster, is_reachable, read_properties
from k2lib.reasons import file_errors
from k2lib.settings import Settings

MECHANISM: Final = "SCRAM-SHA-512"
STEP_S: Final = 0.5
PROBE_S: Final = 5.0
# A probe that found nothing out is not made again for so long: reads do not wait for it.
AGAIN_S: Final = 30.0
SASL: Final = "correct K2_KAFKA_SASL_USERNAME, K2_KAFKA_SASL_PASSWORD or K2_KAFKA_SASL_MECHANISM"
CA: Final = "name the CA of its certificate in K2_KAFKA_SSL_CA"
PROTOCOL: Final = "set K2_KAFKA_SECURITY_PROTOCOL to what that port speaks"


def kafka_options(settings: Settings) -> dict[str, str]:
    """Return librdkafka's options: those of the file, then those of the settings.

    Raises:
        ConfigError: a file cannot be read.
    """
    options = read_properties(settings.kafka_config)
    files = {
        "ssl.ca.location": ("K2_KAFKA_SSL_CA", settings.kafka_ssl_ca),
        "ssl.certificate.location": ("K2_KAFKA_SSL_CERTIFICATE", settings.kafka_ssl_certificate),
        "ssl.key.location": ("K2_KAFKA_SSL_KEY", settings.kafka_ssl_key),
    }
    options |= {name: _readable(*one) for name, one in files.items() if one[1] is not None}
    texts = {
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password,
        "ssl.key.password": settings.kafka_ssl_key_password,
    }
    options |= _given(texts)
    mechanism = settings.kafka_sasl_mechanism
    if mechanism is not None or settings.kafka_sasl_username is not None:
        options["sasl.mechanism"] = mechanism or options.get("sasl.mechanism", MECHANISM)
    protocol = settings.kafka_security_protocol or options.get("security.protocol")
    if protocol is None and "sasl.mechanism" in options:
        protocol = "SASL_SSL"
    if protocol is None and any(name.startswith("ssl.") for name in options):
        protocol = "SSL"
    return options if protocol is None else options | {"security.protocol": protocol}


def registry_options(settings: Settings) -> dict[str, str]:
    """Return the options of the registry's client: those of the file, then those of the settings.

    Raises:
        ConfigError: a file cannot be read.
    """
    file = settings.schema_registry_config
    options = read_properties(file, setting="K2_SCHEMA_REGISTRY_CONFIG")
    password = settings.schema_registry_password
    if settings.schema_registry_user is not None:
        text = "" if password is None else password.get_secret_value()
        options["basic.auth.user.info"] = f"{settings.schema_registry_user}:{text}"
    if settings.schema_registry_ca is not None:
        ca = _readable("K2_SCHEMA_REGISTRY_CA", settings.schema_registry_ca)
        options["ssl.ca.location"] = ca
    options |= _given({"bearer.auth.token": settings.schema_registry_token})
    if "bearer.auth.token" in options:
        options.setdefault("bearer.auth.credentials.source", "STATIC_TOKEN")
        # Confluent's cloud wants the name of a cluster beside it, others do not look.
        options.setdefault("bearer.auth.logical.cluster", "")
    return options


def _given(values: Mapping[str, str | SecretStr | None]) -> dict[str, str]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in values.items()
        if value is not None
    }


def _readable(setting: str, path: Path | None) -> str:
    with file_errors(f"{setting}={path}"):
        Path(path or "").read_bytes()
    return str(path)


class AccessCheck:
    """Finds out once whether a cluster lets its clients in, and says why it does not.

    librdkafka itself goes on trying, and ends in a time limit whatever the reason.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._rest_until = float("-inf")
        self._refusal: TransientError | None = None

    def __call__(self) -> None:
        """Ask, unless the answer is known; one that is not reached is left to whoever asks next.

        Raises:
            TransientError: it refuses; names its address, the reason and the setting.
        """
        with self._lock:
            if time.monotonic() > self._rest_until:
                self._refusal = self._probe()
                has_answer = self._refusal is None
                self._rest_until = time.monotonic() + (AGAIN_S if has_answer else STEP_S)
        if self._refusal is not None:
            raise self._refusal

    def _probe(self) -> TransientError | None:
        if not is_reachable(self._cluster.bootstrap, timeout_s=CONNECT_S):
            return None
        errors: list[KafkaError] = []
        admin = self._cluster.open(lambda theirs: AdminClient(theirs | {"error_cb": errors.append}))
        until = time.monotonic() + min(PROBE_S, self._cluster.timeout_s / 4)
        while time.monotonic() < until:
            try:
                admin.list_topics(timeout=STEP_S)
                return None
            except KafkaException:
                admin.poll(0)
            if reason := _refusal(errors) or self._plain_text_to_tls():
                return self._error(reason)
        return None

    def _plain_text_to_tls(self) -> str | None:
        """librdkafka tells nobody that connections are closed before the first answer."""
        protocol = self._cluster.options.get("security.protocol", "PLAINTEXT")
        first = self._cluster.bootstrap.partition(",")[0]
        if protocol.upper().endswith("SSL") or not _speaks_tls(first):
            return None
        return f"that port speaks TLS, and {protocol} was asked for: {PROTOCOL}"

    def _error(self, reason: str) -> TransientError:
        return TransientError(f"Kafka at {self._cluster.bootstrap} refuses: {reason}")


def _refusal(errors: list[KafkaError]) -> str | None:
    """Return why it refuses, where that is sure at once."""
    for error in errors:
        text = _plain(error)
        if error.code() == KafkaError._AUTHENTICATION:
            return f"{text}: {SASL}"
        if error.code() == KafkaError._SSL:
            return f"{text}: {CA if 'certificate' in text else PROTOCOL}"
    return None


def _speaks_tls(address: str) -> bool:
    """Say whether a server answers a TLS handshake, trusted here or not."""
    host, _, port = address.rpartition("://")[2].strip().rpartition(":")
    host = host.strip("[]")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=STEP_S) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return True
    except (OSError, ValueError):
        return False


def _plain(error: KafkaError) -> str:
    """Return what librdkafka says, without the address before it and the time behind it."""
    text = error.str().partition("/bootstrap: ")[2] or error.str()
    return text.partition(" (after ")[0]

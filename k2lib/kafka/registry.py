"""The schema registry: schemas are registered once per topic, texts looked up by id or GUID."""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx2
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from k2lib.addresses import is_http_url, public_url, redact, without_secrets
from k2lib.errors import ConfigError, RecordError, SchemaError, TransientError, reason_of
from k2lib.kafka.cluster import TIMEOUT_S
from k2lib.reasons import START_IT
from k2lib.resilience.time_limit import TimeLimit
from k2lib.schema.codec import SchemaId
from k2lib.schema.records import RecordSchema

ERRNO: Final = re.compile(r"\[Errno -?\d+\] ")
INCOMPATIBLE: Final = 409
NOT_FOUND: Final = 404
RETRY_MS: Final = 500
ASK_AGAIN_S: Final = 0.5
# For so long an unknown id is not believed: a registry may answer before it has read all that it
# keeps in Kafka, and a record that cannot be decoded becomes a dead letter.
PATIENCE_S: Final = 10.0


def check_registry_url(url: str) -> None:
    """Refuse an address, or several joined by commas, that is none of a registry.

    Raises:
        ConfigError: names it, without its user.
    """
    for one in url.split(","):
        if not (is_http_url(one) or one.strip().startswith("mock:")):
            shown = public_url(url) if "@" not in public_url(url) else "…"
            raise ConfigError(f"K2_SCHEMA_REGISTRY_URL={shown}: give http://host:port")


Options = Mapping[str, str]
NO_OPTIONS: Final[Options] = {}
NO_ACCESS: Final = (401, 403)
ACCESS: Final = (
    "correct K2_SCHEMA_REGISTRY_USER and K2_SCHEMA_REGISTRY_PASSWORD, or K2_SCHEMA_REGISTRY_TOKEN"
)
CA: Final = "name the CA of its certificate in K2_SCHEMA_REGISTRY_CA"


def _options(url: str, timeout_s: float) -> dict[str, object]:
    """Return the client's options: the user not in the address, which its library logs.

    One try more, so that a registry that is restarted is waited for; both are in time.
    """
    urls = [one.strip() for one in url.split(",")]
    first = urlsplit(urls[0])
    options: dict[str, object] = {
        "url": ",".join(map(_without_user, urls)),
        "timeout": timeout_s / 2 / len(urls),
        "max.retries": 1,
        "retries.wait.ms": RETRY_MS,
    }
    if first.username is not None:
        user = f"{unquote(first.username)}:{unquote(first.password or '')}"
        options["basic.auth.user.info"] = user
    if _is_mock(url):
        # It connects to nothing, yet would load all certificates of the system, for 15 ms; those of
        # a folder are loaded when one is needed.
        options["ssl.ca.location"] = str(Path(__file__).parent)
    return options


def _is_mock(url: str) -> bool:
    return url.startswith("mock:")


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class SchemaRegistry:
    """A Confluent-compatible schema registry, or `mock://` inside the process.

    Args:
        timeout_s: how long an answer may take in all.
        options: of its client, beyond the address: who asks, and whom it trusts.
        on_registered: called when a schema is registered, before anything is written by it.
    Attributes:
        patience_s: how long it may know nothing of an id.
    Raises:
        ConfigError: the address is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        options: Options = NO_OPTIONS,
        on_registered: Callable[[], None] = lambda: None,
    ) -> None:
        check_registry_url(url)
        self._name = f"the schema registry at {public_url(url)}"
        self._on_registered = on_registered
        try:
            self._client = SchemaRegistryClient.new_client({**_options(url, timeout_s), **options})
        except (ValueError, TypeError, OSError) as exc:
            reason = redact(reason_of(exc), secrets=options.values())
            message = f"options for {self._name}: {reason}: correct K2_SCHEMA_REGISTRY_CONFIG"
            raise ConfigError(message) from None
        self._limit = TimeLimit(timeout_s)
        self.patience_s = 0.0 if _is_mock(url) else PATIENCE_S
        self._texts: dict[SchemaId, str] = {}
        self._unknown: set[SchemaId] = set()
        self._ids: dict[str, int] = {}

    def register(self, topic: str, schema: RecordSchema) -> int:
        """Register the schema as the topic's value and return its id; a second time is free.

        Raises:
            SchemaError: the registry refuses it as incompatible.
            TransientError: the registry does not answer.
        """
        if topic not in self._ids:
            schema_id, guid = self._register(f"{topic}-value", schema)
            self._texts[schema_id] = schema.text
            if guid is not None:
                self._texts[uuid.UUID(guid)] = schema.text
            self._on_registered()
            self._ids[topic] = schema_id
        return self._ids[topic]

    def text(self, schema_id: SchemaId) -> str:
        """Return the Avro text of an id or a GUID.

        Raises:
            RecordError: the registry knows no such schema.
            TransientError: the registry does not answer.
        """
        if schema_id not in self._texts:
            self._texts[schema_id] = self._look_up(schema_id)
        return self._texts[schema_id]

    def close(self) -> None:
        """Close the connections to the registry."""
        self._client.close()

    def texts(self) -> Mapping[SchemaId, str]:
        """Return the Avro texts used so far, by id, and by GUID where the registry gives one."""
        return dict(self._texts)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what a registry that does not do its work makes the client raise."""
        try:
            yield
        except SchemaRegistryError as exc:
            message = f"{self._name} answers {exc.http_status_code}: {redact(reason_of(exc))}"
            is_refusal = exc.http_status_code in NO_ACCESS
            remedy = ACCESS if is_refusal else "correct K2_SCHEMA_REGISTRY_URL"
            raise TransientError(f"{message}: {remedy}") from without_secrets(exc)
        except (httpx2.TimeoutException, TimeoutError) as exc:
            raise self._silent(self._limit.reason) from without_secrets(exc)
        except httpx2.HTTPError as exc:
            reason = redact(ERRNO.sub("", reason_of(exc)))
            remedy = CA if "CERTIFICATE_VERIFY_FAILED" in reason else START_IT
            raise self._silent(reason, remedy) from without_secrets(exc)
        except (ValueError, LookupError, TypeError, httpx2.InvalidURL) as exc:
            reason = "its answer is none of a schema registry: correct K2_SCHEMA_REGISTRY_URL"
            raise TransientError(f"{self._name}: {reason}") from without_secrets(exc)

    def _silent(self, reason: str, remedy: str = START_IT) -> TransientError:
        return TransientError(f"{self._name} does not answer: {reason}: {remedy}")

    def _register(self, subject: str, schema: RecordSchema) -> tuple[int, str | None]:
        try:
            return self._register_once(subject, schema)
        except SchemaError:
            # Of two that register a subject at once Apicurio refuses one, with the same status.
            time.sleep(ASK_AGAIN_S)
            return self._register_once(subject, schema)

    def _register_once(self, subject: str, schema: RecordSchema) -> tuple[int, str | None]:
        with self._errors():
            try:
                registered = self._limit.call(
                    self._client.register_schema_full_response,
                    subject,
                    Schema(schema.text, "AVRO"),
                )
            except SchemaRegistryError as exc:
                if exc.http_status_code == INCOMPATIBLE:
                    raise SchemaError(f"{subject}: the registry refuses the schema: {exc}") from exc
                raise
        if registered.schema_id is None:
            raise TransientError(f"{subject}: {self._name} gives the schema no id")
        return registered.schema_id, registered.guid

    def _look_up(self, schema_id: SchemaId) -> str:
        until = time.monotonic() + (0.0 if schema_id in self._unknown else self.patience_s)
        while (schema := self._ask(schema_id)) is None and time.monotonic() < until:
            time.sleep(ASK_AGAIN_S)
        if schema is None:
            self._unknown.add(schema_id)
            raise RecordError(unknown_schema(schema_id))
        if schema.schema_type != "AVRO" or schema.schema_str is None:
            raise RecordError(f"the schema {schema_id} is {schema.schema_type}, not AVRO")
        return schema.schema_str

    def _ask(self, schema_id: SchemaId) -> Schema | None:
        with self._errors():
            try:
                return self._schema(schema_id)
            except SchemaRegistryError as exc:
                if exc.http_status_code == NOT_FOUND:
                    return None
                raise

    def _schema(self, schema_id: SchemaId) -> Schema:
        if isinstance(schema_id, uuid.UUID):
            return self._limit.call(self._client.get_schema_by_guid, str(schema_id))
        return self._limit.call(self._client.get_schema, schema_id)


def unknown_schema(schema_id: SchemaId) -> str:
    """Return why a record with this id or GUID cannot be decoded; not each registry has GUIDs."""
    if isinstance(schema_id, uuid.UUID):
        return f"no schema has the GUID {schema_id}, or the registry cannot look up GUIDs"
    return f"no schema has the id {schema_id}"

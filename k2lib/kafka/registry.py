"""The schema registry: schemas are registered once per topic, texts looked up by id or GUID."""

import uuid
from collections.abc import Callable, Mapping
from typing import Final

import httpx2
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from k2lib.errors import RecordError, SchemaError, TransientError
from k2lib.schema.codec import SchemaId
from k2lib.schema.records import RecordSchema

INCOMPATIBLE: Final = 409
NOT_FOUND: Final = 404


class SchemaRegistry:
    """A Confluent-compatible schema registry, or `mock://` inside the process.

    Args:
        on_registered: called when a schema is registered, before anything is written by it.
    """

    def __init__(self, url: str, *, on_registered: Callable[[], None] = lambda: None) -> None:
        self.url = url
        self._on_registered = on_registered
        self._client = SchemaRegistryClient.new_client({"url": url})
        self._texts: dict[SchemaId, str] = {}
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

    def _register(self, subject: str, schema: RecordSchema) -> tuple[int, str | None]:
        try:
            registered = self._client.register_schema_full_response(
                subject, Schema(schema.text, "AVRO")
            )
        except SchemaRegistryError as exc:
            if exc.http_status_code == INCOMPATIBLE:
                raise SchemaError(f"{subject}: the registry refuses the schema: {exc}") from exc
            raise TransientError(f"{subject}: the registry at {self.url}: {exc}") from exc
        except httpx2.HTTPError as exc:
            raise TransientError(f"the registry at {self.url} does not answer: {exc}") from exc
        if registered.schema_id is None:
            raise TransientError(f"{subject}: the registry at {self.url} gives the schema no id")
        return registered.schema_id, registered.guid

    def _look_up(self, schema_id: SchemaId) -> str:
        try:
            schema = self._schema(schema_id)
        except SchemaRegistryError as exc:
            if exc.http_status_code == NOT_FOUND:
                raise RecordError(unknown_schema(schema_id)) from exc
            raise TransientError(f"the registry at {self.url}: {exc}") from exc
        except httpx2.HTTPError as exc:
            raise TransientError(f"the registry at {self.url} does not answer: {exc}") from exc
        if schema.schema_type != "AVRO" or schema.schema_str is None:
            raise RecordError(f"the schema {schema_id} is {schema.schema_type}, not AVRO")
        return schema.schema_str

    def _schema(self, schema_id: SchemaId) -> Schema:
        if isinstance(schema_id, uuid.UUID):
            return self._client.get_schema_by_guid(str(schema_id))
        return self._client.get_schema(schema_id)


def unknown_schema(schema_id: SchemaId) -> str:
    """Return why a record with this id or GUID cannot be decoded; not each registry has GUIDs."""
    if isinstance(schema_id, uuid.UUID):
        return f"no schema has the GUID {schema_id}, or the registry cannot look up GUIDs"
    return f"no schema has the id {schema_id}"

"""Examples of answers, made of the examples of their parts."""

from collections.abc import Mapping
from typing import Any, Final

REFS: Final = "#/components/schemas/"


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """Return a schema's own example, or one made of its parts' examples; None without any."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(REFS)], schemas)
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas)
    if "properties" in schema:
        return {name: example_of(one, schemas) for name, one in schema["properties"].items()}
    if "items" in schema:
        return [example_of(schema["items"], schemas)]
    return None

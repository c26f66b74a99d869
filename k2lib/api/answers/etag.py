"""The tag of an answer: the question, its format, and the state of the table it was asked of."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request

NAMED_AT_MOST: Final = 64


def etag(request: Request, form: str, told: Mapping[str, Any]) -> str:
    """Return the tag of an answer.

    Args:
        told: snapshot and offsets up to which it is complete: with another row there, another tag.
    """
    question = (request.url.path, request.url.query, form, told)
    # Weak: compressed or not, it is the same answer.
    return f'W/"{digest(msgspec.json.encode(question))}"'


def digest(data: bytes | memoryview) -> str:
    """Return what tells data apart, as text."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def known_tags(request: Request) -> frozenset[str]:
    """Return the tags of answers that the client has."""
    named = ",".join(request.headers.getlist("if-none-match")).split(",")
    return frozenset(tag.strip() for tag in named[:NAMED_AT_MOST]) - {""}

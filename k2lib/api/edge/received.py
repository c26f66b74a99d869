"""What a request brings, within bounds: its URL and its body."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from k2lib.api.edge.security import Refused


def check_url(scope: Scope, longest: int) -> None:
    """Refuse a path and query of too many bytes.

    Raises:
        Refused: it is longer.
    """
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > longest:
        raise Refused(414, "url", f"a URL of {size} bytes: send {longest} at most")


def has_body(headers: Headers) -> bool:
    """Say whether a request comes with a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def read_body(
    receive: Receive, headers: Headers, *, longest: int, within_s: float
) -> bytes | None:
    """Return a request's whole body; None where the client left.

    Raises:
        Refused: it is longer, or takes too long to arrive.
    """
    said = headers.get("content-length", "0")
    if said.isdigit() and int(said) > longest:
        raise _too_large(longest)
    try:
        async with asyncio.timeout(within_s):
            return await _collected(receive, longest)
    except TimeoutError:
        raise Refused(
            408,
            "body",
            f"the body did not arrive within {within_s:g} s: send it at once",
            headers={"Connection": "close"},
        ) from None


def with_body(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body that was read, and then what the client does."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def _collected(receive: Receive, longest: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > longest:
            raise _too_large(longest)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(longest: int) -> Refused:
    return Refused(
        413,
        "body",
        f"the body is larger than {longest} bytes: ask for less at a time",
        headers={"Connection": "close"},
    )

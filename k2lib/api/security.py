"""Access checks: keys by their hashes, loopback names, origins of web pages."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any, Final
from urllib.parse import unquote

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from k2lib.api.options import ApiKey
from k2lib.errors import ConfigError

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
BEARER: Final = "bearer "
KEY_BYTES: Final = 32
# A made key has 43 of these characters.
KEY_LIKE: Final = re.compile(r"[A-Za-z0-9_-]{43,}")
MOST_DECODED: Final = 3
FORM: Final = "name:sha256, joined by commas; `k2 api --new-key NAME` makes one"


class RequestRejectedError(Exception):
    """A request that is refused: status, a word for the metrics, and a remedy."""

    def __init__(
        self, status: int, reason: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = headers


def new_key(name: str) -> tuple[str, str]:
    """Make a random key.

    Returns:
        The key, which is kept nowhere, and its entry for K2_API_KEYS.
    Raises:
        ConfigError: the name is not valid.
    """
    if NAME.fullmatch(name) is None:
        raise ConfigError(f"a key's name has letters, digits, '_', '.', '-', at most 64: {name!r}")
    key = secrets.token_urlsafe(KEY_BYTES)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read the keys of a setting: `alice:<sha256>,bob:<sha256>`.

    Raises:
        ConfigError: an entry does not have that form, or a name or a key is there twice.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    keys = tuple(_parse_key(entry, number) for number, entry in enumerate(entries, start=1))
    if not keys:
        raise ConfigError(f"K2_API_KEYS has no key: give {FORM}")
    for values in ([key.name for key in keys], [key.sha256 for key in keys]):
        if len(set(values)) < len(values):
            raise ConfigError("K2_API_KEYS names a key twice: each name and each key once")
    return keys


def key_name(headers: Headers, keys: Sequence[ApiKey]) -> str | None:
    """Return the name of the key that a request was sent with; None without a valid one."""
    return _name_of(_sent_key(headers).encode("latin-1"), keys)


def without_keys(text: str, keys: Sequence[ApiKey]) -> str:
    """Return a text with *** for the whole of it if it is a key, and for what looks like one.

    A key that is percent-encoded more often than a URL has to be is found, too.
    """
    plain = text
    for _ in range(MOST_DECODED):
        plain = unquote(plain)
    if _name_of(plain.encode("utf-8", "replace"), keys) is not None:
        return "***"
    masked = KEY_LIKE.sub("***", plain)
    return text if masked == plain else masked


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    return host == "localhost" or _address_is_loopback(host.strip("[]")) is True


def check_loopback(headers: Headers, client: str | None) -> None:
    """Refuse a request that does not come from this machine, under one of its own names.

    A web page can let its own DNS name point to this machine; its Host header is that name.

    Raises:
        RequestRejectedError: the Host header or the client's address is not this machine's.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_without_port(hosts[0])):
        raise RequestRejectedError(
            421,
            "host",
            "without keys only localhost and loopback addresses such as 127.0.0.1 are answered, "
            "not this Host header; set K2_API_KEYS to be reached by another name",
        )
    if client is not None and _address_is_loopback(client) is False:
        raise RequestRejectedError(
            403, "host", f"without keys only this machine is answered, not {client}"
        )


def check_origin(headers: Headers, allowed: Sequence[str]) -> None:
    """Refuse what a web page of another origin sends, unless its origin is allowed.

    Raises:
        RequestRejectedError: the Origin is another, or the browser reports another site.
    """
    origin = headers.get("origin")
    if origin in allowed and origin is not None:
        return
    own = headers.get("host", "")
    if origin is not None and origin not in (f"http://{own}", f"https://{own}"):
        raise RequestRejectedError(403, "origin", "web pages of other origins are not answered")
    is_link = headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") == "cross-site" and not is_link:
        raise RequestRejectedError(403, "origin", "web pages of other sites are not answered")


def check_content_type(method: str, headers: Headers) -> None:
    """Refuse a POST that a plain form of a web page could send.

    Raises:
        RequestRejectedError: its Content-Type is not JSON.
    """
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media != "application/json":
        raise RequestRejectedError(415, "content_type", "send Content-Type: application/json")


class JsonRoute(APIRoute):
    """A route whose POST takes JSON alone; another method is refused before that is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of its requests."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            check_content_type(request.method, request.headers)
            return await handle(request)

        return handle_json


def check_key(name: str | None, keys: Sequence[ApiKey]) -> None:
    """Refuse a request without a valid key, where one is needed.

    Raises:
        RequestRejectedError: no key, or one that is not in the settings.
    """
    if keys and name is None:
        raise RequestRejectedError(
            401,
            "key",
            "send a key of this server: Authorization: Bearer KEY, or X-API-Key: KEY",
            headers={"WWW-Authenticate": 'Bearer realm="k2"'},
        )


def _parse_key(entry: str, number: int) -> ApiKey:
    name, _, digest = entry.partition(":")
    if NAME.fullmatch(name) is None or SHA256.fullmatch(digest.lower()) is None:
        # The entry is not shown: it may be a key in place of its hash.
        raise ConfigError(f"K2_API_KEYS, entry {number}: give {FORM}")
    return ApiKey(name, digest.lower())


def _name_of(key: bytes, keys: Sequence[ApiKey]) -> str | None:
    digest = hashlib.sha256(key).hexdigest()
    # All keys are compared, each to its end, so that the time taken reveals nothing.
    matches = [one.name for one in keys if hmac.compare_digest(digest, one.sha256)]
    return matches[0] if matches else None


def _sent_key(headers: Headers) -> str:
    authorization = headers.get("authorization", "")
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip()
    return headers.get("x-api-key", "")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _address_is_loopback(text: str) -> bool | None:
    """None where the text is not an address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback

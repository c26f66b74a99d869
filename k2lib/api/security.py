"""Who may ask: keys by their hashes, loopback names, origins of web pages."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.datastructures import Headers

from k2lib.api.options import Key
from k2lib.errors import ConfigError

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
BEARER: Final = "bearer "
FORM: Final = "name:sha256, joined by commas; `k2 api --new-key NAME` makes one"


class Refused(Exception):
    """A request that is not answered: status, a word for the metrics, and what would help."""

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
        ConfigError: the name is none.
    """
    if NAME.fullmatch(name) is None:
        raise ConfigError(f"a key's name has letters, digits, '_', '.', '-', at most 64: {name!r}")
    key = secrets.token_urlsafe(32)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def parse_keys(text: str) -> tuple[Key, ...]:
    """Read the keys of a setting: `alice:<sha256>,bob:<sha256>`.

    Raises:
        ConfigError: an entry is not of that form, or a name or a key is there twice.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    keys = tuple(_key(entry, place) for place, entry in enumerate(entries, start=1))
    if not keys:
        raise ConfigError(f"K2_API_KEYS has no key: give {FORM}")
    for what in ([key.name for key in keys], [key.sha256 for key in keys]):
        if len(set(what)) < len(what):
            raise ConfigError("K2_API_KEYS names a key twice: each name and each key once")
    return keys


def key_name(headers: Headers, keys: Sequence[Key]) -> str | None:
    """Return the name of the key that a request was sent with; None without a known one."""
    given = hashlib.sha256(_given(headers).encode("latin-1")).hexdigest()
    # All are compared to the end, so that the time taken says nothing.
    found = [key.name for key in keys if hmac.compare_digest(given, key.sha256)]
    return found[0] if found else None


def is_loopback(host: str) -> bool:
    """Say whether an address or name means this machine alone."""
    return host == "localhost" or _address_is_loopback(host.strip("[]")) is True


def check_loopback(headers: Headers, client: str | None) -> None:
    """Refuse what does not come from this machine by one of its own names.

    A web page elsewhere can point a name of its own here, and is then asked under that name.

    Raises:
        Refused: the Host header, or the client's address, is of elsewhere.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or _without_port(hosts[0]) not in LOOPBACK:
        raise Refused(
            421,
            "host",
            f"without keys only {', '.join(LOOPBACK)} are answered, not this Host header; "
            "set K2_API_KEYS to be reached by another name",
        )
    if client is not None and _address_is_loopback(client) is False:
        raise Refused(403, "host", f"without keys only this machine is answered, not {client}")


def check_origin(headers: Headers, allowed: Sequence[str]) -> None:
    """Refuse what a web page of another origin sends, unless its origin is allowed.

    Raises:
        Refused: the Origin is another, or the browser says that another site asks.
    """
    origin = headers.get("origin")
    if origin in allowed and origin is not None:
        return
    own = headers.get("host", "")
    if origin is not None and origin not in (f"http://{own}", f"https://{own}"):
        raise Refused(403, "origin", "web pages of other origins are not answered")
    is_link = headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") == "cross-site" and not is_link:
        raise Refused(403, "origin", "web pages of other sites are not answered")


def check_content_type(method: str, headers: Headers) -> None:
    """Refuse a POST that a plain form of a web page could send.

    Raises:
        Refused: its content is not said to be JSON.
    """
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media != "application/json":
        raise Refused(415, "content_type", "send Content-Type: application/json")


def check_key(name: str | None, keys: Sequence[Key]) -> None:
    """Refuse who has no key, where one is needed.

    Raises:
        Refused: none, or one that is not known.
    """
    if keys and name is None:
        raise Refused(
            401,
            "key",
            "send a key of this server: Authorization: Bearer KEY, or X-API-Key: KEY",
            headers={"WWW-Authenticate": 'Bearer realm="k2"'},
        )


def _key(entry: str, place: int) -> Key:
    name, _, digest = entry.partition(":")
    if NAME.fullmatch(name) is None or SHA256.fullmatch(digest.lower()) is None:
        # The entry is not shown: it may be a key in place of its hash.
        raise ConfigError(f"K2_API_KEYS, entry {place}: give {FORM}")
    return Key(name, digest.lower())


def _given(headers: Headers) -> str:
    said = headers.get("authorization", "")
    if said[: len(BEARER)].lower() == BEARER:
        return said[len(BEARER) :].strip()
    return headers.get("x-api-key", "")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _address_is_loopback(text: str) -> bool | None:
    """None where it is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback

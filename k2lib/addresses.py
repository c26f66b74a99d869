"""Addresses as messages show them: without user, password, or a token in the query."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

SCHEME: Final = r"\b[a-z][a-z0-9+.-]*://"
USER: Final = re.compile(rf"({SCHEME})[^/?#\s'\",]*@", re.IGNORECASE)
SCHEMES: Final = re.compile(rf"(^|,)\s*{SCHEME}", re.IGNORECASE)
# A password that should have been written with %2F; what follows a host's colon is a port.
ODD_USER: Final = re.compile(
    rf"({SCHEME})[^/?#\s'\":@]*:(?!\d{{1,5}}(?:[/?#,]|$))"
    rf"(?:(?!,{SCHEME})[^\s'\"])*@",
    re.IGNORECASE,
)
# Paths of files may have a ? that begins no query.
QUERY: Final = re.compile(
    rf"(?!(?:file|sqlite)://)({SCHEME}[^\s?#'\",]*)[?#][^\s'\",)]*", re.IGNORECASE
)


def redact(text: str, *, secrets: Iterable[str] = ()) -> str:
    """Return a text without user info and queries in its addresses, nor any of the secrets."""
    text = QUERY.sub(r"\1", ODD_USER.sub(r"\1", USER.sub(r"\1", text)))
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return text


def public_url(url: str) -> str:
    """Return an address, or several joined by commas, as messages, logs and status show it."""
    return redact(url)


def lower_scheme(url: str) -> str:
    """Return an address, or several joined by commas, with the scheme as libraries compare it."""
    return SCHEMES.sub(lambda found: found[0].lower(), url)


def is_http_url(url: str) -> bool:
    """Say whether an address is `http://host` or `https://host`, perhaps with a port and a path."""
    try:
        parts = urlsplit(url.strip())
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def has_user(url: str) -> bool:
    """Say whether an address has a user, and so perhaps a password."""
    return "@" in url and redact(url) != url


def without_secrets(exc: Exception, *, secrets: Iterable[str] = ()) -> Exception | None:
    """Return an error as the cause of another, or None where its text would show a secret."""
    secrets = list(secrets)
    inner: BaseException | None = exc
    while inner is not None:
        if redact(str(inner), secrets=secrets) != str(inner):
            return None
        inner = inner.__cause__ or inner.__context__
    return exc

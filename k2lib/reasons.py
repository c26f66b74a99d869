"""Why the system or a library refused, in one line, and what to do about it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from k2lib.errors import ConfigError, reason_of

RESTORE: Final = "restore it from a copy"
START_IT: Final = "start it, or correct its address"
LET_WRITE: Final = "let this user read and write there, or name another place"
CREDENTIAL: Final = "correct K2_CATALOG_CREDENTIAL or K2_CATALOG_TOKEN"
S3_KEY: Final = "correct K2_S3_ACCESS_KEY_ID and K2_S3_SECRET_ACCESS_KEY"
REMEDIES: Final = (
    ("locked", "another process holds it: end that, or try again"),
    ("readonly database", LET_WRITE),
    ("unable to open database", LET_WRITE),
    ("Permission denied", LET_WRITE),
    ("Operation not permitted", LET_WRITE),
    ("Read-only file system", LET_WRITE),
    ("Not a directory", "name another place"),
    ("No such file or directory", "name a place that exists"),
    ("Is a directory", "name a file"),
    ("File exists", "name another place"),
    ("File name too long", "take a shorter name"),
    ("No such file", "correct the path"),
    ("No space left", "free some space"),
    ("File too large", "raise the limit of file sizes, or free some space"),
    ("disk is full", "free some space"),
    ("Disk quota", "free some space"),
    ("Connection refused", START_IT),
    ("connect to server", START_IT),
    ("no answer", START_IT),
    ("timed out", START_IT),
    ("Timeout was reached", START_IT),
    ("resolve", START_IT),
    ("Name or service not known", START_IT),
    ("No module named 'psycopg'", "install it: pip install 'k2lib[postgres]'"),
    ("No module named", "install it"),
    ("lock timeout", "another process holds it: end that, or try again"),
    ("statement timeout", START_IT),
    ("timeout expired", START_IT),
    ("password authentication failed", "correct user and password in K2_CATALOG_URI"),
    ("no password supplied", "give user and password in K2_CATALOG_URI"),
    ("does not exist", "make it, or correct K2_CATALOG_URI"),
    ("Unauthorized", CREDENTIAL),
    ("invalid_client", CREDENTIAL),
    ("Forbidden", CREDENTIAL),
    ("404 Client Error", "correct K2_WAREHOUSE, or the address of the catalog"),
    ("NO_SUCH_BUCKET", "correct K2_WAREHOUSE"),
    ("SIGNATURE_DOES_NOT_MATCH", S3_KEY),
    ("INVALID_ACCESS_KEY_ID", S3_KEY),
    ("INVALID_CLIENT_TOKEN_ID", S3_KEY),
    ("ACCESS_DENIED", S3_KEY),
    ("Unable to load lib", "install it"),
)
QUOTED_PATH: Final = re.compile(r"['\"]([^'\"]*/[^'\"]*)['\"]")


def with_remedy(reason: str, *, otherwise: str = "try again") -> str:
    """Return a reason, and what to do about it."""
    remedies = (remedy for text, remedy in REMEDIES if text in reason)
    return f"{reason}: {next(remedies, otherwise)}"


def os_reason(exc: OSError) -> str:
    """Return why the system refused, with the path: libraries have either in their own words."""
    if not exc.errno:
        return reason_of(exc)
    quoted = QUOTED_PATH.search(str(exc))
    path = exc.filename or (quoted[1] if quoted else None)
    reason = os.strerror(exc.errno)
    return reason if path is None else f"{path}: {reason}"


@contextmanager
def file_errors(part: str) -> Iterator[None]:
    """Raise what the system refuses as an error of ours.

    Raises:
        ConfigError: names the part, the path, the reason and a remedy.
    """
    try:
        yield
    except OSError as exc:
        reason = os_reason(exc)
        path, _, rest = reason.rpartition(": ")
        if part.endswith(path):
            reason = rest
        raise ConfigError(f"{part}: {with_remedy(reason)}") from exc

"""Addresses as messages show them: no user, no password, no token, and all else as it was."""

import pytest

from k2lib.addresses import has_user, is_http_url, lower_scheme, redact, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:8081/path", "http://host:8081/path"),
        ("http://user:hunter2@host:8081/path", "http://host:8081/path"),
        ("http://hunter2@host", "http://host"),
        ("redis://:hunter2@host/0", "redis://host/0"),
        ("http://user:hun/ter2@host/path", "http://host/path"),
        ("http://u:hunter2@a:1,http://u:hunter2@b:2", "http://a:1,http://b:2"),
        ("GET http://host/a?token=hunter2 failed", "GET http://host/a failed"),
        ("'http://host/a?token=hunter2'", "'http://host/a'"),
        ("postgresql+psycopg://user:hunter2@host/k2", "postgresql+psycopg://host/k2"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("file:///data/ok?/warehouse", "file:///data/ok?/warehouse"),
        ("file:///data/a@b/warehouse", "file:///data/a@b/warehouse"),
        ("127.0.0.1:9092", "127.0.0.1:9092"),
        ("no address at all: a@b", "no address at all: a@b"),
    ],
)
def test_users_and_queries_are_left_out(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_secrets_that_are_known_are_left_out_too() -> None:
    assert redact("password authentication failed: hunter2", secrets=["hunter2", ""]) == (
        "password authentication failed: …"
    )


def test_a_path_with_an_at_sign_has_no_user() -> None:
    assert has_user("s3://key:hunter2@bucket/lake")
    assert not has_user("s3://bucket/a@b")


@pytest.mark.parametrize(
    ("url", "lower"),
    [
        ("HTTPS://Host/Path", "https://Host/Path"),
        ("WSS://A:1, Ws://B", "wss://A:1, ws://B"),
        ("s3://bucket/HTTP://x", "s3://bucket/HTTP://x"),
        ("/a/folder", "/a/folder"),
    ],
)
def test_only_the_scheme_is_in_lower_case(url: str, lower: str) -> None:
    assert lower_scheme(url) == lower


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("http://host", True),
        ("https://[::1]:8181/path", True),
        ("http://user:secret@host:1", True),
        ("http://", False),
        ("http://[::1", False),
        ("http://host:0", False),
        ("http://host:99999", False),
        ("host:80", False),
        ("ftp://host", False),
    ],
)
def test_an_address_of_http_has_a_host_and_perhaps_a_port(url: str, is_one: bool) -> None:
    assert is_http_url(url) is is_one


def test_a_cause_that_shows_a_secret_is_no_cause() -> None:
    plain = OSError("refused")
    telling = ValueError("no http://user:hunter2@host")
    wrapped = RuntimeError("failed")
    wrapped.__cause__ = telling
    assert without_secrets(plain) is plain
    assert without_secrets(telling) is None
    assert without_secrets(wrapped) is None

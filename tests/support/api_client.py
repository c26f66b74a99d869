"""The HTTP API as tests ask it: in this process, with everything that stands before it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from starlette.testclient import TestClient

from k2lib import K2
from k2lib.api.app import create_app
from k2lib.api.options import ApiOptions

LIMITLESS = {"rate_per_s": 1e9, "burst": 10**9}


@contextmanager
def api_of(k2: K2, **changed: Any) -> Iterator[TestClient]:
    """Open the API of a home, with options other than the default ones."""
    app = create_app(k2, options=ApiOptions(**{**LIMITLESS, **changed}))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        yield client


def asked(client: TestClient, path: str, **params: Any) -> dict[str, Any]:
    """Return what a GET answers in JSON."""
    return _json(client.get(path, params=params))


def posted(client: TestClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a POST answers in JSON."""
    return _json(client.post(path, json=dict(body)))


def problem_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    """Return the problem document of an answer, after checking what all of them have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = response.json()
    assert told["status"] == status
    assert told["type"] == "about:blank"
    assert told["title"]
    assert told["detail"]
    assert told["instance"] == response.headers["x-request-id"]
    return told


def _json(response: httpx2.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    told: dict[str, Any] = response.json()
    return told

"""The command that serves the HTTP API."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from k2lib.cli.shared import AsJson, open_home
from k2lib.errors import K2Error

if TYPE_CHECKING:
    from k2lib.api.options import ApiOptions
    from k2lib.settings import Settings


def api(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; K2_API_HOST else, 127.0.0.1 first.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="K2_API_PORT else, 8000 first; 0: a free one."),
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option("--new-key", metavar="NAME", help="Make a key and its entry, and end."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log no requests.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the HTTP API until Ctrl-C; a JSON line on standard error for every request."""
    if new_key is not None:
        _print_new_key(new_key, as_json=as_json)
        return
    from k2lib.api.server import ApiServer

    with (
        contextlib.suppress(KeyboardInterrupt),
        open_home() as k2,
        _logging_requests(not quiet),
    ):
        options = api_options(k2.settings)
        with ApiServer(
            k2,
            host=k2.settings.api_host if host is None else host,
            port=k2.settings.api_port if port is None else port,
            options=options,
        ) as server:
            _print_url(server.url, options, as_json=as_json)
            server.wait()
            raise K2Error(f"the server at {server.url} ended by itself: the log above says why")


def api_options(settings: "Settings") -> "ApiOptions":
    """Return the options of the API from the settings.

    Raises:
        ConfigError: K2_API_KEYS does not have names and hashes.
    """
    from k2lib.api.options import ApiOptions
    from k2lib.api.security import parse_keys

    keys = settings.api_keys
    origins = (settings.api_cors_origins or "").split(",")
    others = [one.name for one in fields(ApiOptions) if one.name not in ("keys", "cors_origins")]
    return ApiOptions(
        keys=() if keys is None else parse_keys(keys.get_secret_value()),
        cors_origins=tuple(origin.strip() for origin in origins if origin.strip()),
        **{name: getattr(settings, f"api_{name}") for name in others},
    )


def _print_url(url: str, options: "ApiOptions", *, as_json: bool) -> None:
    names = [key.name for key in options.keys]
    if as_json:
        typer.echo(json.dumps({"url": url, "openapi": f"{url}/openapi.json", "keys": names}))
        return
    who = f"keys of {', '.join(names)}" if names else "this machine only, without keys"
    typer.echo(f"serving {url} ({who}); {url}/openapi.json says what can be asked; Ctrl-C ends it")


def _print_new_key(name: str, *, as_json: bool) -> None:
    from k2lib.api.security import new_key

    key, entry = new_key(name)
    if as_json:
        typer.echo(json.dumps({"name": name, "key": key, "entry": entry}))
        return
    typer.echo(f"key, shown this once: {key}")
    typer.echo(f"set for the server:   K2_API_KEYS={entry}")


@contextlib.contextmanager
def _logging_requests(enabled: bool) -> Iterator[None]:
    log, handler = logging.getLogger("k2lib.api"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if enabled else logging.WARNING)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)

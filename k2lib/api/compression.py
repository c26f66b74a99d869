"""Compression of answers, as the Accept-Encoding header weighs it (RFC 9110, 12.5.3)."""

from typing import Final, Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipResponder, IdentityResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.http import parse_accept_header

from k2lib.api.problems import problem
from k2lib.api.responses.formats import MAX_ACCEPT, MAX_SHOWN

Encoding = Literal["gzip", "gzip only", "identity"]
FASTEST_GZIP: Final = 1
# Smaller answers are sent as they are, unless the client takes no such answer.
MIN_BYTES: Final = 500


def choose_encoding(accept: str | None) -> Encoding | None:
    """Return the encoding to answer in; None where neither gzip nor identity is acceptable.

    Args:
        accept: the header; invalid parts of it are ignored.
    """
    if accept is None:
        return "identity"
    weights = parse_accept_header(accept[:MAX_ACCEPT].lower().replace("x-gzip", "gzip"))
    gzip = weights.quality("gzip")
    takes_identity = weights.find("identity") < 0 or weights.quality("identity") > 0
    if not takes_identity:
        return "gzip only" if gzip > 0 else None
    return "gzip" if gzip > 0 and gzip >= weights.quality("identity") else "identity"


class CompressionMiddleware:
    """Compresses answers where the client takes gzip.

    Starlette's own middleware takes `gzip;q=0` for a wish.
    """

    def __init__(self, app: ASGIApp, *, exclude_content_types: tuple[str, ...]) -> None:
        self._app = app
        self._exclude_content_types = exclude_content_types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accept = ", ".join(Headers(scope=scope).getlist("accept-encoding")) or None
        encoding = choose_encoding(accept)
        if encoding is None:
            detail = f"Accept-Encoding: {(accept or '')[:MAX_SHOWN]}: there is gzip and identity"
            await problem(406, detail)(scope, receive, send)
            return
        await self._responder(encoding)(scope, receive, _with_vary(send))

    def _responder(self, encoding: Encoding) -> ASGIApp:
        match encoding:
            case "gzip":
                return GZipResponder(
                    self._app,
                    MIN_BYTES,
                    FASTEST_GZIP,
                    exclude_content_types=self._exclude_content_types,
                )
            case "gzip only":
                return GZipResponder(self._app, 1, FASTEST_GZIP, exclude_content_types=())
            case "identity":
                return IdentityResponder(self._app, MIN_BYTES)


def _with_vary(send: Send) -> Send:
    async def send_with_vary(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if "accept-encoding" not in headers.get("vary", "").lower():
                headers.add_vary_header("Accept-Encoding")
        await send(message)

    return send_with_vary

"""The control messages of a stream connection: what each one changes and what it is answered."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from k2lib.exchange.frames import KINDS

Json = dict[str, Any]
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_ID = re.compile(r"[A-Za-z0-9_-]{0,36}")
_INT64 = range(-(2**63), 2**63)


@dataclass
class Subscriptions:
    """What a connection listens to; `known` has the streams that exist, by symbol."""

    symbols: frozenset[str]
    limit: int
    combined: bool
    names: dict[str, None] = field(default_factory=dict)
    known: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, names: Iterable[str]) -> None:
        """Listen to these too.

        Raises:
            _Refused: that would be more streams than a connection may have.
        """
        wanted = {**self.names, **dict.fromkeys(names)}
        if len(wanted) > self.limit:
            raise _Refused(2, f"Invalid request: too many streams, at most {self.limit}")
        self.names = wanted
        self._resolve()

    def remove(self, names: Iterable[str]) -> None:
        """Listen to these no more."""
        gone = set(names)
        self.names = {name: None for name in self.names if name not in gone}
        self._resolve()

    def _resolve(self) -> None:
        self.known = {}
        for name in self.names:
            symbol, _, kind = name.partition("@")
            if symbol.islower() and symbol.upper() in self.symbols and kind in KINDS:
                self.known.setdefault(symbol.upper(), []).append((name, kind))


class _Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, code: int, message: str, *, with_id: bool = False) -> None:
        super().__init__(message)
        self.body = {"code": code, "msg": message}
        self.with_id = with_id


def answer(text: str, subscriptions: Subscriptions) -> Json:
    """Do what a control message asks, and return the reply."""
    request: Any = None
    try:
        request = _parsed(text)
        method = _method(request, text)
        return {"result": _DO[method](subscriptions, request, text), "id": request.get("id")}
    except _Refused as refused:
        known_id = {"id": request.get("id")} if refused.with_id else {}
        return {**refused.body, **known_id}


def too_many(names: list[str], subscriptions: Subscriptions) -> bool:
    """Tell whether a connection cannot be opened with so many streams; otherwise add them."""
    try:
        subscriptions.add(names)
    except _Refused:
        return True
    return False


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno} column {exc.colno}"
        raise _Refused(3, f"Invalid JSON: expected value at {place}") from None
    except RecursionError:
        raise _Refused(3, "Invalid JSON: recursion limit exceeded at line 1 column 128") from None


def _method(request: Any, text: str) -> str:
    end = _end(text)
    if not isinstance(request, dict):
        raise _Refused(2, f"Invalid request: invalid type, expected a request object {end}")
    if not _is_id(request.get("id")):
        raise _Refused(2, "Invalid request: request ID must be an unsigned integer")
    if "method" not in request:
        raise _Refused(2, f"Invalid request: missing field `method` {end}")
    if request["method"] not in _METHODS:
        named = ", ".join(f"`{name}`" for name in _METHODS)
        variant = f"unknown variant `{request['method']}`, expected one of {named}"
        raise _Refused(2, f"Invalid request: {variant} {end}")
    return str(request["method"])


def _end(text: str) -> str:
    lines = text.splitlines() or [""]
    return f"at line {len(lines)} column {len(lines[-1])}"


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return _ID.fullmatch(value) is not None
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, int) and value in _INT64)


def _params(request: Json, text: str) -> list[Any]:
    if "params" not in request:
        raise _Refused(2, f"Invalid request: missing field `params` {_end(text)}")
    params = request["params"]
    if not isinstance(params, list):
        raise _Refused(2, f"Invalid request: invalid type, expected a sequence {_end(text)}")
    return params


def _streams(request: Json, text: str) -> list[str]:
    params = _params(request, text)
    if not all(isinstance(name, str) for name in params):
        raise _Refused(2, f"Invalid request: invalid type, expected a string {_end(text)}")
    return params


def _property(request: Json, text: str, *, values: int) -> list[Any]:
    params = _params(request, text)
    if len(params) > 1 + values:
        raise _Refused(2, "Invalid request: too many parameters")
    if len(params) < 1 + values:
        raise _Refused(2, "Invalid request: too few parameters")
    if not isinstance(params[0], str):
        raise _Refused(2, "Invalid request: property name must be a string")
    if params[0] != "combined":
        raise _Refused(0, "Unknown property", with_id=True)
    return params


def _subscribe(subscriptions: Subscriptions, request: Json, text: str) -> None:
    subscriptions.add(_streams(request, text))


def _unsubscribe(subscriptions: Subscriptions, request: Json, text: str) -> None:
    subscriptions.remove(_streams(request, text))


def _list(subscriptions: Subscriptions, _request: Json, _text: str) -> list[str]:
    return list(subscriptions.names)


def _set(subscriptions: Subscriptions, request: Json, text: str) -> None:
    value = _property(request, text, values=1)[1]
    if not isinstance(value, bool):
        raise _Refused(1, "Invalid value type: expected Boolean")
    subscriptions.combined = value


def _get(subscriptions: Subscriptions, request: Json, text: str) -> bool:
    _property(request, text, values=0)
    return subscriptions.combined


_DO: dict[str, Callable[[Subscriptions, Json, str], object]] = {
    "SUBSCRIBE": _subscribe,
    "UNSUBSCRIBE": _unsubscribe,
    "LIST_SUBSCRIPTIONS": _list,
    "SET_PROPERTY": _set,
    "GET_PROPERTY": _get,
}

"""GET /health, /ready and /metrics: whether the server lives, can read, and how it is used."""

from typing import Any, Final, Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from k2lib.api.metrics import ApiMetrics
from k2lib.api.problems import problem
from k2lib.client import K2
from k2lib.errors import K2Error, TransientError, reason_of
from k2lib.iceberg.tables import load_table
from k2lib.kafka.cluster import is_reachable

RETRY_S: Final = 5
CHECKED_TABLES: Final = ("trades_v2", "quotes_v2")
METRICS: Final = {
    "description": "Metrics in Prometheus' text format.",
    "content": {"text/plain": {"example": "k2_api_in_flight 1.0\n"}},
}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "No key, or one that is not known."},
    403: {"description": "This client, or the web page that sends the request, has no access."},
    406: {"description": "Neither gzip nor an answer as it is is acceptable."},
    414: {"description": "The URL is too long."},
    421: {"description": "Without keys only loopback names are answered."},
    429: {"description": "Too many requests: wait as Retry-After says."},
}


class Alive(BaseModel):
    """The server lives."""

    status: Literal["alive"]


class LogState(BaseModel):
    """Whether Kafka answers; without it answers are of the lake alone, and say so."""

    answers: bool = Field(examples=[True])
    reason: str | None = None


class Ready(BaseModel):
    """The lake can be read: the tables that have been written, and whether Kafka is there."""

    status: Literal["ready"]
    tables: list[str] = Field(examples=[["trades_v2", "quotes_v2"]])
    log: LogState


def health_router(k2: K2, metrics: ApiMetrics) -> APIRouter:
    """Return the three routes."""
    router = APIRouter(tags=["health"], responses=PROBLEMS)

    @router.get("/health")
    async def health() -> Alive:
        """Say that the server lives; needs no key."""
        return Alive(status="alive")

    @router.get(
        "/ready", response_model=Ready, responses={503: {"description": "The lake cannot be read."}}
    )
    async def ready() -> Response:
        """Say whether the lake can be read, and whether Kafka is there."""
        return await run_in_threadpool(readiness, k2)

    @router.get(
        "/metrics", name="metrics", response_class=PlainTextResponse, responses={200: METRICS}
    )
    async def scraped() -> Response:
        """Return what was counted, for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def readiness(k2: K2) -> Response:
    """Return whether the lake can be read; without Kafka only the lake is served."""
    try:
        tables = [name for name in CHECKED_TABLES if load_table(k2.catalog, name) is not None]
    except K2Error as exc:
        detail = f"the lake cannot be read: {reason_of(exc)}"
        return problem(503, detail, title="Not ready", headers={"Retry-After": str(RETRY_S)})
    ready = Ready(status="ready", tables=tables, log=log_state(k2))
    return Response(ready.model_dump_json(), media_type="application/json")


def log_state(k2: K2) -> LogState:
    """Return whether Kafka answers, and why not."""
    try:
        bootstrap = k2.find_log().cluster.bootstrap
    except TransientError as exc:
        return LogState(answers=False, reason=reason_of(exc))
    if not is_reachable(bootstrap):
        return LogState(answers=False, reason=f"Kafka at {bootstrap} does not answer")
    return LogState(answers=True)

"""The HTTP application: routes, middleware, and a guarded query engine of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import BoundedSemaphore
from typing import Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from k2lib.api.compression import CompressionMiddleware
from k2lib.api.context import AppContext
from k2lib.api.middleware import add_middleware
from k2lib.api.options import ApiOptions
from k2lib.api.problems import add_problem_handlers
from k2lib.api.responses.formats import BINARY_TYPES
from k2lib.api.responses.openapi import DESCRIPTION, describe
from k2lib.api.routes import reads, replay
from k2lib.api.routes.docs import add_docs
from k2lib.client import K2
from k2lib.iceberg.duckdb_files import SCHEMES
from k2lib.iceberg.manifests import duckdb_path
from k2lib.query.engine import Engine
from k2lib.query.guard import Guard

VERSION: Final = "1"


def create_app(k2: K2, *, options: ApiOptions | None = None) -> FastAPI:
    """Return the application that serves a home.

    It has its own engine, limited to the warehouse's files and to the time and memory of the
    options; it ends with the application's lifespan.
    """
    options = ApiOptions() if options is None else options
    engine = Engine(k2.catalog, find_log=k2.find_log, guard=_guard(k2, options))
    app = FastAPI(
        title="K2",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=_lifespan(engine),
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        # FastAPI's own pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = AppContext(k2, engine, options, BoundedSemaphore(options.replays))
    app.include_router(reads.router)
    app.include_router(replay.router)
    add_docs(app)
    add_problem_handlers(app)
    app.add_middleware(
        CompressionMiddleware,
        exclude_content_types=(*BINARY_TYPES, replay.NDJSON),
    )
    add_middleware(app, k2=k2, options=options, engine=engine)
    describe(app, options)
    return app


def _guard(k2: K2, options: ApiOptions) -> Guard:
    warehouse = duckdb_path(k2.catalog.properties["warehouse"])
    # In object stores DuckDB sees no files but those of tables, wherever a catalog puts them.
    stores = tuple(f"{scheme}://" for scheme in SCHEMES)
    folders = (warehouse, *stores) if warehouse.startswith("/") else stores
    return Guard(options.timeout_s, options.memory_bytes, folders)


def _lifespan(engine: Engine) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await run_in_threadpool(engine.close)

    return lifespan

"""Parts of an installation, each broken in one way, with what a command has to say of it."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import rmtree
from threading import Thread
from typing import Final

from confluent_kafka import Producer
from support.ports import refusing_port, silent_port

SECRET: Final = "hunter2"
Variables = Mapping[str, str]
Break = Callable[[Path], AbstractContextManager[Variables]]

# Seconds to wait for a part that is there and never answers.
SHORT: Final = {"K2_TIMEOUT_S": "0.3"}

LOADS: Final = frozenset({"load asx", "load binance-archive"})
WRITES: Final = LOADS | {"stream binance"}
LETTERS: Final = frozenset({"dead-letters list", "dead-letters show", "dead-letters retry"})
READS: Final = frozenset({"sql", "maintain", "status", "audit", "backup"})
OPENS: Final = WRITES | LETTERS | {"sql", "maintain", "audit", "api", "sink", "backup"}
OF_HOME: Final = OPENS | {"status", "watch", "logs", "down", "reset", "up"}


@dataclass(frozen=True)
class BrokenPart:
    """A part that is broken.

    Attributes:
        breaks: breaks it in a home, and yields the settings under which a command meets it.
        stops: the commands that it keeps from their work; the others end with 0.
        spares: whether to run those others too.
        says: texts that their last line has; `{home}` and the settings by name stand for theirs.
    """

    name: str
    breaks: Break
    stops: frozenset[str]
    says: tuple[str, ...]
    spares: bool = False


def set_to(**variables: str) -> Break:
    """Break by settings alone; `{home}` stands for the home."""

    @contextmanager
    def breaks(home: Path) -> Iterator[Variables]:
        yield {name: value.format(home=home) for name, value in variables.items()}

    return breaks


def changed(pattern: str, change: Callable[[Path], object]) -> Break:
    """Change the newest file of the home that the pattern names."""

    @contextmanager
    def breaks(home: Path) -> Iterator[Variables]:
        newest = max(home.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))
        change(newest)
        yield {"file": str(newest)}

    return breaks


def garble(path: Path) -> None:
    """Overwrite a file with bytes of no format, as many as it has."""
    path.write_bytes(b"\xfe\x00garbled\xff" * (path.stat().st_size // 10 + 1))


def halve(path: Path) -> None:
    """Cut off the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Cut off all of a file."""
    path.write_bytes(b"")


def forget_tables(path: Path) -> None:
    """Delete all that a catalog says."""
    with closing(sqlite3.connect(path)) as catalog:
        catalog.execute("delete from iceberg_tables")
        catalog.commit()


@contextmanager
def locked(home: Path) -> Iterator[Variables]:
    """Let another program hold the catalog."""
    with closing(sqlite3.connect(home / "catalog.db")) as other:
        other.execute("begin exclusive")
        yield SHORT


@contextmanager
def moved(home: Path) -> Iterator[Variables]:
    """Move a home to another place."""
    there = home.with_name("moved")
    home.rename(there)
    yield {"K2_HOME": str(there)}
    rmtree(there)


@contextmanager
def moved_from_its_catalog(home: Path) -> Iterator[Variables]:
    """Move a home, but not its catalog, which settings name."""
    catalog = home.with_name("left-behind.db")
    (home / "catalog.db").rename(catalog)
    with moved(home) as variables:
        yield {"K2_CATALOG_URI": f"sqlite:///{catalog}", **variables}
    catalog.unlink()


@contextmanager
def no_home(home: Path) -> Iterator[Variables]:
    """Take the home away."""
    rmtree(home)
    yield {}


@contextmanager
def fresh(home: Path, breaks: Break) -> Iterator[Variables]:
    """Break a part before anything was ever written."""
    rmtree(home)
    with breaks(home) as variables:
        yield variables


@contextmanager
def written(home: Path, name: str, text: str, **variables: str) -> Iterator[Variables]:
    """Write a file beside the home, which settings name."""
    path = home.parent / name
    path.write_text(text)
    yield {one: value.format(path=path) for one, value in variables.items()}


@contextmanager
def refused(home: Path, **variables: str) -> Iterator[Variables]:
    """Let settings name a port at which nobody listens."""
    with refusing_port() as port:
        yield {name: value.format(port=port) for name, value in variables.items()}


@contextmanager
def silent(home: Path, **variables: str) -> Iterator[Variables]:
    """Let settings name a port that accepts and never answers."""
    with silent_port() as port:
        yield {name: value.format(port=port) for name, value in variables.items()}


class _Page(BaseHTTPRequestHandler):
    """Answers everything as a web page does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web_page(home: Path, **variables: str) -> Iterator[Variables]:
    """Let settings name a web server that knows nothing of them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_port
        yield {name: value.format(port=port) for name, value in variables.items()}
        server.shutdown()


@contextmanager
def with_kafka(home: Path, breaks: Break) -> Iterator[Variables]:
    """Break a part of an installation whose Kafka works."""
    client = Producer({"test.mock.num.brokers": 1, "log_level": 2})
    (broker,) = client.list_topics(timeout=10).brokers.values()
    with breaks(home) as variables:
        yield {"K2_KAFKA_BOOTSTRAP": f"{broker.host}:{broker.port}", **variables}


TRADES: Final = "warehouse/market_data/trades_v2"
USER: Final = f"http://user:{SECRET}@127.0.0.1:{{port}}"
REGISTRY: Final = {"K2_SCHEMA_REGISTRY_URL": USER}
KAFKA: Final = {"K2_KAFKA_BOOTSTRAP": "127.0.0.1:{port}", "K2_SCHEMA_REGISTRY_URL": "mock://one"}
CATALOG: Final = {"K2_CATALOG_URI": USER}
NO_LISTENER: Final = ("127.0.0.1:", "does not answer", "start it")
RESTORE: Final = "restore it from a copy"
FILE: Final = "{file}"
SERVICES: Final = "{home}/run/services.json"


def _manifest(name: str, pattern: str, change: Callable[[Path], object]) -> BrokenPart:
    stops = WRITES | READS if "list" in name else WRITES | READS - {"status"}
    says = ("trades_v2", FILE, RESTORE)
    return BrokenPart(name, changed(f"{TRADES}/metadata/{pattern}", change), stops, says)


def _data(
    name: str, change: Callable[[Path], object], *, writes: frozenset[str] = WRITES
) -> BrokenPart:
    """What writes notices only the files that it looks into for rows that it may have already."""
    breaks = changed(f"{TRADES}/data/**/exchange=ASX/*.parquet", change)
    return BrokenPart(name, breaks, writes | READS - {"status"}, (FILE, RESTORE))


def _catalog(name: str, change: Callable[[Path], object], *says: str) -> BrokenPart:
    stops = WRITES | READS | LETTERS | {"api"}
    return BrokenPart(name, changed("catalog.db", change), stops, ("{home}/catalog.db", *says))


@contextmanager
def _garbled_services(home: Path) -> Iterator[Variables]:
    (home / "run" / "services.json").write_text("{")
    yield {}


@contextmanager
def _garbled_broker(home: Path) -> Iterator[Variables]:
    (home / "run" / "embedded.json").write_text("{")
    yield {}


@contextmanager
def _folder_for_a_lock(home: Path) -> Iterator[Variables]:
    lock = home / "run" / "writer.lock"
    lock.unlink()
    lock.mkdir()
    yield {"lock": str(lock)}


@contextmanager
def _killed_services(home: Path) -> Iterator[Variables]:
    """Leave the note of services whose processes are gone, and let another program have a port."""
    with silent_port() as port:
        gone = {"pid": os.getpid(), "birth": "another time", "port": port}
        values = {"kafka": gone, "registry": gone, "started": "2014-03-10T00:00:00+00:00"}
        (home / "run" / "services.json").write_text(json.dumps(values))
        yield {"address": f"127.0.0.1:{port}"}


BROKEN_PARTS: Final = (
    BrokenPart(
        "no home",
        no_home,
        LETTERS | READS | {"api", "watch", "logs", "down", "reset"},
        ("{home}",),
        spares=True,
    ),
    BrokenPart(
        "a file for a home",
        partial(written, name="file", text="", K2_HOME="{path}/home"),
        OF_HOME,
        ("K2_HOME=", "file is not a folder"),
    ),
    BrokenPart(
        "a home of 300 characters",
        set_to(K2_HOME="{home}/" + "a" * 300),
        OF_HOME,
        ("K2_HOME=", "name too long"),
    ),
    _catalog("a garbled catalog", garble, "not a database", RESTORE),
    _catalog("half a catalog", halve, "malformed", RESTORE),
    _catalog("an empty catalog", empty, "is empty", RESTORE),
    _catalog("a lost catalog", Path.unlink, "is missing", RESTORE),
    _catalog("a catalog without tables", forget_tables, "is empty", RESTORE),
    BrokenPart(
        "a locked catalog",
        locked,
        WRITES | READS | LETTERS | {"api"},
        ("{home}/catalog.db", "locked", "another process"),
    ),
    BrokenPart(
        "a moved home",
        moved,
        WRITES | READS | LETTERS | {"api"},
        ("the home {K2_HOME}", "tables in {home}/warehouse", "move it back to {home}"),
    ),
    BrokenPart(
        "a home moved away from under its catalog",
        moved_from_its_catalog,
        WRITES | READS,
        ("{home}/warehouse/market_data/", "No such file", "move it back"),
    ),
    BrokenPart(
        "garbled metadata",
        changed(f"{TRADES}/metadata/*.metadata.json", garble),
        WRITES | READS,
        ("trades_v2", FILE, RESTORE),
        spares=True,
    ),
    BrokenPart(
        "lost metadata",
        changed(f"{TRADES}/metadata/*.metadata.json", Path.unlink),
        WRITES | READS,
        ("trades_v2", FILE, RESTORE),
    ),
    _manifest("a garbled manifest list", "snap-*.avro", garble),
    _manifest("a lost manifest list", "snap-*.avro", Path.unlink),
    _manifest("a garbled manifest", "*-m0.avro", garble),
    _manifest("half a manifest", "*-m0.avro", halve),
    _manifest("a lost manifest", "*-m0.avro", Path.unlink),
    _data("a garbled data file", garble),
    _data("half a data file", halve),
    _data("an empty data file", empty),
    _data("a lost data file", Path.unlink),
    BrokenPart(
        "a warehouse of no storage",
        set_to(K2_WAREHOUSE="foo://bar"),
        OPENS | {"status"},
        ("K2_WAREHOUSE=foo://bar", "s3://"),
    ),
    BrokenPart(
        "a warehouse with a password",
        set_to(K2_WAREHOUSE=f"s3://user:{SECRET}@bucket/lake"),
        OF_HOME,
        ("K2_WAREHOUSE=…", "K2_S3_SECRET_ACCESS_KEY"),
    ),
    BrokenPart(
        "a warehouse that cannot be written",
        partial(fresh, breaks=set_to(K2_WAREHOUSE="file:///dev/null/lake", **SHORT)),
        LOADS,  # a stream that has not received a trade yet has none that it cannot write
        ("the warehouse file:///dev/null/lake", "Not a directory", "name another place"),
    ),
    BrokenPart(
        "a catalog without its driver",
        set_to(K2_CATALOG_URI=f"mysql+pymysql://user:{SECRET}@127.0.0.1:9/k2"),
        OPENS | {"status"},
        ("the catalog at mysql+pymysql://127.0.0.1:9/k2", "pymysql", "install it"),
    ),
    BrokenPart(
        "a catalog of no kind",
        set_to(K2_CATALOG_URI=f"foo://user:{SECRET}@bar"),
        OPENS | {"status"},
        ("foo://bar", "K2_CATALOG_URI"),
    ),
    BrokenPart(
        "an SQLite catalog that is not there",
        partial(fresh, breaks=set_to(K2_CATALOG_URI="sqlite:///{home}/nope/x.db")),
        LETTERS | READS | {"api"},
        ("no catalog at {home}/nope/x.db", "nothing was written there", "K2_CATALOG_URI"),
    ),
    BrokenPart(
        "a catalog at which nobody listens",
        partial(refused, **CATALOG),
        OPENS | {"status"},
        ("the catalog at http://127.0.0.1:", "Connection refused", "start it"),
    ),
    BrokenPart(
        "a silent catalog",
        partial(silent, **CATALOG, **SHORT),
        OPENS | {"status"},
        ("the catalog at http://127.0.0.1:", "no answer", "start it"),
    ),
    BrokenPart(
        "a web page for a catalog",
        partial(web_page, **CATALOG),
        OPENS | {"status"},
        ("the catalog at http://127.0.0.1:", "K2_CATALOG_URI"),
    ),
    BrokenPart(
        "bad YAML",
        partial(
            written,
            name="catalog.yaml",
            text=f"uri: x\n  password: *{SECRET}\n",
            K2_CATALOG_CONFIG="{path}",
        ),
        OPENS | {"status"},
        ("K2_CATALOG_CONFIG=", "catalog.yaml, line 2", "is not YAML"),
    ),
    BrokenPart(
        "a lost catalog configuration",
        set_to(K2_CATALOG_CONFIG="{home}/none.yaml"),
        OPENS | {"status"},
        ("K2_CATALOG_CONFIG=", "none.yaml", "No such file"),
    ),
    BrokenPart(
        "a Kafka at which nobody listens",
        partial(refused, **KAFKA),
        WRITES | {"sink", "audit"},
        ("Kafka at ", *NO_LISTENER),
        spares=True,
    ),
    BrokenPart(
        "a silent Kafka",
        partial(silent, **KAFKA, **SHORT),
        WRITES | {"sink", "audit"},
        ("Kafka at ",),
    ),
    BrokenPart(
        "a Kafka with a password",
        set_to(K2_KAFKA_BOOTSTRAP=f"user:{SECRET}@127.0.0.1:9", K2_SCHEMA_REGISTRY_URL="mock://x"),
        OF_HOME,
        ("K2_KAFKA_BOOTSTRAP=…", "K2_KAFKA_SASL_USERNAME"),
    ),
    BrokenPart(
        "a Kafka configuration that is none",
        partial(written, name="kafka", text=f"sasl.password {SECRET}\n", K2_KAFKA_CONFIG="{path}"),
        OPENS,
        ("K2_KAFKA_CONFIG=", "line 1", "name=value"),
    ),
    BrokenPart(
        "an option that no Kafka has",
        partial(
            written,
            name="kafka",
            text=f"bootstrap.servers=127.0.0.1:9\nsasl.pasword={SECRET}\n",
            K2_KAFKA_CONFIG="{path}",
            K2_SCHEMA_REGISTRY_URL="mock://x",
        ),
        OPENS,
        ("127.0.0.1:9", "sasl.pasword", "K2_KAFKA_CONFIG"),
    ),
    BrokenPart(
        "a registry without an address",
        partial(with_kafka, breaks=set_to(K2_SCHEMA_REGISTRY_URL="nourl")),
        OPENS,
        ("K2_SCHEMA_REGISTRY_URL=nourl", "http://host:port"),
    ),
    BrokenPart(
        "a registry at which nobody listens",
        partial(with_kafka, breaks=partial(refused, **REGISTRY)),
        WRITES,
        ("the schema registry at http://127.0.0.1:", "does not answer", "start it"),
    ),
    BrokenPart(
        "a silent registry",
        partial(with_kafka, breaks=partial(silent, **REGISTRY)),
        WRITES,
        ("the schema registry at http://127.0.0.1:", "no answer", "start it"),
    ),
    BrokenPart(
        "a web page for a registry",
        partial(with_kafka, breaks=partial(web_page, **REGISTRY)),
        WRITES,
        ("the schema registry at http://127.0.0.1:", "K2_SCHEMA_REGISTRY_URL"),
    ),
    BrokenPart(
        "a garbled note of the services",
        _garbled_services,
        OPENS | {"status", "up", "down", "reset"},
        (SERVICES, "damaged", "delete the file"),
    ),
    BrokenPart(
        "services that were killed",
        _killed_services,
        WRITES | {"sink", "audit"},
        ("the Kafka broker of the home {home} at {address} does not answer", "`k2 up`"),
        spares=True,
    ),
    BrokenPart(
        "a folder for a lock",
        _folder_for_a_lock,
        WRITES,
        ("the lock {lock}", "Is a directory", "delete the folder"),
    ),
    BrokenPart("a garbled note of the broker", _garbled_broker, frozenset(), (), spares=True),
)

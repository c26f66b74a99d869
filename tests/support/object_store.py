"""SeaweedFS on loopback: S3 and an Iceberg REST catalog in one process."""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from pyarrow.fs import S3FileSystem
from support.redis_server import free_port
from support.waiting import wait_until

from k2lib.ops.object_store import find_weed

KEY, SECRET = "lake-key", "lake-secret-5b1f"
REGION = "us-east-1"
ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
SERVERS = ("master", "volume", "filer", "s3")


class ObjectStore:
    """A SeaweedFS with ports of its own, whose buckets are warehouses of a REST catalog each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._ports = {
            name: free_port()
            for server in SERVERS
            for name in (f"{server}.port", f"{server}.port.grpc")
        }
        self._ports["s3.port.iceberg"] = free_port()
        self.s3_url = f"http://127.0.0.1:{self._ports['s3.port']}"
        self.catalog_url = f"http://127.0.0.1:{self._ports['s3.port.iceberg']}"
        identity = {
            "name": "lake",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ACTIONS,
        }
        (folder / "data").mkdir(exist_ok=True)
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        """Start it, with what it kept, and wait until it answers."""
        options = {
            "dir": self._folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": self._folder / "s3.json",
            "s3.port.lance": 0,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 1000,
            **self._ports,
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(), "-logtostderr=true", "server", "-filer", "-s3", *arguments],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers)

    def kill(self) -> None:
        """Kill it as `kill -9` does; one that does not run stays so. A stop takes it 25 s."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def warehouse(self) -> dict[str, Any]:
        """Make a bucket of its own and return the settings of K2 for it."""
        bucket = f"lake-{next(self._numbers)}"
        master = f"127.0.0.1:{self._ports['master.port']}.{self._ports['master.port.grpc']}"
        subprocess.run(
            [_program(), "shell", f"-master={master}"],
            input=f"s3tables.bucket -create -name {bucket} -account lake\n".encode(),
            capture_output=True,
            timeout=60,
            check=True,
        )
        return {
            "catalog_uri": self.catalog_url,
            "catalog_credential": f"{KEY}:{SECRET}",
            "warehouse": f"s3://{bucket}",
            "s3_endpoint": self.s3_url,
            "s3_access_key_id": KEY,
            "s3_secret_access_key": SECRET,
            "s3_region": REGION,
        }

    def files(self) -> S3FileSystem:
        """Return a client of its files that is not K2's."""
        return S3FileSystem(
            access_key=KEY, secret_key=SECRET, region=REGION, endpoint_override=self.s3_url
        )

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "weed ended"
        try:
            catalog = httpx2.get(f"{self.catalog_url}/v1/config", timeout=60, trust_env=False)
            s3 = httpx2.get(f"{self.s3_url}/healthz", timeout=60, trust_env=False)
        except httpx2.TransportError:
            return False
        return catalog.is_success and s3.is_success


@contextmanager
def object_store_in(folder: Path) -> Iterator[ObjectStore]:
    """Start a SeaweedFS whose data are in a folder, and end it."""
    store = ObjectStore(folder)
    try:
        store.start()
        yield store
    finally:
        store.kill()


def _program() -> str:
    found = find_weed()
    assert found is not None, "weed is missing: it comes with the extra `dev`"
    return found

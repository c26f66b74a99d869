"""SeaweedFS as a service of a home: S3, and an Iceberg REST catalog of the tables in a bucket."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from k2lib.ops.jars import JavaPrograms
from k2lib.ops.processes import HOST, ChildProcess, spawn
from k2lib.ops.servers import http_answer

KEY: Final = "s3"
CATALOG_PORT: Final = "s3-catalog"
# Of its parts among themselves; what is not set would be taken from a fixed number.
INNER_PORTS: Final = {
    "s3-grpc": "s3.port.grpc",
    "s3-master": "master.port",
    "s3-master-grpc": "master.port.grpc",
    "s3-volume": "volume.port",
    "s3-volume-grpc": "volume.port.grpc",
    "s3-filer": "filer.port",
    "s3-filer-grpc": "filer.port.grpc",
}
# Usual ports; 0 takes a free one.
MORE_PORTS: Final[Mapping[str, int]] = {CATALOG_PORT: 8181, **dict.fromkeys(INNER_PORTS, 0)}
BUCKET: Final = "k2-lake"
REGION: Final = "us-east-1"
ANSWER_S: Final = 5.0
SHELL_S: Final = 20.0
ACTIONS: Final = ("Admin", "Read", "Write", "List", "Tagging")
CATALOG_FILE: Final = "catalog.yml"


def find_weed() -> str | None:
    """Return SeaweedFS' program; its wheel puts it beside Python."""
    beside = shutil.which("weed", path=str(Path(sys.executable).parent))
    return beside or shutil.which("weed")


@dataclass(frozen=True)
class ObjectStoreServer:
    """A SeaweedFS with keys of its own, which are in two files that only its owner reads.

    Attributes:
        ports: of S3, of the catalog, and of its parts among themselves, by name.
    """

    folder: Path
    ports: Mapping[str, int]
    key = KEY
    name = "object store"

    @property
    def port(self) -> int:
        """The port of S3."""
        return self.ports[KEY]

    @property
    def address(self) -> str:
        """The URL of S3."""
        return f"http://{HOST}:{self.port}"

    def start(self, programs: JavaPrograms) -> ChildProcess:
        """Start it; it is not yet ready."""
        (self.folder / "data").mkdir(exist_ok=True)
        self._write_keys()
        options = {
            "dir": "data",
            "ip": HOST,
            "ip.bind": HOST,
            "master.telemetry": "false",
            "master.volumePreallocate": "false",
            "master.volumeSizeLimitMB": 1024,
            "volume.max": 50,
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            "s3.config": "s3.json",
            "s3.port": self.port,
            "s3.port.iceberg": self.ports[CATALOG_PORT],
            "s3.port.lance": 0,
            **{option: self.ports[name] for name, option in INNER_PORTS.items()},
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        command = [find_weed() or "weed", "-logtostderr=true", "server", "-filer", "-s3"]
        return spawn([*command, *arguments], folder=self.folder)

    def answers(self) -> bool:
        """Return whether S3 and the catalog answer."""
        asked = ((self.port, "/healthz"), (self.ports[CATALOG_PORT], "/v1/config"))
        return all(http_answer(port, path, within_s=ANSWER_S)[0] == 200 for port, path in asked)

    def ready(self) -> bool:
        """Make the bucket of the tables, the first time; return False until that succeeds."""
        made = self.folder / "bucket"
        if not self.answers():
            return False
        if not made.exists() and self._make_bucket():
            made.touch()
        return made.exists()

    def _write_keys(self) -> None:
        """Make the keys once; write the catalog's options, which have ports, at each start."""
        identities = self.folder / "s3.json"
        if not identities.exists():
            credential = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
            identity = {"name": "lake", "credentials": [credential], "actions": ACTIONS}
            write_private(identities, json.dumps({"identities": [identity]}))
        (identity,) = json.loads(identities.read_text())["identities"]
        key, secret = identity["credentials"][0].values()
        options = {
            "type": "rest",
            "uri": f"http://{HOST}:{self.ports[CATALOG_PORT]}",
            "warehouse": f"s3://{BUCKET}",
            "credential": f"{key}:{secret}",
            "s3.endpoint": self.address,
            "s3.access-key-id": key,
            "s3.secret-access-key": secret,
            "s3.region": REGION,
        }
        write_private(self.folder / CATALOG_FILE, yaml.safe_dump(options))

    def _make_bucket(self) -> bool:
        """Its own S3 tables API makes it; its shell needs no signature."""
        master = f"{HOST}:{self.ports['s3-master']}.{self.ports['s3-master-grpc']}"
        command = [find_weed() or "weed", "shell", f"-master={master}"]
        lines = [
            f"s3tables.bucket -{verb} -name {BUCKET} -account lake" for verb in ("create", "get")
        ]
        try:
            done = subprocess.run(
                command,
                input="\n".join(lines),
                capture_output=True,
                text=True,
                check=False,
                timeout=SHELL_S,
                cwd=self.folder,
            )
        except subprocess.TimeoutExpired:
            return False
        return f"bucket/{BUCKET}" in done.stdout


def write_private(file: Path, text: str) -> None:
    """Write a file in one step that only its owner reads."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    part.replace(file)

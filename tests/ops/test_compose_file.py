"""`docker-compose.yml` and the documents agree, and nothing of it is open to other machines."""

import hashlib
import re
from typing import Any

import pytest
import yaml
from support.documents import OPERATIONS_DOC, rows, section
from support.paths import ROOT

from k2lib.ops.service_specs import SPECS, ServiceSpec

FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DOC = section(OPERATIONS_DOC, "With Docker")
UNITS = {"g": 1024, "m": 1}
every_service = pytest.mark.parametrize("name", SERVICES)


def defaults(text: str) -> str:
    """Return a text with the default of each variable in its place."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def megabytes(limit: str) -> int:
    return int(limit[:-1]) * UNITS[limit[-1]]


@every_service
def test_every_port_is_published_on_the_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@every_service
def test_every_service_has_a_memory_limit_a_health_check_and_is_started_again(name: str) -> None:
    service = SERVICES[name]
    is_done_once = name == "bucket"
    assert megabytes(service["mem_limit"]) > 0
    assert service["restart"] == ("no" if is_done_once else "unless-stopped")
    assert is_done_once or service["healthcheck"]["test"]


@every_service
def test_every_image_is_ours_or_has_a_tag(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or re.fullmatch(r"[\w/.-]+:v?\d[\w.-]+", service["image"])


@every_service
def test_every_volume_is_named_or_a_file_of_this_project_to_read(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists() and volume.endswith(":ro")
        else:
            assert source in FILE["volumes"]


def test_the_default_key_of_the_api_is_the_one_that_prometheus_sends() -> None:
    key = defaults(FILE["configs"]["api-key"]["content"])
    entry = defaults(SERVICES["api"]["environment"]["K2_API_KEYS"])
    assert entry.partition(":")[2] == hashlib.sha256(key.encode()).hexdigest()
    assert f"Bearer {key}" in DOC


def test_prometheus_in_a_container_has_the_intervals_and_rules_of_the_other() -> None:
    ours = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())
    other = yaml.safe_load((ROOT / "k2lib/ops/prometheus/prometheus.yml").read_text())
    for part in ("global", "rule_files"):
        assert ours[part] == other[part]
    mine, theirs = ours["scrape_configs"][0], other["scrape_configs"][0]
    assert [mine[name] for name in ("job_name", "metrics_path")] == [
        theirs[name] for name in ("job_name", "metrics_path")
    ]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_service_of_k2_up_has_the_same_ports_memory_and_order_here(spec: ServiceSpec) -> None:
    service = SERVICES[spec.name]
    metrics = service.get("environment", {}).get("K2_METRICS_PORT")
    ports = set(re.findall(r":-(\d+)\}", " ".join(service.get("ports", ()))))
    # Redis is published nowhere.
    if spec.name != "redis":
        wanted = {spec.port, *filter(None, spec.more_ports.values())}
        assert ports | ({str(metrics)} if metrics else set()) == set(map(str, wanted))
    assert megabytes(service["mem_limit"]) == spec.memory_mb
    assert set(spec.after) <= service.get("depends_on", {}).keys()


def test_the_document_has_every_service_with_its_port_volumes_and_memory() -> None:
    told = {}
    for name, ports, variables, volumes, memory, _ in rows(DOC)[: len(SERVICES) - 1]:
        amount, unit = memory.split()
        told[name.strip("`")] = (
            set(re.findall(r"\d+", ports)),
            set(re.findall(r"`(\w+)`", variables)),
            set(re.findall(r"`(\w+)`", volumes)),
            float(amount) * (1024 if unit == "GiB" else 1),
        )
    has = {}
    for name, service in SERVICES.items():
        published = " ".join(service.get("ports", ()))
        mounted = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        has[name] = (
            set(re.findall(r":-(\d+)\}", published)),
            set(re.findall(r"\$\{(\w+):-\d", published)),
            mounted & FILE["volumes"].keys(),
            float(megabytes(service["mem_limit"])),
        )
    has.pop("bucket")
    assert told == has

"""Prometheus' configuration and rules, by Prometheus' own tools."""

import subprocess
from pathlib import Path

import pytest
import yaml
from support.documents import OPERATIONS_DOC, rows, section
from support.promtool import promtool

from k2lib.ops.alerts import ALERT_NAMES
from k2lib.ops.prometheus.config import SOURCE, write_config, write_targets

UNIT_TESTS = Path(__file__).with_name("rules") / "alerts_test.yml"
GROUPS = {
    group["name"]: {rule["alert"]: rule for rule in group["rules"]}
    for group in yaml.safe_load((SOURCE / "alerts.yml").read_text(encoding="utf-8"))["groups"]
}
RULES = GROUPS["k2_own"] | GROUPS["k2_outside"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the configuration of a home."""
    write_config(
        tmp_path,
        targets={"stream": "127.0.0.1:9464", "api": "127.0.0.1:8000"},
        alertmanager="127.0.0.1:9093",
        webhook_url="http://127.0.0.1:9/hook",
    )
    return tmp_path


@pytest.mark.stack
def test_promtool_and_amtool_accept_the_configuration(folder: Path) -> None:
    said = promtool("check", "config", "prometheus.yml", folder=folder)
    assert "WARNING" not in said and "2 rule files found" in said
    subprocess.run(["amtool", "check-config", folder / "alertmanager.yml"], check=True)
    subprocess.run(["amtool", "check-config", SOURCE / "alertmanager.yml"], check=True)


@pytest.mark.stack
def test_promtool_accepts_the_rules(folder: Path) -> None:
    said = promtool("check", "rules", "recording.yml", "alerts.yml", folder=folder)
    assert said.count("SUCCESS") == 2 and "duplicate" not in said


def test_each_of_k2s_own_alerts_has_a_rule_of_its_name_that_takes_its_word() -> None:
    rules = GROUPS["k2_own"]
    assert tuple(rules) == ALERT_NAMES
    assert {name: rule["expr"] for name, rule in rules.items()} == {
        name: f'k2_alerts_firing{{alert="{name}"}} > 0' for name in ALERT_NAMES
    }
    assert not any("for" in rule for rule in rules.values())
    assert not set(GROUPS["k2_outside"]) & set(ALERT_NAMES)


def test_each_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do() -> None:
    for rule in RULES.values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert all(rule["annotations"][part].endswith(".") for part in ("summary", "action"))


@pytest.mark.stack
def test_alerts_fire_and_are_resolved_when_their_rules_say(tmp_path: Path) -> None:
    for name in ("alerts.yml", "recording.yml"):
        (tmp_path / name).write_text((SOURCE / name).read_text())
    (tmp_path / "test.yml").write_text(UNIT_TESTS.read_text())
    assert "SUCCESS" in promtool("test", "rules", "test.yml", folder=tmp_path)
    tested = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    names = {one["alertname"] for test in tested for one in test["alert_rule_test"]}
    assert names == RULES.keys()


def test_targets_that_are_gone_are_scraped_no_more(folder: Path) -> None:
    write_targets(folder / "targets", {"api": "127.0.0.1:8001"})
    assert [file.name for file in (folder / "targets").iterdir()] == ["api.json"]
    (found,) = yaml.safe_load((folder / "targets" / "api.json").read_text())
    assert found == {"targets": ["127.0.0.1:8001"], "labels": {"service": "api"}}


def test_the_address_of_the_receiver_is_read_by_nobody_else(folder: Path) -> None:
    assert (folder / "alertmanager.yml").stat().st_mode & 0o077 == 0


def test_the_document_says_of_each_alert_what_its_rule_says() -> None:
    text = section(OPERATIONS_DOC, "Alerts")
    assert rows(text)[-len(RULES) :] == [
        [
            f"`{name}`",
            rule["labels"]["severity"],
            rule["annotations"]["summary"],
            rule["annotations"]["action"],
        ]
        for name, rule in RULES.items()
    ]

"""Settings: explicit values, then the environment, then defaults; anything else is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from k2lib.errors import ConfigError
from k2lib.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def env(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Begin without any setting of whoever runs the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"K2_{name.upper()}", raising=False)
    yield monkeypatch


def test_defaults_are_those_of_one_machine() -> None:
    settings = read_settings()
    assert settings.home == Path(".k2")
    assert (settings.commit_interval_s, settings.commit_rows) == (2.0, 400_000)
    assert settings.kafka_bootstrap is None
    assert settings.catalog_uri is None


def test_the_environment_sets_by_name(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_HOME", "elsewhere")
    env.setenv("K2_COMMIT_ROWS", "7")
    settings = read_settings()
    assert (settings.home, settings.commit_rows) == (Path("elsewhere"), 7)


def test_an_explicit_value_comes_before_the_environment(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_HOME", "elsewhere")
    env.setenv("K2_COMMIT_ROWS", "7")
    settings = read_settings({"home": "here"})
    assert (settings.home, settings.commit_rows) == (Path("here"), 7)


def test_an_empty_variable_is_not_set(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_HOME", "")
    env.setenv("K2_COMMIT_ROWS", "")
    assert read_settings() == Settings()


def test_an_unknown_variable_is_refused_with_the_known_ones(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_KAFKA_BOOTSTRAPS", "x")
    with pytest.raises(
        ConfigError, match=r"unknown setting K2_KAFKA_BOOTSTRAPS; known are K2_HOME,"
    ):
        read_settings()


def test_an_unknown_explicit_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown setting homes; known are home, kafka_bootstrap"
    ):
        read_settings({"homes": "x"})


def test_every_setting_is_named_when_one_is_unknown(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_X", "x")
    with pytest.raises(ConfigError) as caught:
        read_settings()
    known = str(caught.value).split("known are ")[1].split(", ")
    assert known == [f"K2_{name.upper()}" for name in Settings.model_fields]


@pytest.mark.parametrize(
    "name", ["K2_PORT", "K2_PORT_8080_TCP", "K2_SERVICE_HOST", "K2_SERVICE_PORT"]
)
def test_what_kubernetes_injects_passes(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv(name, "tcp://127.0.0.1:8080")
    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("commit_rows", "many", "unable to parse string as an integer"),
        ("commit_rows", "0", "greater than 0"),
        ("commit_interval_s", "-1", "greater than 0"),
        ("commit_interval_s", "inf", "finite"),
        ("kafka_port", "65536", "less than 65536"),
        ("home", "/dev/null/home", "/dev/null is not a folder"),
    ],
)
def test_a_value_that_does_not_fit_is_named(
    env: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    env.setenv(f"K2_{name.upper()}", value)
    with pytest.raises(ConfigError, match=rf"^K2_{name.upper()}='{value}': .*{told}"):
        read_settings()


def test_all_values_that_do_not_fit_are_named_at_once(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_COMMIT_ROWS", "many")
    env.setenv("K2_KAFKA_PORT", "none")
    with pytest.raises(ConfigError, match=r"K2_COMMIT_ROWS='many'.*; K2_KAFKA_PORT='none'"):
        read_settings()


def test_schemes_are_in_lower_case_whatever_the_setting(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_CATALOG_URI", "HTTPS://Host/Path")
    env.setenv("K2_REDIS_URL", "REDIS://host")
    settings = read_settings()
    assert settings.catalog_uri == "https://Host/Path"
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://host"


def test_a_tilde_is_the_folder_of_a_user(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("HOME", str(tmp_path))
    settings = read_settings({"home": "~/k2", "kafka_config": "~/kafka"})
    assert (settings.home, settings.kafka_config) == (tmp_path / "k2", tmp_path / "kafka")
    with pytest.raises(ConfigError, match=r"^K2_HOME='~nobody-of-this-name': there is no such"):
        read_settings({"home": "~nobody-of-this-name"})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().commit_rows = 1  # type: ignore[misc]


def test_secrets_are_not_shown(env: pytest.MonkeyPatch) -> None:
    env.setenv("K2_S3_SECRET_ACCESS_KEY", "hunter2")
    settings = read_settings()
    assert settings.s3_secret_access_key is not None
    assert settings.s3_secret_access_key.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{settings!r} {settings}"

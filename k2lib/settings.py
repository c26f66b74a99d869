"""The settings of one run: read once at the edge, passed on as an argument from there."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from k2lib.errors import ConfigError

PREFIX = "K2_"
KUBERNETES_PREFIXES = ("K2_PORT", "K2_SERVICE_")


class Settings(BaseSettings):
    """Everything that can be set, with defaults for one machine; `K2_<NAME>` sets `<name>`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Path(".k2")
    kafka_bootstrap: str | None = None
    kafka_config: Path | None = None
    schema_registry_url: str | None = None
    catalog_uri: str | None = None
    catalog_config: Path | None = None
    warehouse: str | None = None
    s3_endpoint: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_region: str | None = None
    commit_interval_s: float = Field(default=2.0, gt=0)
    commit_rows: int = Field(default=400_000, gt=0)
    kafka_port: int = Field(default=19092, gt=0, lt=65536)
    registry_port: int = Field(default=18081, gt=0, lt=65536)


def read_settings(explicit: Mapping[str, object] | None = None) -> Settings:
    """Read the settings: explicit values first, then `K2_*` of the environment, then the defaults.

    Raises:
        ConfigError: an unknown `K2_*` name, or a value that does not fit; the message names it.
    """
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    unknown = sorted(name for name in os.environ if _is_ours(name) and name not in known)
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
    try:
        return Settings.model_validate(dict(explicit or {}))
    except ValidationError as exc:
        raise ConfigError(_told(exc)) from exc


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and not name.startswith(KUBERNETES_PREFIXES)


def _told(exc: ValidationError) -> str:
    return "; ".join(
        f"{PREFIX}{str(error['loc'][0]).upper()}={error.get('input')!r}: {error['msg']}"
        for error in exc.errors()
    )

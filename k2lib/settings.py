"""Settings: read once by the CLI or `K2.open()`, and passed on as one argument."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from k2lib.addresses import has_user, is_http_url, lower_scheme, redact
from k2lib.errors import ConfigError

PREFIX = "K2_"
KUBERNETES_PREFIXES = ("K2_PORT", "K2_SERVICE_")
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
AWS_VARIABLES = {
    "s3_endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "s3_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
HAS_USER = "holds a user or a password"
WHERE_USERS_GO = {
    "kafka_bootstrap": "give K2_KAFKA_SASL_USERNAME and K2_KAFKA_SASL_PASSWORD",
    "warehouse": "give K2_S3_ACCESS_KEY_ID and K2_S3_SECRET_ACCESS_KEY",
    "s3_endpoint": "give K2_S3_ACCESS_KEY_ID and K2_S3_SECRET_ACCESS_KEY",
    "binance_ws_urls": "market data needs none",
    "binance_rest_urls": "market data needs none",
}


class Settings(BaseSettings):
    """All settings, with defaults for one machine; `K2_<NAME>` sets `<name>`.

    An empty variable counts as not set, as compose files pass it on.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    home: Path = Path(".k2")
    kafka_bootstrap: str | None = None
    kafka_config: Path | None = None
    kafka_security_protocol: SecurityProtocol | None = None
    kafka_sasl_mechanism: SaslMechanism | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca: Path | None = None
    kafka_ssl_certificate: Path | None = None
    kafka_ssl_key: Path | None = None
    kafka_ssl_key_password: SecretStr | None = None
    schema_registry_url: str | None = None
    schema_registry_config: Path | None = None
    schema_registry_user: str | None = None
    schema_registry_password: SecretStr | None = None
    schema_registry_token: SecretStr | None = None
    schema_registry_ca: Path | None = None
    catalog_uri: str | None = None
    catalog_config: Path | None = None
    catalog_credential: SecretStr | None = None
    catalog_token: SecretStr | None = None
    warehouse: str | None = None
    s3_endpoint: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_session_token: SecretStr | None = None
    s3_region: str | None = None
    timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    commit_interval_s: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    commit_rows: int = Field(default=400_000, gt=0)
    orphan_file_days: float = Field(default=3.0, ge=0, le=36_500)
    kafka_port: int = Field(default=19092, gt=0, lt=65536)
    registry_port: int = Field(default=18081, gt=0, lt=65536)
    redis_url: SecretStr | None = None
    binance_ws_urls: str | None = None
    binance_rest_urls: str | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, lt=65536)
    alert_webhook_url: SecretStr | None = None
    api_keys: SecretStr | None = None
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=0, lt=65536)
    api_cors_origins: str | None = None
    api_max_rows: int = Field(default=100_000, gt=0)
    api_max_symbols: int = Field(default=100, gt=0)
    api_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    api_memory_bytes: int = Field(default=2**30, gt=0)
    api_rate_per_s: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    api_burst: int = Field(default=200, gt=0)
    api_concurrency: int = Field(default=8, gt=0)
    api_wait_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    api_open_requests: int = Field(default=256, gt=0)
    api_replays: int = Field(default=4, gt=0)
    api_max_body_bytes: int = Field(default=65_536, gt=0)
    api_max_url_bytes: int = Field(default=8192, gt=0)
    api_max_head_bytes: int = Field(default=65_536, gt=0)
    api_head_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    api_body_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    api_connections: int = Field(default=800, gt=0)
    api_idle_s: int = Field(default=5, gt=0)
    api_write_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    api_stream_clients: int = Field(default=200, gt=0)
    api_stream_symbols: int = Field(default=200, gt=0)
    api_stream_message_bytes: int = Field(default=65_536, gt=0)
    api_stream_queue_bytes: int = Field(default=2**20, gt=0)
    api_stream_stall_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    api_stream_wait_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    api_heartbeat_s: float = Field(default=15.0, gt=0, allow_inf_nan=False)

    @field_validator(
        "schema_registry_url",
        "catalog_uri",
        "warehouse",
        "s3_endpoint",
        "redis_url",
        "binance_ws_urls",
        "binance_rest_urls",
        "alert_webhook_url",
        mode="before",
    )
    @classmethod
    def _has_a_scheme_in_lower_case(cls, address: object) -> object:
        return lower_scheme(address) if isinstance(address, str) else address

    @field_validator(
        "home",
        "kafka_config",
        "kafka_ssl_ca",
        "kafka_ssl_certificate",
        "kafka_ssl_key",
        "schema_registry_config",
        "schema_registry_ca",
        "catalog_config",
    )
    @classmethod
    def _begins_at_no_tilde(cls, path: Path | None) -> Path | None:
        """Only a shell expands it, and not in a file of settings."""
        try:
            return None if path is None else path.expanduser()
        except RuntimeError as exc:
            raise ValueError("there is no such user") from exc

    @field_validator("s3_endpoint")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None or has_user(url) or is_http_url(url):
            return url
        raise ValueError("give http://host:port or https://host:port")

    @field_validator("home")
    @classmethod
    def _can_be_a_folder(cls, home: Path) -> Path:
        _check_characters(str(home.absolute()))
        try:
            parent = next(path for path in (home, *home.parents) if path.exists())
        except OSError as exc:
            raise ValueError(f"{exc.strerror}: take another one") from exc
        if not parent.is_dir():
            raise ValueError(f"{parent} is not a folder: name another place")
        return home

    @field_validator(
        "kafka_bootstrap", "warehouse", "s3_endpoint", "binance_ws_urls", "binance_rest_urls"
    )
    @classmethod
    def _has_no_user(cls, address: str | None, info: ValidationInfo) -> str | None:
        """These end up in files, metrics and logs of others."""
        name = info.field_name or ""
        if address is None or not (
            has_user(address) or (name == "kafka_bootstrap" and "@" in address)
        ):
            return address
        raise ValueError(f"{HAS_USER}: {WHERE_USERS_GO[name]}")

    @property
    def orphan_age(self) -> timedelta:
        """How long a file stays that another engine may yet commit."""
        return timedelta(days=self.orphan_file_days)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show addresses without user and password."""
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value


def _check_characters(path: str) -> None:
    # Messages are one line, SQLite's paths are UTF-8, and DuckDB's globs can escape no backslash.
    refused = re.search(r"[\0-\x1f\x7f\ud800-\udfff]", path)
    if refused is None and re.search(r"[*?\[]", path):
        refused = re.search(r"\\", path)
    if refused is not None:
        raise ValueError(f"a path with the character {refused[0]!r}: take another one")


def read_settings(explicit: Mapping[str, object] | None = None) -> Settings:
    """Return explicit values first, then `K2_*` of the environment, then the defaults.

    Endpoint and region of an S3 may come from AWS's variables, too.

    Raises:
        ConfigError: an unknown name, or a value that does not fit; the message names it.
    """
    explicit = dict(explicit or {})
    _check_names(filter(_is_ours, os.environ), [PREFIX + n.upper() for n in Settings.model_fields])
    _check_names(explicit, list(Settings.model_fields))
    try:
        return Settings.model_validate({**_from_aws(), **explicit})
    except ValidationError as exc:
        # Its own text quotes the values.
        raise ConfigError(_message(exc)) from None


def _from_aws() -> dict[str, str]:
    """Return what AWS's own variables set; its libraries read keys and profiles by themselves."""
    found = {
        setting: next(filter(None, map(os.environ.get, names)), None)
        for setting, names in AWS_VARIABLES.items()
        if not os.environ.get(f"{PREFIX}{setting.upper()}")
    }
    return {setting: value for setting, value in found.items() if value is not None}


def _check_names(names: Iterable[str], valid: Sequence[str]) -> None:
    unknown = sorted(name for name in names if name not in valid)
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(valid)}")


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and not name.startswith(KUBERNETES_PREFIXES)


def _message(exc: ValidationError) -> str:
    return "; ".join(
        _line(f"{PREFIX}{str(error['loc'][0]).upper()}", error.get("input"), error["msg"])
        for error in exc.errors()
    )


def _line(name: str, value: object, message: str) -> str:
    reason = message.removeprefix("Value error, ")
    shown = "…" if reason.startswith(HAS_USER) else redact(repr(value))
    return f"{name}={shown}: {reason}"

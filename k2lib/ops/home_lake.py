"""The lake of a home: SQLite and files, or the object store that `k2 up --with s3` starts there."""

from pathlib import Path

from k2lib.errors import ConfigError, TransientError
from k2lib.iceberg.home_catalog import CATALOG_FILE
from k2lib.ops import object_store
from k2lib.ops.services import read_running_services
from k2lib.settings import Settings

OF_OTHER_STORES = (
    "catalog_credential",
    "catalog_token",
    "warehouse",
    "s3_endpoint",
    "s3_access_key_id",
    "s3_secret_access_key",
    "s3_session_token",
    "s3_region",
)


def with_home_lake(settings: Settings) -> Settings:
    """Return the settings with the home's own object store as its lake, where it has one.

    A catalog that the settings name counts first.

    Raises:
        TransientError: the object store does not run.
    """
    options = _options(settings.home)
    if settings.catalog_uri or settings.catalog_config or not options.exists():
        return settings
    if read_running_services(settings.home).running(object_store.KEY) is None:
        raise TransientError(
            f"the tables of the home {settings.home} are in its object store, which does not run: "
            "start it by `k2 up --with s3`"
        )
    update = {**dict.fromkeys(OF_OTHER_STORES), "catalog_config": options}
    return settings.model_copy(update=update)


def check_lake(settings: Settings) -> None:
    """Refuse an object store for a home that has its tables elsewhere.

    Raises:
        ConfigError: says where.
    """
    home = settings.home
    if settings.catalog_uri or settings.catalog_config:
        name = "K2_CATALOG_URI" if settings.catalog_uri else "K2_CATALOG_CONFIG"
        raise ConfigError(f"{name} and --with s3 name two catalogs: leave one out")
    if (home / CATALOG_FILE).exists() and not _options(home).exists():
        raise ConfigError(
            f"the home {home} has its tables in {CATALOG_FILE}, and a home has one lake: take "
            "another home for --with s3, by K2_HOME"
        )


def _options(home: Path) -> Path:
    return home / "services" / object_store.KEY / object_store.CATALOG_FILE

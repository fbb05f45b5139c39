"""Settings from the environment, folders on this machine, files that ship with the package; the base class of models."""

from __future__ import annotations

import os
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from relabel.errors import UsageError
from relabel.redaction import guard_environment

# A path whose leading `~` is the user's home: no shell expands it in a .env or YAML file.
_UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
_PACKAGE = Path(__file__).resolve().parent
# Prefixes of the variables that settings depend on, directly or through the user's folders.
_PREFIXES = ("RELABEL_", "OPENAI_", "HOME", "XDG_", "APPDATA", "LOCALAPPDATA", "USERPROFILE")


class Frozen(BaseModel):
    """Base of models passed between packages: immutable, without unknown fields, and serialisable as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Strict(Frozen):
    """A model of data from outside that converts nothing: `"1"` is not a number, and 1 is not a text."""

    model_config = ConfigDict(strict=True)


def _zoned(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("is a time without its zone")
    return text


# A time in ISO 8601 with its zone, as text.
Time = Annotated[str, AfterValidator(_zoned)]


class Settings(BaseModel):
    """Settings from the environment; nothing is read from files.

    Attributes:
        home: Folder of store, download cache and embedded models (`RELABEL_HOME`).
        store: Folder of the store of answers (`RELABEL_STORE`), by default `home/store`.
        data_mirror: Folder laid out as `SOURCE_ID/FILE` that is searched before the download cache (`RELABEL_DATA_MIRROR`).
        sources: File of sources of your own (`RELABEL_SOURCES`), in the form of `data/sources.toml`.
        us_releases: Sources of US jobs, pay and projections to take in place of the latest (`RELABEL_US_RELEASES`), such as
            `bls-oews-2023`; several with commas.
        prices: File of prices of your own (`RELABEL_PRICES`), in the form of `data/prices.toml`.
        providers: File of providers of your own (`RELABEL_PROVIDERS`), in the form of `data/providers.toml`.
        openai_api_key: Key for the provider (`OPENAI_API_KEY`); never printed.
        openai_base_url: Address of the provider's API (`OPENAI_BASE_URL`).
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    home: _UserPath = Field(default_factory=lambda: Path(platformdirs.user_data_dir("relabel")))
    store: _UserPath | None = None
    data_mirror: _UserPath | None = None
    sources: _UserPath | None = None
    us_releases: str = ""
    prices: _UserPath | None = None
    providers: _UserPath | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None

    @property
    def store_dir(self) -> Path:
        """Folder of the store of answers."""
        return self.store or self.home / "store"

    @property
    def batches_dir(self) -> Path:
        """Folder with the state of all batch jobs."""
        return self.home / "batches"

    @property
    def download_dir(self) -> Path:
        """Folder of downloaded source files, laid out as `SOURCE_ID/FILE`."""
        return self.home / "data"


def settings() -> Settings:
    """Read the current environment, and register its secrets so that they are never printed.

    Raises:
        UsageError: The user has no home folder, and a path needs it.
    """
    guard_environment()
    try:
        return _settings(tuple(sorted(item for item in os.environ.items() if item[0].upper().startswith(_PREFIXES))))
    except RuntimeError as error:
        raise UsageError(f"no folder for the store and data ({error}); give a full path in RELABEL_HOME") from error


@lru_cache(maxsize=4)
def _settings(environment: tuple[tuple[str, str], ...]) -> Settings:
    """The settings of an environment, cached: commands read them many times. An empty variable counts as not set."""
    ours = ((name.upper(), value) for name, value in environment if value)
    values = {
        name.removeprefix("RELABEL_").lower(): text for name, text in ours if name.startswith(("RELABEL_", "OPENAI_"))
    }
    return Settings.model_validate(values)


@cache
def asset_dir(name: str) -> Path:
    """Folder of files that ship with relabel: `prompts`, `rubrics`, `data` or `evals`.

    A wheel carries them inside the package; in a checkout they are the top folders.

    Args:
        name: One of the four folder names.

    Returns:
        The folder; it exists.
    """
    for base in (_PACKAGE / "_assets", _PACKAGE.parents[1]):
        if (base / name).is_dir():
            return base / name
    raise FileNotFoundError(f"the folder {name!r} that ships with relabel is missing; install relabel again")

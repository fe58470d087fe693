"""Settings of this package, read like Prefect's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field

from prefect_datastores.staging.cache import CacheLimits
from prefect_datastores.stores.limit import Rates


class DatastoresSettings(PrefectBaseSettings):
    """`PREFECT_INTEGRATIONS_DATASTORES_*` in the environment, or a profile."""

    model_config = build_settings_config(("integrations", "datastores"))

    scratch_root: Path | None = Field(
        default=None,
        description="Where runs keep staged data; below Prefect's home when it is not set.",
    )
    cache: bool = Field(
        default=True,
        description="Whether what was downloaded is kept for the next run that wants the same.",
    )
    cache_root: Path | None = Field(
        default=None,
        description="Where that is kept; below Prefect's home when it is not set. Best on the disk of the scratch root.",
    )
    cache_gigabytes: float | None = Field(
        default=None,
        description="How much is kept; 10 GiB or a tenth of the free disk, whichever is less, when it is not set.",
    )
    cache_links: bool = Field(
        default=False,
        description="Give runs the kept files themselves, which nobody may write to, instead of copies.",
    )
    mounts_root: Path | None = Field(
        default=None,
        description="Where runs mount data; below Prefect's home when it is not set. Never below a working directory, "
        "which Prefect deletes after a run.",
    )
    mount_cache_root: Path | None = Field(
        default=None,
        description="Where mounts keep what they fetched; below Prefect's home when it is not set.",
    )
    mount_cache_gigabytes: float | None = Field(
        default=None,
        description="How much of it is kept; 10 GiB or a tenth of the free disk, whichever is less, when it is not set.",
    )
    mount_drafts_root: Path | None = Field(
        default=None,
        description="Where mounts keep what is written to them until it is stored; below Prefect's home when it is "
        "not set.",
    )
    megabytes_per_second: float | None = Field(
        default=None,
        gt=0,
        description="The most that all transfers of a process move in a second, both directions "
        "together, in millions of bytes; as much as there is when it is not set.",
    )
    requests_per_second: float | None = Field(
        default=None,
        gt=0,
        description="The most requests that all transfers of a process make in a second; as many as "
        "are worth while when it is not set.",
    )
    snapshot_files: int = Field(
        default=2_000,
        gt=0,
        description="The most files that a snapshot of a source directory takes.",
    )
    snapshot_megabytes: float = Field(
        default=300.0,
        gt=0,
        description="The most that a snapshot of a source directory takes, in MiB.",
    )
    concurrency_limit: str | None = Field(
        default=None,
        description="The name of a global concurrency limit of Prefect, of which each download and "
        "upload holds a slot while it transfers; none when it is not set.",
    )
    compute: str | None = Field(
        default=None,
        description="Where this is, as the matrix of computes calls it; the job variables that the "
        "matrix makes say it. Nothing is checked against the matrix when it is not set.",
    )
    native_mounts: dict[str, Path] = Field(
        default_factory=dict,
        description="Where the compute itself mounted file shares, by the datastore's name, as JSON; "
        "the job variables that the matrix makes say it.",
    )


@dataclass(frozen=True)
class SnapshotLimits:
    """What a snapshot of a source directory may have: the bounds of Azure ML, unless settings say otherwise."""

    files: int
    bytes: int


def snapshot_limits() -> SnapshotLimits:
    """Return the most that a snapshot takes."""
    settings = DatastoresSettings()
    return SnapshotLimits(settings.snapshot_files, int(settings.snapshot_megabytes * 2**20))


def rates() -> Rates:
    """Return what the transfers of this process may use in a second, together."""
    chosen = DatastoresSettings()
    megabytes = chosen.megabytes_per_second
    return Rates(chosen.requests_per_second, None if megabytes is None else megabytes * 1e6)


def scratch_root() -> Path:
    """Return the folder below which runs keep what they stage; it need not exist."""
    chosen = DatastoresSettings().scratch_root
    return chosen or get_current_settings().home / "datastores" / "scratch"


def cache_limits(*, wanted: bool = True) -> CacheLimits | None:
    """Return where downloads are kept and how much of them; None where none are, or none is wanted."""
    settings = DatastoresSettings()
    if not (wanted and settings.cache):
        return None
    return CacheLimits(
        settings.cache_root or get_current_settings().home / "datastores" / "cache",
        None if settings.cache_gigabytes is None else int(settings.cache_gigabytes * 2**30),
        settings.cache_links,
    )


def mounts_root() -> Path:
    """Return the folder below which data is mounted; it need not exist."""
    chosen = DatastoresSettings().mounts_root
    return chosen or get_current_settings().home / "datastores" / "mounts"


def mount_cache() -> CacheLimits:
    """Return where mounts keep what they fetched, and how much of it."""
    settings = DatastoresSettings()
    return CacheLimits(
        settings.mount_cache_root or get_current_settings().home / "datastores" / "mount-cache",
        None
        if settings.mount_cache_gigabytes is None
        else int(settings.mount_cache_gigabytes * 2**30),
    )


def mount_drafts_root() -> Path:
    """Return the folder in which mounts keep what is written to them; it need not exist."""
    chosen = DatastoresSettings().mount_drafts_root
    return chosen or get_current_settings().home / "datastores" / "mount-drafts"


def journals_root() -> Path:
    """Return the folder in which uploads write down what they did; it need not exist."""
    return get_current_settings().home / "datastores" / "journals"


def notes_root() -> Path:
    """Return the folder in which processes with runs write down what would be left of them; it need not exist."""
    return get_current_settings().home / "datastores" / "runs"


def this_compute() -> str | None:
    """Return where this is, as the matrix of computes calls it; None where nobody said it."""
    return DatastoresSettings().compute


def native_mounts() -> dict[str, Path]:
    """Return where the compute itself mounted file shares, by the datastore's name."""
    return DatastoresSettings().native_mounts

"""Settings of this package, read like Prefect's own."""

from __future__ import annotations

from pathlib import Path

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field


class DatastoresSettings(PrefectBaseSettings):
    """`PREFECT_INTEGRATIONS_DATASTORES_*` in the environment, or a profile."""

    model_config = build_settings_config(("integrations", "datastores"))

    scratch_root: Path | None = Field(
        default=None,
        description="Where runs keep staged data; below Prefect's home when it is not set.",
    )


def scratch_root() -> Path:
    """Return the folder below which runs keep what they stage; it need not exist."""
    chosen = DatastoresSettings().scratch_root
    return chosen or get_current_settings().home / "datastores" / "scratch"


def journals_root() -> Path:
    """Return the folder in which uploads write down what they did; it need not exist."""
    return get_current_settings().home / "datastores" / "journals"

"""A folder of this machine as a datastore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from fsspec.implementations.local import LocalFileSystem
from pydantic import Field, field_validator

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.names import join, normal_path
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.local import LocalStore


class LocalDatastore(FileDatastore):
    """A folder that is used like a datastore in Azure, without one: for tests, demos, one machine.

    Example:
        Stage data from a folder:
        ```python
        from prefect_datastores import LocalDatastore

        datastore = LocalDatastore.load("BLOCK_NAME")
        datastore.download("data", prefix="mnist")
        ```
    """

    _block_type_name = "Local Datastore"
    _block_type_slug = "local-datastore"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/ad39089fa66d273b943394a68f003f7a19aa850e-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://docs.prefect.io/v3/concepts/blocks"  # type: ignore[assignment]
    datastore_type: ClassVar[str] = "Local"

    root: str = Field(
        title="Folder",
        description="The folder that holds the data, as an absolute path on the machine that runs the flow.",
        examples=["/srv/datastores/raw"],
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: str) -> str:
        try:
            root = Path(value).expanduser()
        except RuntimeError as error:
            raise ConfigurationError(f"The folder {value!r} is refused: {error}.") from error
        if not root.is_absolute():
            raise ConfigurationError(
                f"The folder {value!r} is refused: give an absolute path. A relative one would be another "
                "folder for each process, and a run's working directory is deleted after it."
            )
        return str(root)

    @property
    def url(self) -> str:
        """The folder, as a URL."""
        return LocalStore(Path(self.root)).url

    @property
    def local_root(self) -> Path:
        """The folder."""
        return Path(self.root)

    def store_maker(self) -> Callable[[], ObjectStore]:
        """Return what opens the folder in another process."""
        return partial(LocalStore, Path(self.root))

    def _connect(self) -> ObjectStore:
        return LocalStore(Path(self.root))

    def filesystem(self, **options: Any) -> LocalFileSystem:
        """Return the file system of this machine; folders come with the files in them, as everywhere."""
        return LocalFileSystem(**{"auto_mkdir": True, **options})

    def filesystem_path(self, path: str | None = None) -> str:
        """Return an absolute path."""
        return join(self.root.rstrip("/"), normal_path(path)) or "/"

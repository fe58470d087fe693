"""Code of any flow in a datastore: `flow.from_source(source=DatastoreStorage(...), entrypoint=...)`."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore, resolve_elsewhere
from prefect_datastores.deployments.carrying import fetch_folder, pull, push
from prefect_datastores.disk import local_error
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.names import datastore_name, normal_path


class DatastoreStorage:
    """Where Prefect finds a flow's code: a directory of this machine as a snapshot, or a folder of a datastore.

    A directory is stored once, when the flow is loaded or deployed, and exactly that runs later; a
    folder of the datastore is fetched as it is when a run begins.

    Example:
        ```python
        source = DatastoreStorage("raw", directory="flows")
        flow.from_source(source=source, entrypoint="churn.py:churn").deploy("nightly", work_pool_name="cpu")
        ```
    """

    def __init__(
        self,
        datastore: str | FileDatastore | None = None,
        *,
        directory: str | Path | None = None,
        path: str | None = None,
        pull_interval: int | None = 60,
    ) -> None:
        """Name the code; nothing is stored or fetched yet.

        Args:
            datastore: a registered datastore, or its name; the workspace's default without one.
            directory: a directory of this machine, whose `.amlignore` says what is left out.
            path: in its place, a folder of the datastore that holds the code already.
            pull_interval: seconds after which `serve` looks at the folder again; None for never.

        Raises:
            ConfigurationError: both, or none of directory and path, were given.
            UnsafeName: the path has a `..`.
        """
        if (directory is None) == (path is None):
            raise ConfigurationError(
                "DatastoreStorage takes a directory of this machine or a path in the datastore."
            )
        self._given = datastore_name(datastore) if isinstance(datastore, str) else datastore
        self._directory = Path(directory).expanduser().absolute() if directory is not None else None
        self._path = normal_path(path)
        self._interval = pull_interval
        self._base = Path.cwd()
        self._snapshot = ""
        known = hashlib.sha256(repr(self._key()).encode()).hexdigest()[:12]
        self._folder = f"code-{known}"

    def set_base_path(self, path: Path) -> None:
        """Say below which folder `destination` is."""
        self._base = path

    @property
    def pull_interval(self) -> int | None:
        """Seconds after which a folder of the datastore is looked at again; a snapshot never changes."""
        return None if self._directory is not None else self._interval

    @property
    def destination(self) -> Path:
        """The folder that `pull_code` gives the code to."""
        return self._base / self._folder

    async def pull_code(self) -> None:
        """Give `destination` the code, whole and nothing else."""
        await asyncio.to_thread(self._pull)

    def _pull(self) -> None:
        store, snapshot = self._datastore(), self._stored()
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{self._folder}-", dir=self._base))
        except OSError as error:
            raise local_error(error, self._base) from error
        try:
            new, old = aside / "new", aside / "old"
            if snapshot:
                pull(store, snapshot, new)
            else:
                fetch_folder(store, self._path, new)
            if self.destination.exists():
                self.destination.rename(old)
            new.rename(self.destination)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def to_pull_step(self) -> dict[str, Any]:
        """Return the step by which a worker gets the code; a directory is stored by then.

        Raises:
            ConfigurationError: the datastore is not registered, so that a worker cannot find it.
            DatastoreError: the directory cannot be stored.
        """
        store = resolve_elsewhere(self._datastore().path(), "a worker")
        what = {"snapshot": self._stored()} if self._directory is not None else {"path": self._path}
        step = "prefect_datastores.deployments.steps.pull_from_datastore"
        return {step: {"datastore": store.name, **what}}

    def _stored(self) -> str:
        """Return the digest of the directory's snapshot, which is stored; "" where the code is a folder."""
        if self._directory is not None and not self._snapshot:
            self._snapshot = push(self._datastore(), self._directory).digest
        return self._snapshot

    def _datastore(self) -> FileDatastore:
        if isinstance(self._given, FileDatastore):
            return self._given
        return Datastore.get(self._given) if self._given else Datastore.get_default()

    def _key(self) -> tuple[str, str, str]:
        given = self._given
        named = given.name if isinstance(given, FileDatastore) else given or ""
        return named, str(self._directory or ""), self._path

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the same place."""
        return isinstance(other, DatastoreStorage) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        named, directory, path = self._key()
        return f"DatastoreStorage({named!r}, {f'directory={directory!r}' if directory else f'path={path!r}'})"

"""Stores drafts: whole, over the version that was written to, or only where nothing is."""

from __future__ import annotations

from pathlib import Path

from prefect_datastores.files import Folder
from prefect_datastores.names import ObjectName, RelativePath
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.engine import Lanes, Limits
from prefect_datastores.staging.progress import Silent
from prefect_datastores.staging.storing import store_file
from prefect_datastores.stores.base import ObjectInfo, ObjectStore


class Sender:
    """Sends files, many at once, within one bound of memory."""

    def __init__(self) -> None:
        """Begin none yet."""
        self._cancellation = Cancellation()
        self._lanes = Lanes(Limits(), self._cancellation, Silent())

    def send(
        self, store: ObjectStore, draft: Path, name: ObjectName, replaces: ObjectInfo | None
    ) -> ObjectInfo:
        """Store a file; nobody sees anything of it before all of it is there.

        Raises:
            ObjectExists: something else stands there.
            SourceChanged: the draft was written to meanwhile.
            DatastoreError: the service failed.
        """
        with Folder(draft.parent) as folder:
            path = RelativePath(draft.name)
            return store_file(store, folder, path, name, self._lanes, replaces=replaces)

    def close(self) -> None:
        """Send nothing any more; what is under way fails."""
        self._cancellation.cancel()
        self._lanes.close()

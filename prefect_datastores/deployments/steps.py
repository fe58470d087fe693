"""Steps of a deployment: code goes to a datastore when it is deployed, and comes from it before a run.

In `prefect.yaml`:

    push:
      - prefect_datastores.deployments.steps.push_to_datastore:
          id: code
          datastore: raw
    pull:
      - prefect_datastores.deployments.steps.pull_from_datastore:
          datastore: "{{ code.datastore }}"
          snapshot: "{{ code.snapshot }}"
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore
from prefect_datastores.deployments import estimators
from prefect_datastores.deployments.carrying import fetch_folder, pull, push
from prefect_datastores.disk import local_error
from prefect_datastores.display import run_log
from prefect_datastores.errors import ConfigurationError


def push_to_datastore(datastore: str | None = None, directory: str = ".") -> dict[str, str]:
    """Store the source of a directory as a snapshot, once; return the names that a pull step takes.

    Args:
        datastore: the name of a registered datastore; the workspace's default without one.
        directory: the directory, whose `.amlignore` (else `.gitignore`, `.dockerignore`) says what is
            left out.

    Raises:
        SnapshotTooLarge: it has more than the settings allow.
        DatastoreError: as `carrying.push` says.
    """
    store = _datastore(datastore)
    snapshot = push(store, Path(directory))
    return {"datastore": store.name, "snapshot": snapshot.digest}


def pull_from_datastore(
    datastore: str | None = None, snapshot: str | None = None, path: str | None = None
) -> dict[str, str]:
    """Bring code to a new folder below the working directory, which becomes the run's own.

    Args:
        datastore: the name of a registered datastore; the workspace's default without one.
        snapshot: what a push step stored: exactly that is what runs.
        path: in its place, a folder of the datastore, as it is when the run begins.

    Raises:
        ConfigurationError: both, or none of the two, were given.
        ObjectNotFound: the datastore does not have it.
        DatastoreError: it cannot be fetched whole.
    """
    if bool(snapshot) == (path is not None):
        raise ConfigurationError(
            "pull_from_datastore takes a snapshot (what push_to_datastore returned) or a path in the datastore."
        )
    store, folder = _datastore(datastore), _new_folder("code-") / "code"
    if snapshot:
        pull(store, snapshot, folder)
        run_log().info("The code is the snapshot %s of %s.", snapshot[:12], store.name)
    else:
        fetch_folder(store, path or "", folder)
        run_log().info("The code is %s:%s.", store.name, path)
    return {"directory": str(folder)}


def pull_estimator(spec: str) -> dict[str, str]:
    """Write the flow of a deployed estimator to a new folder below the working directory.

    Its source is brought by the run itself, into the run's own folder.

    Raises:
        ConfigurationError: the specification is of another version of this package.
    """
    folder = _new_folder("estimator-")
    estimators.write_flow(spec, folder)
    return {"directory": str(folder)}


def _datastore(name: str | None) -> FileDatastore:
    return Datastore.get(name) if name else Datastore.get_default()


def _new_folder(prefix: str) -> Path:
    """Return a new folder of this run's own: a pool can have several runs begin in one directory."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=Path.cwd()))
    except OSError as error:
        raise local_error(error, Path.cwd()) from error

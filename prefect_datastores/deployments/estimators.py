"""The code of a deployed estimator, as Prefect takes the code of any flow: two small files and a snapshot."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registration import as_configuration_error
from prefect_datastores.datastores.registry import Datastore, resolve_elsewhere
from prefect_datastores.deployments.carrying import push
from prefect_datastores.disk import local_error
from prefect_datastores.estimator_spec import EstimatorSpec
from prefect_datastores.scripts.source import OUTPUTS

ENTRYPOINT = "estimator.py:flow"

SPEC_FILE = "estimator.json"
_FLOW_FILE = "estimator.py"
_FLOW = f'''\
"""The flow of an estimator that was deployed by prefect-datastores."""

from pathlib import Path

from prefect_datastores.deployed import flow_of

flow = flow_of(Path(__file__).with_name("{SPEC_FILE}").read_text(encoding="utf-8"))
'''


class EstimatorStorage:
    """Where Prefect finds an estimator's flow: `flow.deploy(...)` and `flow.serve(...)` ask it.

    The source goes to its datastore when a deployment is made, and not before; once, whatever is
    deployed of it. What runs is what was there then.
    """

    pull_interval = None

    def __init__(self, spec: EstimatorSpec, carrier: FileDatastore | None) -> None:
        """Name the estimator; nothing is stored yet."""
        self._spec, self._carrier = spec, carrier
        self._base = Path.cwd()
        known = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]
        self._folder = f"estimator-{known}"

    def set_base_path(self, path: Path) -> None:
        """Say below which folder `destination` is."""
        self._base = path

    @property
    def destination(self) -> Path:
        """The folder that `pull_code` writes to."""
        return self._base / self._folder

    async def pull_code(self) -> None:
        """Write the flow where `destination` is."""
        await asyncio.to_thread(self._write)

    def _write(self) -> None:
        self.destination.mkdir(parents=True, exist_ok=True)
        write_flow(self.stored().model_dump_json(), self.destination)

    def to_pull_step(self) -> dict[str, Any]:
        """Return the step by which a worker gets the flow; the source is stored by then."""
        spec = self.stored().model_dump_json()
        # Prefect replaces what it takes for its own placeholders in what a step is given. In JSON
        # two opening braces follow one another within a text only, where one can be spelled so.
        return {
            "prefect_datastores.deployments.steps.pull_estimator": {
                "spec": spec.replace("{{", "{\\u007b")
            }
        }

    def stored(self) -> EstimatorSpec:
        """Return the estimator as a worker can run it: its source is a snapshot, in a datastore.

        Raises:
            SnapshotTooLarge: the source has more than a snapshot takes.
            ConfigurationError: a datastore is not registered, so that a worker cannot find it.
            DatastoreError: the source cannot be stored.
        """
        if self._spec.snapshot is None:
            for reference in self._spec.references():
                resolve_elsewhere(reference, "a worker")
            carrier = self._find_carrier()
            snapshot = push(
                carrier,
                Path(self._spec.source_directory),
                at_the_top=[OUTPUTS],
                needs=self._spec.entry_script,
            )
            self._spec = self._spec.model_copy(
                update={
                    "snapshot": snapshot.digest,
                    "source_directory": "",
                    "source_directory_data_store": carrier.name,
                }
            )
        return self._spec

    def _find_carrier(self) -> FileDatastore:
        if self._carrier is not None:
            return resolve_elsewhere(self._carrier.path(), "a worker")
        name = self._spec.source_directory_data_store
        return Datastore.get(name) if name else Datastore.get_default()

    def __eq__(self, other: object) -> bool:
        """Tell whether it is of the same estimator."""
        return isinstance(other, EstimatorStorage) and self._spec == other._spec

    __hash__ = None  # type: ignore[assignment]  # it changes when its source is stored


def write_flow(spec: str, folder: Path) -> None:
    """Write the files that `ENTRYPOINT` is in, each whole.

    Raises:
        ConfigurationError: the specification is of another version of this package.
        AccessError, LocalDiskFull: they cannot be written.
    """
    with as_configuration_error(
        "The estimator was deployed by another version of prefect-datastores than the one that is to run it; install "
        "the same for both. "
    ):
        EstimatorSpec.model_validate_json(spec)
    # The flow last: where it is, all is.
    _write(folder / SPEC_FILE, spec)
    _write(folder / _FLOW_FILE, _FLOW)


def _write(path: Path, text: str) -> None:
    try:
        handle, written = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(written).rename(path)
    except OSError as error:
        raise local_error(error, path) from error

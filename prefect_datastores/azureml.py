"""For code that comes from Azure ML's first SDK: change the imports and go on.

from prefect_datastores.azureml import Datastore, Estimator, Experiment, Workspace
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.settings import PREFECT_API_URL

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.documents import DatastoreInfo
from prefect_datastores.datastores.registry import Datastore
from prefect_datastores.estimator import Estimator
from prefect_datastores.references import DataReference
from prefect_datastores.runs import Run

__all__ = ["DataReference", "Datastore", "Estimator", "Experiment", "Workspace"]


@dataclass(frozen=True)
class Workspace:
    """The Prefect server, or Cloud workspace, of the current profile."""

    api_url: str = ""

    @classmethod
    def from_config(cls, *_: Any, **__: Any) -> Workspace:
        """Return the workspace of the current Prefect profile, whatever the arguments."""
        return cls(PREFECT_API_URL.value() or "")

    @property
    def datastores(self) -> dict[str, DatastoreInfo]:
        """All registered datastores by name, without secrets."""
        return Datastore.list(self)

    def get_default_datastore(self) -> FileDatastore:
        """Return the default datastore."""
        return Datastore.get_default(self)

    def set_default_datastore(self, name: str) -> None:
        """Make a registered datastore the default."""
        Datastore.set_default(self, name)


@dataclass(frozen=True)
class Experiment:
    """A name for runs: the flow that an estimator is submitted as."""

    workspace: Workspace
    name: str

    def submit(self, config: Estimator, **parameters: Any) -> Run:
        """Submit an estimator under the experiment's name."""
        spec = config.spec.model_copy(update={"name": self.name})
        return Estimator.from_spec(spec).submit(**parameters)

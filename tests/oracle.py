"""What has to be true after any fault: old bytes, new bytes or nothing, and a report that agrees."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_datastores.errors import DatastoreError, StageFailed
from prefect_datastores.staging.report import ObjectRow, TransferReport
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing import get, put


@dataclass(frozen=True)
class Outcome:
    """What a transfer returned or raised."""

    report: TransferReport | None
    error: DatastoreError | None

    def row(self, path: str) -> ObjectRow:
        """The row of one object."""
        assert self.report is not None, self.error
        (found,) = [row for row in self.report.rows if row.path == path]
        return found

    @property
    def actions(self) -> dict[str, str]:
        """What happened to each object."""
        return {row.path: row.action for row in self.report.rows} if self.report else {}


def attempt(transfer: Callable[[], TransferReport]) -> Outcome:
    """Run a transfer to its end, whatever that is."""
    try:
        return Outcome(transfer(), None)
    except StageFailed as error:
        return Outcome(error.report, error)
    except DatastoreError as error:
        return Outcome(None, error)


def check(
    outcome: Outcome,
    old: Mapping[str, bytes],
    new: Mapping[str, bytes],
    found: Mapping[str, bytes | str],
    *,
    unheard: Collection[str] = (),
) -> None:
    """Assert what has to be true after any fault.

    `old` is what the destination had, `new` what was to be there, `found` what is. Of the objects
    in `unheard` the service told nothing any more: they may be there though their rows failed.
    """
    assert old.keys() <= found.keys() <= old.keys() | new.keys()
    for name, content in found.items():
        assert content in (old.get(name), new.get(name)), f"{name} is neither old nor new"
    moved = {name for name, action in outcome.actions.items() if action == "moved"}
    came = {name for name in new if found.get(name) == new[name] != old.get(name)}
    assert moved - came == set()
    assert came - moved <= set(unheard)
    well = {"moved", "unchanged", "skipped", "ignored"}
    if outcome.error is None:
        assert outcome.actions.keys() == new.keys()
        assert set(outcome.actions.values()) <= well
    elif outcome.report is not None:
        assert outcome.actions.keys() == new.keys()
        assert not set(outcome.actions.values()) <= well
    assert threads_left() == []


def threads_left() -> list[str]:
    """Which threads of ours there are still, once those had their time that end by themselves."""
    for _ in range(200):
        left = [one.name for one in threading.enumerate() if one.name.startswith("pds-")]
        if not left:
            break
        time.sleep(0.01)
    return left


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/dev/fd").iterdir()))


def stored(store: ObjectStore, prefix: str = "") -> dict[str, bytes]:
    """What a store holds; folders are none of it."""
    infos = list_objects(store, prefix)
    return {info.name: get(store, info.name) for info in infos if not info.is_marker}


def plant_link(folder: Path, target: Path) -> None:
    """Put a link where a folder is."""
    folder.rename(folder.with_name(f"{folder.name} moved away"))
    folder.symlink_to(target)


def fill(store: ObjectStore, content: Mapping[str, bytes]) -> None:
    """Store objects."""
    for name, data in content.items():
        put(store, name, data)

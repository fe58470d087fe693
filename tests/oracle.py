"""What has to be true after any fault: old bytes, new bytes or nothing, and a report that agrees."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from azure.storage.blob import ContainerClient
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.faults import Fault, FaultyProxy, faulty
from small_stores import SmallBlobStore, SmallShareStore

from prefect_datastores.errors import DatastoreError, StageFailed
from prefect_datastores.staging.report import ObjectRow, TransferReport
from prefect_datastores.stores.http import Timeouts
from prefect_datastores.stores.retry import RetryingStore, RetryPolicy
from prefect_datastores.testing import get, names_below

TRIES = 3


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


def stored(store: SmallBlobStore) -> dict[str, bytes]:
    """What a container holds."""
    return {name: get(store, name) for name in names_below(store)}


@dataclass
class Through:
    """A container seen through a proxy that fails as told, with retry; its pauses take no time."""

    store: RetryingStore
    proxy: FaultyProxy
    pauses: list[float] = field(default_factory=list)


@contextmanager
def through(
    azurite: Azurite | AzureFiles,
    container: ContainerClient | str,
    *faults: Fault,
    stall: float = 30.0,
    kind: type[SmallBlobStore | SmallShareStore] = SmallBlobStore,
    sas: str = "",
    **sign_in: object,
) -> Iterator[Through]:
    """Open a container, or a share, through a proxy; `stall` is how long nothing may come."""
    pauses: list[float] = []
    policy = RetryPolicy(tries=TRIES, sleep=pauses.append, jitter=lambda: 0.0)
    given = sign_in or {"account_key": azurite.key}
    with faulty(azurite.host, azurite.port, *faults, sas=sas) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{azurite.account}"
        name = container if isinstance(container, str) else container.container_name
        with closing(kind(url, name, **given)) as bare:  # type: ignore[arg-type]
            service = bare.service if isinstance(bare, SmallShareStore) else bare._service
            service._http._timeouts = Timeouts(stall=stall)
            yield Through(RetryingStore(bare, policy), proxy, pauses)


def plant_link(folder: Path, target: Path) -> None:
    """Put a link where a folder is."""
    folder.rename(folder.with_name(f"{folder.name} moved away"))
    folder.symlink_to(target)

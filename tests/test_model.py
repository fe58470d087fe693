"""Random operations, and after each the store and the folders are what a model of them says."""

import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from oracle import Outcome, attempt
from places import REMOTE, SERVERS, Place
from small_stores import PART, SmallLocalStore, tree

from prefect_datastores.errors import NameCollision, ObjectExists, ObjectNotFound, UnsafeName
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.testing import content_of, get, names_below, put

COMPONENTS = st.sampled_from([*("a", "-", "a-", ".a") * 3, "a."])
NAMES = st.lists(COMPONENTS, min_size=1, max_size=2).map("/".join) | st.just("a/a/a")
PATHS = st.sampled_from(["", "", "a", "-", "a/-", "a-", "a."])
GLOBS = (
    st.just(())
    | st.just(())
    | st.lists(
        st.sampled_from(["a", "*a", "a*", "?", "a/*", "*/a", ".*", "-", "*.", "[!a]*"]),
        min_size=1,
        max_size=2,
    ).map(tuple)
)
CONTENTS = {"": b"", "1": b"1", "2": b"2", "one": content_of(PART + 1), "two": bytes(PART + 1)}
FILES = st.dictionaries(NAMES, st.sampled_from(sorted(CONTENTS)), max_size=6)
OVERWRITES = st.sampled_from(["fail", "skip", "replace", "if_changed"])


def is_chosen(name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    """What globs mean, by the standard library's matcher for each component."""

    def takes(glob: str) -> bool:
        parts, wanted = name.split("/"), glob.split("/")
        if len(wanted) == 1:
            return any(fnmatchcase(part, glob) for part in parts)
        return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))

    return (not include or any(map(takes, include))) and not any(map(takes, exclude))


def above(name: str) -> list[str]:
    """The folders that a name lies in."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def collide(names: list[str]) -> bool:
    """Whether one would be a file and a folder at once."""
    return any(folder in names for name in names for folder in above(name))


@dataclass
class Disk:
    """A folder: files by name, and the folders that they and others that are gone lie in."""

    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def takes(self, name: str) -> bool:
        return name not in self.folders and not any(up in self.files for up in above(name))

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self.folders.update(above(name))

    def empty_folders(self) -> list[str]:
        inside = [*self.files, *self.folders]
        return [up for up in self.folders if not any(n.startswith(f"{up}/") for n in inside)]


@dataclass
class Service(Disk):
    """A flat service of objects: no name is in the way of another."""

    def takes(self, name: str) -> bool:
        return True

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content


class Machine(RuleBasedStateMachine):
    """A store, a folder that is uploaded from and one that is downloaded to, and their models."""

    seen: ClassVar[Counter[str]] = Counter()
    "What happened at all in a test, so that a model that hinders everything is found."

    def __init__(self) -> None:
        super().__init__()
        self.closing = ExitStack()
        self.root = Path(self.closing.enter_context(tempfile.TemporaryDirectory()))
        for name in ("source", "destination", "store"):
            (self.root / name).mkdir()
        self.source, self.destination = Disk(), Disk()
        self.remote: Disk = Service()
        self.store: ObjectStore

    strips_dots = False
    "Names that end in a dot are refused in an upload."

    def asked(self, path: str) -> str:
        """Return the path to download; where the service takes `a.` for `a`, that is what it is."""
        return path

    def teardown(self) -> None:
        self.closing.close()

    @property
    def digests(self) -> bool:
        return self.store.capabilities.stores_digest

    def is_refused(self, name: str) -> bool:
        return self.strips_dots and any(part.endswith(".") for part in name.split("/"))

    # Other people's work, on all three.

    def somebody_stores(self, files: dict[str, str]) -> None:
        for name, content in files.items():
            if self.remote.takes(name) and not self.is_refused(name):
                put(self.store, name, CONTENTS[content])
                self.remote.write(name, CONTENTS[content])

    def files_are_written(self, where: str, files: dict[str, str]) -> None:
        disk: Disk = getattr(self, where)
        for name, content in files.items():
            if disk.takes(name):
                path = self.root / where / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(CONTENTS[content])
                disk.write(name, CONTENTS[content])

    @precondition(lambda self: self.remote.files)
    @rule(data=st.data())
    def somebody_deletes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.remote.files)))
        self.store.delete(ObjectName(name))
        del self.remote.files[name]

    @rule(where=st.sampled_from(["source", "destination"]), data=st.data())
    def a_file_is_removed(self, where: str, data: st.DataObject) -> None:
        disk: Disk = getattr(self, where)
        if disk.files:
            name = data.draw(st.sampled_from(sorted(disk.files)))
            (self.root / where / name).unlink()
            del disk.files[name]

    @precondition(lambda self: len(self.destination.files) > 4)
    @rule()
    def the_destination_is_cleared(self) -> None:
        shutil.rmtree(self.root / "destination")
        (self.root / "destination").mkdir()
        self.destination = Disk()

    # What is tested.

    @rule(files=FILES, to=PATHS, overwrite=OVERWRITES, include=GLOBS, exclude=GLOBS)
    def upload(
        self,
        files: dict[str, str],
        to: str,
        overwrite: Overwrite,
        include: tuple[str, ...],
        exclude: tuple[str, ...],
    ) -> None:
        self.files_are_written("source", files)
        chosen = [n for n in sorted(self.source.files) if is_chosen(n, include, exclude)]
        named = {name: f"{to}/{name}" if to else name for name in chosen}
        source = folder_source(self.root / "source", include, exclude)
        outcome = attempt(lambda: upload(self.store, source, to, overwrite))
        if any(map(self.is_refused, named.values())):
            return self.refused(outcome, UnsafeName)
        if overwrite == "fail" and any(name in self.remote.files for name in named.values()):
            return self.refused(outcome, ObjectExists)
        expected = {}
        for name, stored in named.items():
            content = self.source.files[name]
            there = self.remote.files.get(stored)
            if overwrite == "skip" and there is not None:
                expected[name] = "skipped"
            elif overwrite == "if_changed" and self.digests and there == content:
                expected[name] = "unchanged"
            elif self.remote.takes(stored):
                self.remote.write(stored, content)
                expected[name] = "moved"
            else:
                expected[name] = "failed"
        return self.told(outcome, expected)

    @rule(
        files=FILES,
        changed=FILES,
        path=PATHS,
        overwrite=OVERWRITES,
        include=GLOBS,
        exclude=GLOBS,
        allow_empty=st.booleans(),
    )
    def download(
        self,
        files: dict[str, str],
        changed: dict[str, str],
        path: str,
        overwrite: Overwrite,
        include: tuple[str, ...],
        exclude: tuple[str, ...],
        allow_empty: bool,
    ) -> None:
        path = self.asked(path)
        self.somebody_stores(files)
        self.files_are_written("destination", changed)
        request = DownloadRequest(path, include, exclude, overwrite, allow_empty)
        outcome = attempt(lambda: download(self.store, self.root / "destination", request))
        both, listed, marked = self.listed(path)
        if both:
            return self.refused(outcome, NameCollision)
        chosen = [name for name in sorted(listed) if is_chosen(name, include, exclude)]
        empty = [name for name in sorted(marked) if is_chosen(name, include, exclude)]
        if collide(chosen):
            return self.refused(outcome, NameCollision)
        disk = self.destination
        if overwrite == "fail" and any(n in disk.files or n in disk.folders for n in chosen):
            return self.refused(outcome, ObjectExists)
        if not chosen and not empty and not allow_empty:
            return self.refused(outcome, ObjectNotFound)
        if not all(disk.takes(f"{name}/-") for name in empty):  # a file stands where one is to be
            assert outcome.error is not None
            self.look_at_folders()
            return None
        disk.folders.update(folder for name in empty for folder in (name, *above(name)))
        expected = {}
        for name in chosen:
            content = self.remote.files[listed[name]]
            there = disk.files.get(name)
            if overwrite == "skip" and there is not None:
                expected[name] = "skipped"
            elif overwrite == "if_changed" and self.digests and there == content:
                expected[name] = "unchanged"
            elif disk.takes(name):
                disk.write(name, content)
                expected[name] = "moved"
            else:
                expected[name] = "failed"
        return self.told(outcome, expected)

    def listed(self, path: str) -> tuple[bool, dict[str, str], list[str]]:
        """Whether a path is a file and a folder, the objects at it by their place, and its empty folders."""
        below = f"{path}/" if path else ""
        listed = {n[len(below) :]: n for n in self.remote.files if n.startswith(below)}
        marked = [n[len(below) :] for n in self.remote.empty_folders() if n.startswith(below)]
        if path not in self.remote.files:
            return False, listed, marked
        return bool(listed), {path.rpartition("/")[2]: path}, []

    def refused(self, outcome: Outcome, kind: type[Exception]) -> None:
        self.seen[kind.__name__] += 1
        assert isinstance(outcome.error, kind), outcome
        assert outcome.report is None

    def told(self, outcome: Outcome, expected: dict[str, str]) -> None:
        self.seen.update(expected.values())
        assert outcome.actions == expected, outcome.error
        assert (outcome.error is None) == ("failed" not in expected.values())

    # What holds after each step.

    def look_at_folders(self) -> None:
        root = self.root / "destination"
        found = [path for path in root.rglob("*") if path.is_dir()]
        self.destination.folders = {path.relative_to(root).as_posix() for path in found}

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        assert {name: get(self.store, name) for name in objects_of(self.store)} == self.remote.files
        for name, disk in (("source", self.source), ("destination", self.destination)):
            assert tree(self.root / name) == disk.files
            folders = {p for p in (self.root / name).rglob("*") if p.is_dir()}
            assert {p.relative_to(self.root / name).as_posix() for p in folders} == disk.folders
        assert not list(self.root.rglob(".pds-*"))


def objects_of(store: ObjectStore) -> list[str]:
    return [name for name in names_below(store) if not name.endswith("/")]


class MemoryMachine(Machine):
    seen: ClassVar[Counter[str]] = Counter()

    @initialize()
    def open(self) -> None:
        self.store = MemoryStore()


class LocalMachine(Machine):
    seen: ClassVar[Counter[str]] = Counter()

    @initialize()
    def open(self) -> None:
        self.store, self.remote = SmallLocalStore(self.root / "store"), Disk()
        self.closing.callback(self.store.close)

    @invariant()
    def a_store_between_transfers_keeps_nothing(self) -> None:
        """Its hidden folder is that of all its writes, and goes when it is closed."""
        self.store.close()


class RemoteMachine(Machine):
    """Each example in a place of its own."""

    strips_dots = True
    new: ClassVar[Callable[[], Place]]

    @initialize()
    def open(self) -> None:
        place = self.new()
        self.closing.callback(place.remove)
        self.store = place.store
        self.remote = Disk() if self.store.capabilities.has_folders else Service()

    def asked(self, path: str) -> str:
        return path.rstrip(".") if self.store.capabilities.has_folders else path


ALWAYS = {
    *("moved", "skipped", "NameCollision", "ObjectExists", "ObjectNotFound"),
    "failed",
}


def run(machine: Callable[[], Machine], examples: int, steps: int, *phases: Phase) -> None:
    bounds = settings(
        phases=(Phase.explicit, Phase.generate, *phases),
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounds)


def test_a_store_in_memory_and_folders_are_as_a_model_of_them() -> None:
    run(MemoryMachine, 150, 20, Phase.shrink)  # what takes requests would take minutes to shrink
    assert MemoryMachine.seen.keys() >= ALWAYS | {"unchanged"}


def test_a_local_store_and_folders_are_as_a_model_of_them() -> None:
    run(LocalMachine, 100, 20)
    assert LocalMachine.seen.keys() >= ALWAYS - {"NameCollision"}


@pytest.mark.parametrize(("kind", "examples"), [("blob", 30), ("share", 40), ("lake", 40)])
def test_a_remote_place_and_folders_are_as_a_model_of_them(
    request: pytest.FixtureRequest, kind: str, examples: int
) -> None:
    server = request.getfixturevalue(SERVERS[kind])

    class OfKind(RemoteMachine):
        seen: ClassVar[Counter[str]] = Counter()

        @staticmethod
        def new() -> Place:
            return REMOTE[kind](server, f"test-{uuid.uuid4().hex}")

    run(OfKind, examples, 15)
    assert OfKind.seen.keys() >= {"moved", "skipped", "UnsafeName", "ObjectNotFound"}

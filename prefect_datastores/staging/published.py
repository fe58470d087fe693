"""Folders that were published at once, as readers see them: the whole of one generation, under plain names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from prefect_datastores.errors import (
    AccessDenied,
    ConfigurationError,
    IntegrityError,
    NameCollision,
    ObjectNotFound,
    SourceChanged,
)
from prefect_datastores.names import ObjectName, folder_prefix, join, parents
from prefect_datastores.staging.generations import (
    DATA,
    LONGEST_LIST,
    LONGEST_POINTER,
    POINTER,
    Listed,
    Pointer,
    damaged,
    list_from_bytes,
    list_of,
)
from prefect_datastores.stores.base import ObjectInfo, ObjectStore
from prefect_datastores.stores.listed import list_objects

_MARK = ".pds-"  # what the names of pointers and data have in common
_TURNS = 3  # publishes that may come while one pointer is read


@dataclass(frozen=True)
class Standing:
    """The pointer that stands in a folder, and the version of its object."""

    pointer: Pointer
    etag: str
    modified: float | None


def pointer_of(store: ObjectStore, folder: str) -> Standing | None:
    """Return what says what a folder shows, or None where it was not published at once.

    Raises:
        IntegrityError: the pointer is damaged.
        SourceChanged: it changes faster than it can be read.
    """
    name = ObjectName(join(folder, POINTER))
    for _ in range(_TURNS):
        with contextlib.suppress(SourceChanged):
            return _pointer_once(store, name)
    return _pointer_once(store, name)


def _pointer_once(store: ObjectStore, name: ObjectName) -> Standing | None:
    try:
        return _read(store, store.head(name))
    except ObjectNotFound:
        return None


def _read(store: ObjectStore, info: ObjectInfo) -> Standing:
    where = f"{store.url}/{info.name}"
    content = _content(store, info, LONGEST_POINTER)
    return Standing(Pointer.from_bytes(content, where), info.etag, info.modified)


def _content(store: ObjectStore, info: ObjectInfo, longest: int) -> bytes:
    if info.size > longest:
        raise damaged(f"{store.url}/{info.name}", f"it has {info.size} bytes")
    content, step = bytearray(info.size), store.capabilities.part_size
    for at in range(0, info.size, step):
        part = memoryview(content)[at : at + step]
        store.read_into(ObjectName(info.name), at, part, pin=info.etag or None)
    return bytes(content)


def files_of(store: ObjectStore, folder: str, generation: str) -> list[Listed]:
    """Return the files of a generation that is a list.

    Raises:
        ObjectNotFound: there is none, or none any more.
        IntegrityError: its list is damaged.
    """
    info = store.head(ObjectName(join(folder, list_of(generation))))
    return list_from_bytes(
        _content(store, info, LONGEST_LIST), generation, f"{store.url}/{info.name}"
    )


def listed(store: ObjectStore, folder: str, generation: str) -> list[ObjectInfo]:
    """Return the objects of a generation that is a list, under the names that the folder shows, in their order.

    Raises:
        ObjectNotFound: there is no such generation any more.
        IntegrityError: its list is damaged, or what it names is not there as it was stored.
    """
    files, prefix = files_of(store, folder, generation), folder_prefix(folder)
    found = _ByList(store, prefix, files)
    for info in list_objects(store, found.prefix):
        found.show(info)
    return list(found.leave())


def head(store: ObjectStore, name: ObjectName) -> ObjectInfo | None:
    """Return what is known of an object, or None where the service says that it does not exist."""
    try:
        return store.head(name)
    except ObjectNotFound:
        return None


def refuse_published(
    store: ObjectStore,
    folder: str,
    look: Callable[[ObjectName], ObjectInfo | None] | None = None,
) -> None:
    """Return when single objects may be stored in a folder; `look` tells what stands at a name.

    Raises:
        ConfigurationError: it was published at once, and readers would not see them.
    """
    found: ObjectInfo | None = None
    with contextlib.suppress(AccessDenied):  # one that may only write cannot tell
        found = (look or partial(head, store))(ObjectName(join(folder, POINTER)))
    if found is not None:
        raise ConfigurationError(
            f"Nothing was moved: {_shown(store, folder)} was published at once, or has checkpoints, and shows nothing "
            'that is stored in it singly. Say publish="atomic" again, or upload to another folder.'
        )


def _shown(store: ObjectStore, folder: str) -> str:
    return f"{store.url}/{folder}".rstrip("/")


# -- listings -------------------------------------------------------------------------------------


def objects(
    store: ObjectStore, prefix: str, *, page_size: int | None = None
) -> Iterator[ObjectInfo]:
    """Give every object below `prefix`, those of published folders under the names that they show.

    Raises:
        IntegrityError: a pointer is damaged, or what it promises is not there.
        SourceChanged: a folder was published anew while it was listed.
    """
    return published(store, prefix, list_objects(store, prefix, page_size=page_size))


def published(
    store: ObjectStore, prefix: str, listing: Iterable[ObjectInfo]
) -> Iterator[ObjectInfo]:
    """Give a listing in name order as readers see it; what lies in `prefix` itself is taken as it is.

    A pointer is no older than what is listed after it, and its generation was whole before it was
    written. What was taken away meanwhile shows by the count.
    """
    reading = _Reading(store, len(prefix))
    for info in listing:
        if reading.shown is None and _MARK not in info.name:
            yield info
        else:
            yield from reading.take(info)
    yield from reading.leave()


class _Reading:
    """Where in a listing its reader is: in the folder `shown`, if that was published."""

    def __init__(self, store: ObjectStore, begin: int) -> None:
        self._store, self._begin = store, begin
        self.shown: _Generation | _ByList | None = None

    def take(self, info: ObjectInfo) -> Iterator[ObjectInfo]:
        """Give what readers see by one more listed object."""
        name, shown = info.name, self.shown
        if shown is not None and name > shown.prefix and not name.startswith(shown.data):
            yield from self.leave()
            shown = None
        found = _split(name, self._begin) if _MARK in name else None
        if found is None:
            yield info
            return
        folder, component, below = found
        if component == DATA and below is not None:
            if shown is not None and name.startswith(shown.prefix):
                yield from shown.show(info)
        elif info.is_marker:
            return
        elif component == POINTER and below is None:
            yield from self._enter(folder, info)
        else:
            yield info  # somebody's own, of the same name

    def _enter(self, folder: str, info: ObjectInfo) -> Iterable[ObjectInfo]:
        try:
            pointer = _read(self._store, info).pointer
            if pointer.holder is not None:
                self.shown = self._by_list(folder, pointer)
                return ()
        except (SourceChanged, ObjectNotFound) as error:
            # What is listed next may be older than the pointer that is there now: only a new listing is not.
            path = folder.removesuffix("/")
            now = pointer_of(self._store, path)
            if now is None or now.pointer.in_place:
                raise _anew(self._store, folder) from error
            if now.pointer.holder is not None:
                return listed(self._store, path, now.pointer.generation)
            return _Generation(self._store, folder, now.pointer).all()
        self.shown = None if pointer.in_place else _Generation(self._store, folder, pointer)
        return ()

    def _by_list(self, folder: str, pointer: Pointer) -> _ByList:
        files = files_of(self._store, folder.removesuffix("/"), pointer.generation)
        return _ByList(self._store, folder, files)

    def leave(self) -> Iterable[ObjectInfo]:
        """Return what is still to come of what the folder shows, when all that it has came."""
        shown, self.shown = self.shown, None
        return shown.leave() if shown is not None else ()


def _split(name: str, at: int) -> tuple[str, str, str | None] | None:
    """Return the prefix of a published folder, the component that makes it one, and what comes below that.

    None where the name, from place `at` on, has no such component.
    """
    while True:
        end = name.find("/", at)
        component = name[at:] if end < 0 else name[at:end]
        if component in {POINTER, DATA}:
            return name[:at], component, None if end < 0 else name[end + 1 :]
        if end < 0:
            return None
        at = end + 1


def _anew(store: ObjectStore, folder: str) -> SourceChanged:
    return SourceChanged(
        f"{_shown(store, folder)} was published anew, or taken back, while it was listed. Run it again."
    )


class _Generation:
    """The generation that a folder shows, as a listing brings it."""

    def __init__(self, store: ObjectStore, folder: str, pointer: Pointer) -> None:
        self.data = f"{folder}{DATA}/"
        self.prefix = f"{self.data}{pointer.generation}/"
        self._store, self._folder, self._pointer = store, folder, pointer
        self._count = self._bytes = 0

    def show(self, info: ObjectInfo) -> Iterator[ObjectInfo]:
        """Give an object under the name that the folder shows; its marker is the folder's own."""
        if below := info.name[len(self.prefix) :]:
            self._count += not info.is_marker
            self._bytes += info.size
            yield info._replace(name=self._folder + below, stored_as=info.name)

    def all(self) -> Iterator[ObjectInfo]:
        """List the generation by itself."""
        for info in list_objects(self._store, self.prefix):
            yield from self.show(info)
        self.leave()

    def leave(self) -> Iterable[ObjectInfo]:
        """Return when all that was published came, with nothing more.

        Raises:
            IntegrityError: some of it is gone, or more is there.
        """
        pointer = self._pointer
        if (self._count, self._bytes) != (pointer.count, pointer.size):
            raise IntegrityError(
                f"{_shown(self._store, self._folder)} was published with {pointer.count} objects of {pointer.size} "
                f"bytes, and has {self._count} of {self._bytes}: it was taken back while it was listed, or somebody "
                "changed it below. Run it again; if it stays so, publish it again."
            )
        return ()


class _ByList:
    """The generation that a folder shows by a list, as a listing of all generations brings it."""

    def __init__(self, store: ObjectStore, folder: str, files: list[Listed]) -> None:
        self.data = self.prefix = f"{folder}{DATA}/"
        self._store, self._folder, self._files = store, folder, files
        self._wanted = {file.at for file in files}
        self._found: dict[str, ObjectInfo] = {}

    def show(self, info: ObjectInfo) -> Iterable[ObjectInfo]:
        """Keep an object: names of the list have another order."""
        if (at := info.name[len(self.prefix) :]) in self._wanted:
            self._found[at] = info
        return ()

    def leave(self) -> Iterable[ObjectInfo]:
        """Return all that the folder shows, when every object of it is there as it was stored.

        Raises:
            IntegrityError: one is not.
        """
        return [self._info(file) for file in self._files]

    def _info(self, file: Listed) -> ObjectInfo:
        info = self._found.get(file.at)
        if info is None or info.size != file.size or info.digest not in {None, file.md5}:
            what = "is gone" if info is None else "is another one"
            raise IntegrityError(
                f"{_shown(self._store, self._folder)} shows {file.name!r}, whose content {what}: newer checkpoints were "
                "made while it was listed, or somebody changed it below. Run it again."
            )
        name = f"{self._folder}{file.name}"
        return info._replace(name=name, stored_as=info.name, digest=file.md5)


# -- one place ------------------------------------------------------------------------------------


def is_file(store: ObjectStore, path: str) -> ObjectInfo | None:
    """Return the object when `path` names one, None when it is a folder (or nothing yet).

    Raises:
        NameCollision: it is both.
    """
    if not path:
        return None
    try:
        info = store.head(ObjectName(path))
    except ObjectNotFound:
        return None
    if info.is_marker:
        return None
    if any(True for _ in list_objects(store, folder_prefix(path), limit=1)):
        raise NameCollision(
            f"{store.url}/{path} is an object and a folder at once; name what is below it."
        )
    return info


def at(store: ObjectStore, path: str) -> tuple[ObjectInfo | None, Iterator[ObjectInfo]]:
    """Return the object when `path` names one, and else what is below it, as readers see it.

    Raises:
        NameCollision: it is an object and a folder at once.
        IntegrityError, SourceChanged: as `objects` says.
    """
    single = is_file(store, path)
    if single is not None:
        return single, iter([single])
    listing = objects(store, folder_prefix(path))
    first = next(listing, None)
    if first is not None or not path:
        return None, chain(() if first is None else (first,), listing)
    single = inside(store, path)
    if single is not None:
        return single, iter([single])
    return None, _below(store, path)


def where(store: ObjectStore, path: str) -> tuple[ObjectInfo | None, str]:
    """Return the object when `path` names one, and else the prefix below which readers find the folder's content.

    What a published folder there shows is not looked at: its pointer stands below the prefix.

    Raises:
        NameCollision: it is an object and a folder at once.
        ObjectNotFound: nothing is there.
    """
    single, prefix = is_file(store, path), folder_prefix(path)
    if single is not None:
        return single, ""
    if not path or any(True for _ in list_objects(store, prefix, limit=1)):
        return None, prefix
    single = inside(store, path)
    if single is not None:
        return single, ""
    if (found := _holder(store, path)) is not None:
        inner = f"{found.prefix}{found.below}/"
        if found.is_list and next(iter(found.files(store, below=True)), None) is not None:
            return None, inner
        if any(True for _ in list_objects(store, inner, limit=1)):
            return None, inner
    raise ObjectNotFound(f"There is nothing at {_shown(store, path)}.")


def lies_in_published(store: ObjectStore, path: str) -> bool:
    """Tell whether a path lies in a folder that was published at once, or is one."""
    folders = (path, *parents(path), "") if path else ("",)
    return any(pointer_of(store, folder) is not None for folder in folders)


def inside(store: ObjectStore, path: str) -> ObjectInfo | None:
    """Return the object that a published folder shows at `path`, or None; for a path where nothing else is."""
    found = _holder(store, path)
    if found is None:
        return None
    name, digest = f"{found.prefix}{found.below}", None
    if found.is_list:
        file = next(iter(found.files(store)), None)
        if file is None:
            return None
        name, digest = f"{found.data}{file.at}", file.md5
    try:
        info = store.head(ObjectName(name))
    except ObjectNotFound:
        return None
    if info.is_marker:
        return None
    return info._replace(name=path, stored_as=info.name, digest=digest or info.digest)


def _below(store: ObjectStore, path: str) -> Iterator[ObjectInfo]:
    """Give what a published folder above `path` shows below it."""
    found = _holder(store, path)
    if found is None:
        return
    generation = found.pointer.generation
    if found.is_list:
        try:
            shown = listed(store, found.folder, generation)
        except ObjectNotFound as error:
            raise _anew(store, path) from error
        yield from (info for info in shown if info.name.startswith(f"{path}/"))
        return
    prefix, below = found.prefix, found.below
    for info in list_objects(store, f"{prefix}{below}/"):
        if shown_as := info.name[len(prefix) :]:
            name = f"{path}{shown_as[len(below) :]}"
            yield info._replace(name=name, stored_as=info.name)
    # A part of a generation has no count: it was whole when the generation is still there now.
    now = pointer_of(store, found.folder)
    if now is None or generation not in {now.pointer.generation, now.pointer.previous}:
        raise _anew(store, path)


@dataclass(frozen=True)
class _Holding:
    """The published folder that holds a path, what it shows, and the name of the path in it."""

    folder: str
    pointer: Pointer
    below: str

    @property
    def data(self) -> str:
        return f"{folder_prefix(self.folder)}{DATA}/"

    @property
    def prefix(self) -> str:
        return f"{self.data}{self.pointer.generation}/"

    @property
    def is_list(self) -> bool:
        return self.pointer.holder is not None

    def files(self, store: ObjectStore, *, below: bool = False) -> Iterator[Listed]:
        """Give what a list has at the path, or below it."""
        with contextlib.suppress(ObjectNotFound):
            for file in files_of(store, self.folder, self.pointer.generation):
                if file.name.startswith(f"{self.below}/") if below else file.name == self.below:
                    yield file


def _holder(store: ObjectStore, path: str) -> _Holding | None:
    """Return what holds a path, where that is a folder whose objects lie elsewhere than in itself."""
    for folder in (*parents(path), ""):
        standing = pointer_of(store, folder)
        if standing is not None:
            if standing.pointer.in_place:
                return None
            return _Holding(folder, standing.pointer, path[len(folder_prefix(folder)) :])
    return None

"""What every decorator of a store is: a store whose requests all pass one place.

A concern of all stores (retry, a limit, backpressure) says there what it has to do around a request;
a method that is added to `ObjectStore` is added here, and no decorator can forget it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Generic, Protocol, TypeVar

from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Capabilities,
    Extras,
    FolderInfo,
    Later,
    ObjectInfo,
    ObjectStore,
    Page,
    Pending,
    Writing,
)

Result = TypeVar("Result")


class Around(Protocol):
    """Makes one request, and does something around it."""

    def __call__(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        """Return what `request` returns.

        `what` is for people, `size` the bytes of content that travel. With `asks=False` it may be
        done without asking the service, so that its success says nothing about it.
        """


class Ahead(Protocol):
    """Begins one request, and does something around it."""

    def __call__(
        self,
        what: str,
        begin: Callable[[], Pending[Result]],
        request: Callable[[], Result],
        *,
        size: int = 0,
    ) -> Pending[Result]:
        """Return what `begin` returns, with something around its end; `request` makes it at once."""


class Wrapped(Generic[Result]):
    """A request that was begun, with something around its end."""

    __slots__ = ("_around", "_dropped", "_pending")

    def __init__(
        self,
        pending: Pending[Result],
        around: Callable[[Callable[[], Result]], Result],
        dropped: Callable[[], None] | None = None,
    ) -> None:
        """Take over a request: `around` is given what finishes it, `dropped` is called where nobody does."""
        self._pending, self._around, self._dropped = pending, around, dropped

    @property
    def is_under_way(self) -> bool:
        """Whether somebody works on it."""
        return self._pending.is_under_way

    def go_on(self) -> bool:
        """Make the next request, where several are needed."""
        return self._pending.go_on()

    def finish(self) -> Result:
        """Wait for the answer and return it."""
        self._dropped = None
        return self._around(self._pending.finish)

    def drop(self) -> None:
        """Do not wait for the answer."""
        self._pending.drop()
        if self._dropped is not None:
            self._dropped()
            self._dropped = None


class DecoratedStore(ABC):
    """`inner`, with something around each of its requests."""

    def __init__(self, inner: ObjectStore) -> None:
        """Decorate a store."""
        self._inner = inner
        self._known: Capabilities | None = None

    @abstractmethod
    def _around(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        """Make one request, as `Around` says."""

    def _ahead(
        self,
        what: str,
        begin: Callable[[], Pending[Result]],
        request: Callable[[], Result],
        *,
        size: int = 0,
    ) -> Pending[Result]:
        """Begin one request whose answer is finished later; `request` makes it at once.

        A decorator that cannot do its part without waiting leaves it for later.
        """
        return Later(lambda: self._around(what, request, size=size))

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do."""
        if self._known is None:  # some services have to be asked
            self._known = self._around(
                "learn what the service can do", lambda: self._inner.capabilities, asks=False
            )
        return self._known

    def name_rules(self) -> NameRules:
        """Say which names the service takes for one."""
        return self._around("learn the name rules", self._inner.name_rules, asks=False)

    def create_root(self) -> None:
        """Make the container unless it exists."""
        self._around("make the container", self._inner.create_root)

    def check_root(self) -> None:
        """Raise unless the container can be listed."""
        self._around("look at the container", self._inner.check_root)

    def check_write(self, name: ObjectName) -> None:
        """Raise unless an object could be written there."""
        self._around("try to write", lambda: self._inner.check_write(name))

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page."""
        ask = self._inner.list_page
        return self._around(
            "list", lambda: ask(prefix, marker=marker, recursive=recursive, limit=limit)
        )

    def page_by_component(self, prefix: str, *, marker: str | None = None) -> Page:
        """Return one page by components."""
        ask = self._inner.page_by_component
        return self._around("list", lambda: ask(prefix, marker=marker))

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one object."""
        return self._around("look at the object", lambda: self._inner.head(name))

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> bytes | None:
        """Fill `buffer` from one version; a try begins at the first byte again."""
        return self._around(
            "read",
            lambda: self._inner.read_into(name, offset, buffer, pin=pin),
            size=len(buffer),
            asks=len(buffer) > 0,
        )

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Pending[bytes | None]:
        """Ask for what `read_into` fills `buffer` with."""
        return self._ahead(
            "read",
            lambda: self._inner.begin_read(name, offset, buffer, pin=pin),
            lambda: self._inner.read_into(name, offset, buffer, pin=pin),
            size=len(buffer),
        )

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> Writing:
        """Begin an object whose parts and commit are decorated as well."""
        writing = self._begin(name, size, replaces=replaces, if_absent=if_absent, extras=extras)
        late = self.capabilities.commits_with_content
        return DecoratedWriting(writing, size, self._around, self._ahead, late=late)

    def _begin(
        self, name: ObjectName, size: int, *, replaces: str | None, if_absent: bool, extras: Extras
    ) -> Writing:
        begin = self._inner.begin_write
        return self._around(
            "begin to write",
            lambda: begin(name, size, replaces=replaces, if_absent=if_absent, extras=extras),
            asks=False,
        )

    def properties(self, name: ObjectName, *, pin: str | None) -> Mapping[str, str]:
        """Return what the service keeps of a version beside its content."""
        return self._around("read the properties", lambda: self._inner.properties(name, pin=pin))

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one object."""
        self._around("delete", lambda: self._inner.delete(name, pin=pin))

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None = None,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Give an object another name."""
        ask = self._inner.move
        return self._around(
            "move", lambda: ask(name, to, pin=pin, replaces=replaces, if_absent=if_absent)
        )

    def make_folder(self, name: ObjectName) -> bool:
        """Make a folder that stays while nothing is in it; tell whether it was not there."""
        return self._around("make the folder", lambda: self._inner.make_folder(name))

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove a folder in which nothing is."""
        self._around("remove the empty folder", lambda: self._inner.remove_empty_folder(name))

    def swaps_folders(self) -> bool:
        """Tell whether two folders can take each other's name in one step."""
        return self._around("ask about folders", self._inner.swaps_folders, asks=False)

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Give a folder another name."""
        self._around("rename the folder", lambda: self._inner.move_folder(name, to, over=over))

    def remove_folder(self, name: ObjectName) -> None:
        """Remove a folder with all below it."""
        self._around("remove the folder", lambda: self._inner.remove_folder(name))

    def folder_info(self, name: ObjectName, *, properties: bool) -> FolderInfo:
        """Return what is told of a folder."""
        ask = self._inner.folder_info
        return self._around("look at the folder", lambda: ask(name, properties=properties))

    def give_folder(self, name: ObjectName, extras: Extras) -> None:
        """Give a folder a time and properties."""
        self._around("set the folder's properties", lambda: self._inner.give_folder(name, extras))

    def interrupt(self) -> None:
        """Break the requests under way."""
        self._inner.interrupt()

    def close(self) -> None:
        """Let go of connections."""
        self._inner.close()


class DecoratedWriting:
    """A writing with something around each of its requests."""

    def __init__(
        self, inner: Writing, size: int, around: Around, ahead: Ahead, *, late: bool = False
    ) -> None:
        """Decorate a writing of `size` bytes; an only part that is `late` travels with the commit."""
        self._inner, self._size, self._late = inner, size, late
        self._around, self._ahead = around, ahead
        self._with_commit = 0

    @property
    def token(self) -> str:
        """What tells the parts of this writing from those of others."""
        return self._inner.token

    def make_ready(self) -> None:
        """Do what is to be done before the first part."""
        self._around("make ready for parts", self._inner.make_ready)

    def token_after(self, token: str) -> str:
        """Return the token that parts of an earlier writing have once they are taken over."""
        return self._inner.token_after(token)

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        """Go on with an earlier writing of the object."""
        return self._around("look for kept parts", lambda: self._inner.take_over(token, parts))

    def keep_part(self, index: int, length: int, token: str) -> None:
        """Take a kept part for part `index`."""
        self._inner.keep_part(index, length, token)

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Store one part."""
        late = self._late and len(data) == self._size
        self._with_commit = len(data) if late else 0
        self._around(
            "write a part",
            lambda: self._inner.write_part(index, offset, data),
            size=0 if late else len(data),
            asks=not late,
        )

    def commit(self, digest: bytes) -> ObjectInfo:
        """Make the whole visible."""
        return self._around("commit", lambda: self._inner.commit(digest), size=self._with_commit)

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        """Ask for the commit."""
        return self._ahead(
            "commit",
            lambda: self._inner.begin_commit(digest),
            lambda: self._inner.commit(digest),
            size=self._with_commit,
        )

    def abort(self, *, keep: bool = False) -> None:
        """Leave nothing behind, or what the next writing can take over."""
        self._inner.abort(keep=keep)

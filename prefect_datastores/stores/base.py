"""What a store is: the one interface between the engines and a service.

A store is used by many threads at once. Every method is one request, or a few, and may be called
again after it failed: retry, limits and the like are decorators of this interface (`retry(store)`),
never code inside a store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from prefect_datastores.errors import ConfigurationError, SourceChanged, TransferError
from prefect_datastores.names import NameRules, ObjectName

_OF_NOTHING = hashlib.md5(b"", usedforsecurity=False).digest()

Result_co = TypeVar("Result_co", covariant=True)
Answer = TypeVar("Answer")


class ObjectInfo(NamedTuple):  # made for each object that is listed: half the time of a dataclass
    """One object as a listing or a HEAD shows it.

    `name` is what the service said, unchecked: it becomes an `ObjectName` or a `RelativePath`
    before it is used. `etag` stands for one version of the content. `digest` is the MD5 of the
    whole, where the service holds one. `modified` is in seconds since the epoch. `stored_as` is
    the name that the service has, where a folder shows the object under another one.
    """

    name: str
    size: int
    etag: str
    digest: bytes | None = None
    modified: float | None = None
    is_marker: bool = False
    stored_as: str = ""

    @property
    def asked(self) -> str:
        """The name by which the service is asked for the object."""
        return self.stored_as or self.name


@dataclass(frozen=True)
class Page:
    """One page of a listing; `marker` asks for the next, None means that this is the last."""

    objects: tuple[ObjectInfo, ...] = ()
    folders: tuple[str, ...] = ()
    marker: str | None = None


@dataclass(frozen=True)
class Capabilities:
    """What the service behind a store can do, so that engines ask instead of guessing."""

    kind: str
    stores_digest: bool = False
    lists_digest: bool = True
    """A listing tells the digests that are stored; else only a HEAD and a read do."""
    part_size: int = 4 * 2**20
    max_part_size: int = (
        4000 * 2**20
    )  # the largest block of a block blob, service version 2019-12-12
    max_parts: int = 50_000
    page_size: int = 5000
    is_remote: bool = True
    begins_ahead: bool = False
    """Reads that are begun are under way before they are finished."""
    commits_ahead: bool = False
    """And so are commits."""
    commits_with_content: bool = False
    """The only part of an object travels with its commit, in one request."""
    lists_by_folder: bool = False
    """A listing is of one folder; one of all below it is made of many."""
    has_folders: bool = False
    """Folders are things of their own, which stay when empty and get another name in one step."""
    moves_in_one_step: bool = False
    """An object gets another name in one step; else it is copied, and both names hold the whole for a while."""
    keeps_times: bool = False
    """An object can be given the time of its last change."""
    properties: str = ""
    """The kind of properties that objects have beside their content; "" for none."""


@dataclass(frozen=True)
class Extras:
    """What an object is given beside its content, in the step in which it becomes visible.

    `modified` is the time of its last change, in nanoseconds since the epoch. `properties` are such
    as `ObjectStore.properties` tells of another object. With `keeps_properties`, an object that is
    given none gets those of the one that it replaces.
    """

    modified: int | None = None
    properties: Mapping[str, str] | None = None
    keeps_properties: bool = False

    @property
    def has_properties(self) -> bool:
        """Whether anything is said about properties."""
        return self.keeps_properties or self.properties is not None


NO_EXTRAS = Extras()


class Pending(Protocol[Result_co]):
    """What was asked for, and whose answer is still to come; for one thread, which has many of them."""

    @property
    def is_under_way(self) -> bool:
        """Whether somebody works on it; else nothing is gained by having it before it is wanted."""

    def go_on(self) -> bool:
        """Where it takes several requests: wait for an answer, and make the next; tell whether one was.

        It raises nothing: `finish` does.
        """

    def finish(self) -> Result_co:
        """Wait for the answer and return it; raise what asking for it at once would have raised."""

    def drop(self) -> None:
        """Do not wait any more; nothing to do once it is finished."""


class Later(Generic[Answer]):
    """A request that is only made when its answer is wanted."""

    __slots__ = ("finish",)
    is_under_way = False

    def __init__(self, request: Callable[[], Answer]) -> None:
        """Ask nobody yet."""
        self.finish = request

    def go_on(self) -> bool:
        """Tell that nothing follows."""
        return False

    def drop(self) -> None:
        """Do nothing: nobody was asked."""


class Failed(Generic[Answer]):
    """A request that failed when it was to be made; its end tells so."""

    __slots__ = ("_error",)
    is_under_way = True

    def __init__(self, error: Exception) -> None:
        """Keep the error."""
        self._error = error

    def finish(self) -> Answer:
        """Raise the error."""
        raise self._error

    def go_on(self) -> bool:
        """Tell that nothing follows."""
        return False

    def drop(self) -> None:
        """Do nothing."""


class Writing(Protocol):
    """One object being written. Nobody sees anything of it before `commit`."""

    @property
    def token(self) -> str:
        """What tells the parts of this writing from those of others; "" where none outlive it."""

    def make_ready(self) -> None:
        """Do what is to be done before the first part; from then on the `token` is known."""

    def token_after(self, token: str) -> str:
        """Return the token that parts of an earlier writing have once they are taken over."""

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        """Go on with an earlier writing of the object; return which of its parts the service holds.

        `parts` has the lengths, by index, of those of which the service once said that it has them.
        What is taken over belongs to nobody else from then on. A writing that can go on with one
        other alone takes the first that is there, and leaves nothing of the next.
        """

    def keep_part(self, index: int, length: int, token: str) -> None:
        """Take a kept part for part `index`; the caller knows that its content is the same."""

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Store part `index`, whose first byte is at `offset`; in any order, from any thread."""

    def commit(self, digest: bytes) -> ObjectInfo:
        """Make the whole visible in one step and keep `digest`, its MD5, with it.

        Raises:
            ObjectExists: it was to be new, or to replace one version, and that no longer holds.
        """

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        """Ask for `commit`, whose answer comes to who finishes it; not to be asked for twice at once."""

    def abort(self, *, keep: bool = False) -> None:
        """Leave nothing behind that a reader or the next attempt would see.

        With `keep`, what the next writing can take over stays.
        """


class ObjectStore(Protocol):
    """Objects by name, in one container (or share, or folder) of a service."""

    @property
    def url(self) -> str:
        """Where the store is, for people and for cache keys; never with a secret."""

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do."""

    def name_rules(self) -> NameRules:
        """Say which names the service takes for one; needs the container to exist."""

    def create_root(self) -> None:
        """Make the container unless it exists.

        Raises:
            AuthenticationFailed, AccessDenied, EndpointUnreachable: why it could not be made.
        """

    def check_root(self) -> None:
        """Return when the container exists and the credential may list it.

        Raises:
            ContainerNotFound: the container is missing.
            AuthenticationFailed: the key, token or identity is wrong.
            AccessDenied: the right to list is missing.
            EndpointUnreachable: the account's host does not exist or does not answer.
        """

    def check_write(self, name: ObjectName) -> None:
        """Return when an object could be written at `name`; nobody sees anything of the try.

        Raises:
            ContainerNotFound, AuthenticationFailed, AccessDenied, AccessError: why it could not.
        """

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page of the objects whose names begin with `prefix`, in name order.

        With `recursive=False` what lies deeper than the next `/` is folded into `folders`.

        Raises:
            ContainerNotFound: a missing container is no empty listing.
        """

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one object.

        Raises:
            ObjectNotFound: the service says that it does not exist; no other answer means that.
        """

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> bytes | None:
        """Fill the whole of `buffer` from `offset` of the version whose ETag is `pin`.

        Return the MD5 of the whole object where the service told it with the bytes.

        Raises:
            SourceChanged: the object is no longer that version.
            IntegrityError: the service sent fewer or other bytes than were asked for.
            ObjectNotFound: it is gone.
        """

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Pending[bytes | None]:
        """Ask for what `read_into` fills `buffer` with; it is filled when the answer is finished."""

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> Writing:
        """Begin an object of `size` bytes; parts are `part_size(size)` long, the last one shorter.

        `replaces` commits only over the version with that ETag; `if_absent` only where none is.

        Raises:
            ConfigurationError: the store does not keep what `extras` has.
            TransferError: the properties are none that the service could have told.
        """

    def properties(self, name: ObjectName, *, pin: str | None) -> Mapping[str, str]:
        """Return what the service keeps of a version beside its content; only where `capabilities` name a kind.

        Raises:
            ObjectNotFound: there is none.
            SourceChanged: it is another version than `pin`.
            TransferError: the service told what cannot be.
        """

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one object, or only its version `pin`.

        Raises:
            ObjectNotFound: there is none.
            SourceChanged: it is another version than `pin`.
        """

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None = None,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Give an object another name; return what stands there then.

        Readers of `to` see what was there before, or the whole of this. With `pin`, only that version
        is moved; `replaces` and `if_absent` are those of `begin_write`, for `to`. With neither, whatever
        object stands there is replaced. Where this ends half way, `name` or both names hold the whole;
        asked for again by the same process, it is gone on with, and done where only its answer was lost.

        Raises:
            ObjectNotFound: no object stands at `name`.
            TransferError: among others, it is not known whether a try whose answer was lost was done.
            SourceChanged: it is another version than `pin`.
            ObjectExists: `to` is not as `replaces` or `if_absent` has it.
            PlaceTaken: a folder stands at `to`.
            NameCollision: the names differ, and are one to the service.
        """

    def make_folder(self, name: ObjectName) -> None:
        """Make a folder that stays while nothing is in it; one that is there already is fine.

        Those above it are made as well where folders are things of their own; elsewhere it is a marker.

        Raises:
            PlaceTaken: an object stands there, or where folders are things of their own, above it.
        """

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove a folder in which nothing is.

        Raises:
            FolderNotEmpty: something is in it.
            ObjectNotFound: there is no folder, or an object stands there.
        """

    def swaps_folders(self) -> bool:
        """Tell whether two folders can take each other's name in one step; False without `has_folders`."""

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Give a folder, with all below it, another name in one step; only with `has_folders`.

        With `over`, an object below `to` and its ETag, what stands at `to` gets `name` in the same
        step, while the object is that version; only where the store `swaps_folders`.

        Raises:
            ObjectNotFound: nothing stands at `name`.
            PlaceTaken: something stands at `to`, and `over` is None. An empty folder gives way.
            ObjectExists: the object is another version, or gone.
        """

    def remove_folder(self, name: ObjectName) -> None:
        """Remove a folder with all below it; nothing there is fine. Only with `has_folders`."""

    def interrupt(self) -> None:
        """Break the requests under way, and refuse others; callable from a signal's handler.

        They raise `ServiceBusy`, as if their connections had broken.
        """

    def close(self) -> None:
        """Let go of connections; the store is not used again."""


class NoProperties:
    """What a store answers whose objects are content, and nothing beside it."""

    def properties(self, name: ObjectName, *, pin: str | None) -> Mapping[str, str]:
        """Refuse: `capabilities` name no kind of properties."""
        raise NotImplementedError


class NoFolders:
    """What a store answers in which a folder is no more than the names that begin with it."""

    def swaps_folders(self) -> bool:
        """Tell that no folders can take each other's name."""
        return False

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Refuse: `has_folders` is not set."""
        raise NotImplementedError

    def remove_folder(self, name: ObjectName) -> None:
        """Refuse: `has_folders` is not set."""
        raise NotImplementedError


def check_kept(store: ObjectStore, *, times: bool, properties: bool) -> None:
    """Return when objects of the store can be given times, and have properties, as far as that is wanted.

    Raises:
        ConfigurationError: they cannot.
    """
    can = store.capabilities
    if times and not can.keeps_times:
        raise ConfigurationError(
            f"keep_times=True cannot be had in {store.url}: {can.kind} sets the time of each object itself. "
            "Leave keep_times out, or upload to a file share or a local folder. Nothing was moved."
        )
    if properties and not can.properties:
        raise ConfigurationError(
            f"keep_properties=True cannot be had in {store.url}: {can.kind} has no attributes and no access "
            "control of single objects. Leave keep_properties out; file shares have such properties, and "
            "data lakes with a hierarchical namespace. Nothing was moved."
        )


def check_extras(store: ObjectStore, extras: Extras) -> None:
    """Return when the store keeps what an object is to be given; it raises what `check_kept` does."""
    check_kept(store, times=extras.modified is not None, properties=extras.has_properties)


def stored_digest(store: ObjectStore, info: ObjectInfo) -> bytes | None:
    """Return the MD5 that the service holds of a listed version; where listings tell none, it is asked for.

    Raises:
        SourceChanged: it is another version by now.
    """
    if info.digest is not None or store.capabilities.lists_digest:
        return info.digest
    if not info.size:
        return _OF_NOTHING
    now = store.head(ObjectName(info.asked))
    if now.etag != info.etag:
        raise SourceChanged(f"{info.name!r} changed since it was listed.")
    return now.digest


def part_size(capabilities: Capabilities, size: int) -> int:
    """Return the length of an object's parts: the usual one, or more where parts would run out.

    Raises:
        TransferError: the service cannot hold an object of that size.
    """
    usual = capabilities.part_size
    needed = -(-size // capabilities.max_parts)
    chosen = max(usual, -(-needed // usual) * usual)
    if chosen > capabilities.max_part_size:
        raise TransferError(
            f"An object of {size} bytes is larger than {capabilities.kind} can hold."
        )
    return chosen

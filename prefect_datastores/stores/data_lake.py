"""Files of one filesystem of Azure Data Lake Storage Gen2.

Bytes and listings go by the Blob endpoint, as for any container; folders, which a hierarchical
namespace has as things of their own, by the DFS endpoint. Without such a namespace the filesystem
is a container, and nothing else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    EndpointUnreachable,
    FolderMissing,
    FolderNotEmpty,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PartsRefused,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores import access_control
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Capabilities,
    Extras,
    ObjectInfo,
    Page,
    Pending,
    check_extras,
)
from prefect_datastores.stores.blob import BlobStore, BlobWriting, conditions_of
from prefect_datastores.stores.data_lake_moving import DataLakeMoves
from prefect_datastores.stores.data_lake_writing import DataLakeWriting
from prefect_datastores.stores.decorated import Wrapped
from prefect_datastores.stores.hierarchy import is_hierarchical
from prefect_datastores.stores.listed import page_in_order
from prefect_datastores.stores.signing import signer_of
from prefect_datastores.stores.unfinished import SWEPT_AT_ONCE, UNFINISHED, Unfinished

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

# Measured on the service: control characters are refused, and more components than these.
_REFUSED = frozenset(map(chr, range(32))) | {"\x7f"}
_MOST_COMPONENTS, _MOST_FLAT = 61, 255
_DIRECTORY = (("resource", "directory"),)
_ACCESS = (("action", "getAccessControl"),)
_SET_ACCESS = (("action", "setAccessControl"),)
_WHERE_NONE_IS = {"If-None-Match": "*"}
# What the SDKs send: by the other mode, a folder moves into one that has the name.
_RENAME = (("mode", "legacy"),)
# The service checks the rights of so many paths a request, and removes all of them by the last one.
_ONLY_EMPTY = (("recursive", "false"),)
_REMOVE = (("recursive", "true"), ("paginated", "true"))
_NONE: Mapping[str, str] = MappingProxyType({})
_MAY_BE_DONE = (ServiceBusy, EndpointUnreachable)


class DataLakeStore(BlobStore):
    """One filesystem; what kind of namespace it has is asked for once, when it first matters."""

    def __init__(
        self,
        account_url: str,
        filesystem: str,
        *,
        dfs_url: str,
        account_name: str | None = None,
        account_key: str | None = None,
        sas_token: str | None = None,
        token: TokenCredential | None = None,
    ) -> None:
        """Name the filesystem, and both endpoints of its account; no request is made before the first use.

        Raises:
            ConfigurationError: an address is none.
            AuthenticationFailed: the account key is none.
        """
        given = {"account_key": account_key, "sas_token": sas_token}
        super().__init__(account_url, filesystem, account_name=account_name, token=token, **given)
        signer = signer_of(account_url, account_name, token=token, **given)
        self._dfs = AzureService(dfs_url, filesystem, signer)
        self._by_token = token is not None
        self._is_anonymous = not (account_key or sas_token or token)
        self._unfinished = Unfinished(
            lambda: self.list_page(f"{UNFINISHED}/", recursive=False, limit=SWEPT_AT_ONCE).objects,
            lambda name: self.delete(ObjectName(name)),
        )
        self._renames = DataLakeMoves(self)
        self._asking = threading.Lock()
        self._folders: bool | None = None

    def _has_folders(self) -> bool:
        """Tell whether the namespace is hierarchical."""
        with self._asking:
            if self._folders is None and self._is_anonymous:
                # Nobody is told. Who may only read is served right by folders, whatever it is.
                self._folders = True
            if self._folders is None:
                self._folders = is_hierarchical(self._service, self._dfs, by_token=self._by_token)
            return self._folders

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do: with a hierarchical namespace, folders."""
        if not self._has_folders():
            return self.flat
        kind = "Azure Data Lake Storage Gen2"
        return replace(
            self.flat,
            kind=kind,
            has_folders=True,
            moves_in_one_step=True,
            lists_by_folder=True,
            properties=access_control.KIND,
        )

    def name_rules(self) -> NameRules:
        """Tell names by case, but not by dots at a component's end, which the service strips."""
        return NameRules(
            strips_trailing_dots=True,
            refused_characters=_REFUSED,
            most_components=_MOST_COMPONENTS if self._has_folders() else _MOST_FLAT,
        )

    def check_root(self) -> None:
        """Raise unless the filesystem exists and can be listed."""
        self.list_page("", recursive=False, limit=1)

    def check_write(self, name: ObjectName) -> None:
        """Stage a block that is never committed; where it is refused for what stands there, rights are no matter."""
        with contextlib.suppress(PartsRefused, PlaceTaken):
            super().check_write(name)

    # -- listing --------------------------------------------------------------------------------

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page; of all below, in the order of whole names, which the service does not keep.

        It lists what is in `a` before what stands beside it as `a-b`.
        """
        if not self._has_folders():
            return super().list_page(prefix, marker=marker, recursive=recursive, limit=limit)
        if recursive:
            return page_in_order(self, prefix, marker, limit)
        try:
            page = self._page(prefix, marker, limit)
        except PlaceTaken:  # a file stands where the prefix has a folder
            return Page()
        if UNFINISHED in page.folders:
            shown = tuple(name for name in page.folders if name != UNFINISHED)
            page = replace(page, folders=shown)
        is_last_of_folder = prefix[-1:] == "/" and marker is None and page == Page()
        return self._empty_folder(prefix) if is_last_of_folder else page

    def _page(self, prefix: str, marker: str | None, limit: int) -> Page:
        """Return one page of a folder; those with nothing but a marker, which the service gives too, are passed."""
        seen: set[str] = set()
        while True:
            page = super().list_page(prefix, marker=marker, recursive=False, limit=limit)
            if page.objects or page.folders or page.marker is None or page.marker in seen:
                return page
            marker = page.marker
            seen.add(marker)

    def _empty_folder(self, prefix: str) -> Page:
        """Return a marker where a folder is that has nothing in it.

        A folder comes first of all names that begin with its own.
        """
        page = self._page(prefix[:-1], None, 1)
        if page.folders != (prefix[:-1],):
            return Page()
        return Page((ObjectInfo(prefix, 0, "", is_marker=True),))

    # -- reading --------------------------------------------------------------------------------

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one file."""
        info = super().head(name)
        if info.is_marker and self._has_folders():
            raise self._is_folder(name)
        return info

    def _is_folder(self, name: ObjectName) -> ObjectNotFound:
        return ObjectNotFound(f"{self.url}/{name} is a folder, and no object.")

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> bytes | None:
        """Fill `buffer` from one version."""
        read = super().read_into
        return self._of_file(name, lambda: read(name, offset, buffer, pin=pin))

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Pending[bytes | None]:
        """Ask for a range, which has at least one byte."""
        begun = super().begin_read(name, offset, buffer, pin=pin)
        return Wrapped(begun, lambda finish: self._of_file(name, finish))

    def _of_file(self, name: ObjectName, read: Callable[[], bytes | None]) -> bytes | None:
        """Read; a folder looks like a file that is too short."""
        try:
            return read()
        except IntegrityError:
            self.head(name)
            raise

    # -- writing --------------------------------------------------------------------------------

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> BlobWriting:
        """Begin a file: parts are staged, and seen by nobody before the commit."""
        if not self._has_folders():
            return super().begin_write(
                name, size, replaces=replaces, if_absent=if_absent, extras=extras
            )
        check_extras(self, extras)
        given = extras.properties
        if given is not None:
            access_control.checked(given, f"{self.url}/{name}")
        elif extras.keeps_properties and not if_absent:
            given = self.access_of(name)
            # What comes until the commit has access control that nobody looked at.
            if_absent = given is None and replaces is None
        writing = DataLakeWriting(
            self, self._service, name, size, conditions_of(replaces, if_absent)
        )
        if given is not None:
            writing.give_access(given, is_kept=extras.properties is None)
        return writing

    def properties(self, name: ObjectName, *, pin: str | None) -> Mapping[str, str]:
        """Return owner, group, permissions and access control list of one version."""
        headers = {"If-Match": pin} if pin else {}
        told = self._dfs.request("HEAD", name, _ACCESS, headers).headers
        return access_control.told_properties(told, f"{self.url}/{name}")

    def access_of(self, name: ObjectName) -> Mapping[str, str] | None:
        """Return the same of whichever version is there; None where none is."""
        try:
            return self.properties(name, pin=None)
        except ObjectNotFound:
            return None

    def give_access(self, name: ObjectName, wanted: Mapping[str, str]) -> None:
        """Give a file that nobody sees yet the owner and the access control that are wanted; its version stays."""
        given = access_control.changing_headers(wanted, self.properties(name, pin=None))
        if given:
            self._dfs.request("PATCH", name, _SET_ACCESS, given)

    def name_aside(self) -> ObjectName:
        """Return a name for what is to be renamed when it is whole."""
        self._unfinished.sweep()
        return self._unfinished.new_name()

    def put_in_place(
        self, written: ObjectInfo, to: ObjectName, conditions: Mapping[str, str]
    ) -> ObjectInfo:
        """Rename a file to the place of another, while that is as the conditions say.

        Raises:
            ObjectExists: it is not.
        """
        try:
            self.rename(ObjectName(written.name), to, conditions)
        except SourceChanged as error:
            raise ObjectExists(
                f"{self.url}/{to} was written by somebody else meanwhile; it was left as it is."
            ) from error
        except ObjectNotFound:  # a rename that was not answered was done
            if self.head(to).etag != written.etag:
                raise
        return written._replace(name=str(to))

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one file; by the DFS endpoint, as the other one deletes an empty folder as well."""
        if not self._has_folders():
            super().delete(name, pin=pin)
            return
        try:
            self._dfs.request("DELETE", name, headers={"If-Match": pin} if pin else {})
        except ServiceBusy:
            raise
        except TransferError:  # a folder asks for one parameter more
            self.head(name)
            raise

    def _moved(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None,
        replaces: str | None,
        if_absent: bool,
    ) -> ObjectInfo:
        """Rename a file, on conditions of both names; without folders, copy it."""
        move = self._renames.move if self._has_folders() else super()._moved
        return move(name, to, pin=pin, replaces=replaces, if_absent=if_absent)

    def standing(self, name: ObjectName) -> ObjectInfo | None:
        """Return what is known of a file or folder; None where there is none."""
        try:
            return super().head(name)
        except ObjectNotFound:
            return None

    # -- folders --------------------------------------------------------------------------------

    def make_folder(self, name: ObjectName) -> None:
        """Make a folder; the service makes those above it."""
        if not self._has_folders():
            super().make_folder(name)
            return
        try:
            self._dfs.request("PUT", name, _DIRECTORY, _WHERE_NONE_IS)
        except (ObjectExists, PlaceTaken):
            if self._version_of_folder(name) is None:
                raise PlaceTaken(
                    f"A file stands at {self.url}/{name} or above it, where a folder is to be."
                ) from None

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove a folder in which nothing is; the service removes no other without being told to."""
        if not self._has_folders():
            super().remove_empty_folder(name)
            return
        version = self._version_of_folder(name)
        if version is None:  # a file would be deleted as well
            raise ObjectNotFound(f"There is no folder {self.url}/{name}.")
        try:
            self._dfs.request("DELETE", name, _ONLY_EMPTY, {"If-Match": version})
        except SourceChanged:
            now = self._version_of_folder(name)
            if now is None:
                raise ObjectNotFound(f"There is no folder {self.url}/{name} any more.") from None
            self._dfs.request("DELETE", name, _ONLY_EMPTY, {"If-Match": now})

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Rename a folder, which keeps its version by that; so a rename that was not answered is known."""
        if not self._has_folders():
            super().move_folder(name, to, over=over)
            return
        version = self._version_of_folder(name)
        if version is None:
            raise ObjectNotFound(f"There is no folder {self.url}/{name}.")
        try:
            self.rename(name, to)
        except (ObjectExists, FolderNotEmpty):
            raise PlaceTaken(f"Something stands at {self.url}/{to} already.") from None
        except _MAY_BE_DONE:
            if self._version_of_folder(to) != version:
                raise

    def rename(
        self, name: ObjectName, to: ObjectName, conditions: Mapping[str, str] = _NONE
    ) -> None:
        """Give a file or folder another name while the conditions hold, and make the folders above it."""
        headers = {"x-ms-rename-source": self._dfs.signed_path(name), **conditions}
        try:
            self._dfs.request("PUT", to, _RENAME, headers)
        except FolderMissing:
            with contextlib.suppress(ObjectExists):
                self._dfs.request("PUT", to.rpartition("/")[0], _DIRECTORY, _WHERE_NONE_IS)
            self._dfs.request("PUT", to, _RENAME, headers)

    def _version_of_folder(self, name: ObjectName) -> str | None:
        """Return the ETag of a folder; None where none is."""
        found = self.standing(name)
        return found.etag if found is not None and found.is_marker else None

    def remove_folder(self, name: ObjectName) -> None:
        """Remove a folder with all below it."""
        if not self._has_folders():
            super().remove_folder(name)
            return
        if self._version_of_folder(name) is None:  # a file would be deleted as well
            return
        marker = ""
        seen: set[str] = set()
        with contextlib.suppress(ObjectNotFound):
            while True:
                query = (*_REMOVE, *((("continuation", marker),) if marker else ()))
                answer = self._dfs.request("DELETE", name, query)
                marker = answer.headers.get("x-ms-continuation", "")
                if not marker:
                    return
                if marker in seen:
                    raise IntegrityError(
                        f"Removing {self.url}/{name} repeats itself: it has no end."
                    )
                seen.add(marker)

    def interrupt(self) -> None:
        """Break the requests that are under way."""
        super().interrupt()
        self._dfs.interrupt()

    def close(self) -> None:
        """Let go of connections."""
        super().close()
        self._dfs.close()

"""Files of one Azure file share, by the documented protocol of Azure Files.

The service knows no conditional requests and no staged parts. So a file is written under a name of
its own in a hidden folder of the share, and renamed: which makes a new file only where none is, or
replaces one whole. Versions are compared before, under a lock of this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    FolderMissing,
    FolderNotEmpty,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import NameRules, ObjectName, parents
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.base import NO_EXTRAS, Capabilities, Extras, ObjectInfo, Page
from prefect_datastores.stores.connection import Answer
from prefect_datastores.stores.entries import entries_of, moment_of, ranges_of
from prefect_datastores.stores.listed import page_in_order
from prefect_datastores.stores.listing import digest_of
from prefect_datastores.stores.pages import quoted
from prefect_datastores.stores.ranges import Reading
from prefect_datastores.stores.refusals import FILE_ROLES
from prefect_datastores.stores.share_moving import ShareMoves
from prefect_datastores.stores.share_properties import (
    ATTRIBUTES,
    CREATED,
    KIND,
    PERMISSION,
    PERMISSION_KEY,
    WRITTEN,
    checked,
    moment_text,
    told_properties,
)
from prefect_datastores.stores.share_writing import (
    GrowingWriting,
    ShareWriting,
    digest_of_now,
    md5_text,
)
from prefect_datastores.stores.signing import signer_of
from prefect_datastores.stores.steps import Request, Result, Steps, carry_out
from prefect_datastores.stores.unfinished import SWEPT_AT_ONCE, UNFINISHED, Unfinished

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_VERSION = "2026-02-06"  # the first in which a file is made with its content, up to 4 MiB
_RANGE = 4 * 2**20  # the most that one request may write
_LARGEST = 4 * 2**40
_SHARE = (("restype", "share"),)
_DIRECTORY = (("restype", "directory"),)
_PERMISSION = (*_SHARE, ("comp", "filepermission"))
_LONGEST_IN_HEADER = 8000  # "8 KB" is documented, and azcopy takes them for these
_KEPT_PERMISSIONS = 1000
# "Naming and referencing shares, directories, files, and metadata", in Azure Files' reference.
_REFUSED = frozenset('"\\/:|<>*?') | frozenset(map(chr, range(32))) | {"\x7f"}
_LOCKS = 64
_NONE: Mapping[str, str] = MappingProxyType({})


class ShareStore:
    """One share. Reads are pinned to a version, ranges carry an MD5, a rename makes a file visible."""

    capabilities = Capabilities(
        kind="Azure Files",
        stores_digest=True,
        lists_digest=False,
        part_size=_RANGE,
        max_part_size=_RANGE,
        max_parts=_LARGEST // _RANGE,
        begins_ahead=True,
        commits_with_content=True,
        commits_ahead=True,
        lists_by_folder=True,
        has_folders=True,
        moves_in_one_step=True,
        keeps_times=True,
        properties=KIND,
    )

    def __init__(
        self,
        account_url: str,
        share: str,
        *,
        account_name: str | None = None,
        account_key: str | None = None,
        sas_token: str | None = None,
        token: TokenCredential | None = None,
        allow_trailing_dots: bool = False,
    ) -> None:
        """Name the share; no request is made before the first use.

        Raises:
            ConfigurationError: the address is none.
            AuthenticationFailed: the account key is none.
        """
        signer = signer_of(
            account_url, account_name, account_key=account_key, sas_token=sas_token, token=token
        )
        headers = headers_of(by_token=token is not None)
        if allow_trailing_dots:
            headers["x-ms-allow-trailing-dot"] = "true"
        self._dots = allow_trailing_dots
        self.service = AzureService(account_url, share, signer, headers, FILE_ROLES)
        self.url = self.service.url
        self.unfinished = Unfinished(
            lambda: self._list_folder(f"{UNFINISHED}/", None, SWEPT_AT_ONCE).objects,
            self.delete_unfinished,
        )
        self._permissions: dict[str, str] = {}
        self._moves = ShareMoves(self)
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def name_rules(self) -> NameRules:
        """Tell names apart as Windows does, and not by dots at their end unless those are allowed."""
        return NameRules(
            case_sensitive=False,
            strips_trailing_dots=not self._dots,
            refused_characters=_REFUSED,
        )

    def create_root(self) -> None:
        """Make the share unless it exists."""
        with contextlib.suppress(ObjectExists):
            self.service.request("PUT", query=_SHARE)

    def check_root(self) -> None:
        """Raise unless the share exists and can be listed."""
        self.list_page("", recursive=False, limit=1)

    def check_write(self, name: ObjectName) -> None:
        """Make an empty file in the hidden folder, and delete it."""
        self.delete_unfinished(self.new_file(0)[0])

    # -- listing --------------------------------------------------------------------------------

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page; one of all folders below takes a request for each (`list_objects` is quicker)."""
        if not recursive:
            return self._list_folder(prefix, marker, limit)
        return page_in_order(self, prefix, marker, limit)

    def _list_folder(self, prefix: str, marker: str | None, limit: int) -> Page:
        folder, _, begin = prefix.rpartition("/")
        asked = {"prefix": begin, "marker": marker or "", "maxresults": str(limit)}
        query = (
            *_DIRECTORY,
            ("comp", "list"),
            ("include", "Timestamps,Etag"),
            *((key, value) for key, value in asked.items() if value),
        )
        headers = {"x-ms-file-extended-info": "true"}
        try:
            body = self.service.request("GET", folder, query, headers).body
        except ObjectNotFound:  # gone, or a file
            return Page()
        found = entries_of(body)
        shown = f"{folder}/" if folder else ""
        files = [
            ObjectInfo(shown + name, size, _version(etag, written), None, moment_of(written))
            for name, size, etag, written in found.files
            if name.startswith(begin)  # the service's prefix knows no case
        ]
        folders = [
            shown + name
            for name in found.folders
            if name.startswith(begin) and (shown or name != UNFINISHED)
        ]
        if shown == prefix and folder and not (files or folders or marker or found.marker):
            files.append(ObjectInfo(prefix, 0, "", is_marker=True))
        return Page(tuple(files), tuple(folders), found.marker)

    # -- reading --------------------------------------------------------------------------------

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one file."""
        headers = self.service.request("HEAD", name).headers
        return self.info_of(name, headers, headers.get("content-length", ""))

    def stat(self, name: str, *, is_folder: bool = False) -> Mapping[str, str]:
        """Return what is told of a file, or of a folder, as headers have it; "" is the share's root."""
        return self.service.request("HEAD", name, _DIRECTORY if is_folder else ()).headers

    def info_of(
        self, name: ObjectName, headers: Mapping[str, str], length: str, digest: bytes | None = None
    ) -> ObjectInfo:
        """Return what an answer says of a file."""
        etag = headers.get("etag", "")
        written = headers.get(WRITTEN, "")
        if not length.isdecimal() or not etag:
            raise IntegrityError(
                f"{self.url}/{name} is there, but its length or version was not told; does a proxy drop headers?"
            )
        return ObjectInfo(
            name=str(name),
            size=int(length),
            etag=_version(quoted(etag), written),
            digest=digest
            or digest_of_now(headers, digest_of(headers.get("content-md5", "")), of_others=False),
            modified=moment_of(written),
        )

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> bytes | None:
        """Fill `buffer` from one version."""
        return self._reading(name, offset, buffer, pin, ahead=False).finish() if buffer else None

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Reading:
        """Ask for a range, which has at least one byte."""
        return self._reading(name, offset, buffer, pin, ahead=True)

    def _reading(
        self, name: ObjectName, offset: int, buffer: memoryview, pin: str | None, *, ahead: bool
    ) -> Reading:
        def check(headers: Mapping[str, str]) -> None:
            version = _version(headers.get("etag", ""), headers.get(WRITTEN, ""))
            if pin is not None and version != pin:
                raise SourceChanged(
                    f"{self.url}/{name} is another version than the one that was asked for."
                )

        def whole(headers: Mapping[str, str]) -> bytes | None:
            digest = digest_of(headers.get("x-ms-content-md5", ""))
            return digest_of_now(headers, digest, of_others=True)

        return Reading(
            self.service, name, offset, buffer, {}, ahead=ahead, check=check, whole=whole
        )

    # -- writing --------------------------------------------------------------------------------

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> ShareWriting:
        """Begin a file, under another name until it is committed."""
        if extras.properties is not None:
            checked(extras.properties, f"{self.url}/{name}")
        if extras.modified is not None:
            moment_text(extras.modified)
        return ShareWriting(self, name, size, replaces, if_absent, extras)

    def properties(self, name: ObjectName, *, pin: str | None) -> Mapping[str, str]:
        """Return attributes, time of creation and permission of one version."""
        told, where = self.stat(name), f"{self.url}/{name}"
        if pin is not None and self.info_of(name, told, told.get("content-length", "")).etag != pin:
            raise SourceChanged(f"{where} is another version than the one that was asked for.")
        return told_properties(told, self._permission_of(told.get(PERMISSION_KEY, "")), where)

    def _permission_of(self, key: str) -> str:
        """Return the security descriptor that the share holds under a key; many files have the same."""
        found = self._permissions.get(key)
        if found is None and key:
            body = self.service.request("GET", "", _PERMISSION, {PERMISSION_KEY: key}).body
            found = _descriptor_in(body)
            if found is None:
                raise IntegrityError(
                    f"{self.url} told a permission that cannot be read; does a proxy change answers?"
                )
            if len(self._permissions) >= _KEPT_PERMISSIONS:
                self._permissions.clear()
            self._permissions[key] = found
        return found or ""

    def headers_for(self, properties: Mapping[str, str]) -> dict[str, str]:
        """Return what gives a file properties; a long permission is stored in the share before."""
        names = {"attributes": ATTRIBUTES, "created": CREATED, "permission": PERMISSION}
        headers = {names[name]: text for name, text in properties.items()}
        if len(headers.get(PERMISSION, "")) > _LONGEST_IN_HEADER:
            body = json.dumps({"permission": headers.pop(PERMISSION)}).encode()
            given = {"Content-Type": "application/json"}
            told = self.service.request("PUT", "", _PERMISSION, given, body).headers
            if not told.get(PERMISSION_KEY):
                raise IntegrityError(
                    f"{self.url} took a permission and told no key of it; does a proxy drop headers?"
                )
            headers[PERMISSION_KEY] = told[PERMISSION_KEY]
        return headers

    def begin_growing(
        self, name: ObjectName, *, replaces: str | None = None, if_absent: bool = False
    ) -> GrowingWriting:
        """Begin a file whose length is not known yet."""
        return GrowingWriting(self, name, replaces=replaces, if_absent=if_absent)

    def new_file(self, size: int, headers: Mapping[str, str] = _NONE) -> tuple[str, Answer]:
        """Make a file of zeros in the hidden folder; return its name, and what is told of it."""
        return self.carry_out(self.making(size, headers))

    def making(
        self, size: int, headers: Mapping[str, str] = _NONE, content: memoryview | None = None
    ) -> Steps[tuple[str, Answer]]:
        """Make a file in the hidden folder, of zeros or with its content, whose MD5 is in the headers then."""
        self.unfinished.sweep()
        name = self.unfinished.new_name()
        given = {"x-ms-type": "file", "x-ms-content-length": str(size), **headers}
        if content:
            given["Content-MD5"] = headers["x-ms-content-md5"]
        answer = yield from self._in_folder(name, ("PUT", name, (), given, content or b""))
        return name, answer

    def carry_out(self, steps: Steps[Result]) -> Result:
        """Make all the requests, and return what comes of them."""
        return carry_out(self.service, steps)

    def write_range(self, name: str, offset: int, data: memoryview) -> None:
        """Write bytes of a file that is long enough for them; they are checked on arrival."""
        headers = {
            "x-ms-write": "update",
            "x-ms-range": f"bytes={offset}-{offset + len(data) - 1}",
            "Content-MD5": md5_text(hashlib.md5(data, usedforsecurity=False).digest()),
        }
        self.service.request("PUT", name, (("comp", "range"),), headers, data)

    def written_ranges(self, name: str) -> tuple[int, list[tuple[int, int]]]:
        """Return a file's length, and what was written of it: each first byte, and the one after the last."""
        answer = self.service.request("GET", name, (("comp", "rangelist"),))
        length = answer.headers.get("x-ms-content-length", "")
        return int(length) if length.isdecimal() else -1, ranges_of(answer.body)

    def describe(self, name: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Set a file's length, moments, or what it says of itself; who names one of the last sets all.

        Return what is told of it then.
        """
        return self.service.request(*self.describing(name, headers)).headers

    def describing(self, name: str, headers: Mapping[str, str]) -> Request:
        """Return the request that `describe` makes."""
        return "PUT", name, (("comp", "properties"),), headers

    def copy(self, source: str, to: str) -> str:
        """Have the service copy a file of the account, by its signed address; return the copy's id.

        Raises:
            TransferError: the service gave up.
        """
        headers = {"x-ms-copy-source": source}
        if self._dots:
            headers["x-ms-source-allow-trailing-dot"] = "true"
        self.carry_out(self._in_folder(to, ("PUT", to, (), headers)))
        pause = 0.05
        while (told := self.stat(to)).get("x-ms-copy-status") == "pending":
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        if told.get("x-ms-copy-status") != "success":
            why = told.get("x-ms-copy-status-description") or told.get("x-ms-copy-status")
            raise TransferError(f"{self.url}/{to} could not be copied: {why}.")
        return told.get("x-ms-file-id", "")

    def delete_unfinished(self, name: str) -> None:
        """Delete a file of the hidden folder; nothing there is fine."""
        with contextlib.suppress(ObjectNotFound):
            self.service.request("DELETE", name)

    def rename(
        self,
        name: str,
        to: str,
        *,
        replace: bool = False,
        is_folder: bool = False,
        given: Mapping[str, str] = _NONE,
    ) -> Answer:
        """Give a file or folder another name in one step, and make the folders above it.

        It gets the properties that are `given`, as headers; metadata in place of all that it has.

        Raises:
            ObjectNotFound: it is not there.
            ObjectExists: something stands at `to`, and is not to be replaced.
            PlaceTaken: a folder stands where a file is to be, or a file where a folder is needed.
        """
        return self.carry_out(
            self.renaming(name, to, replace=replace, is_folder=is_folder, given=given)
        )

    def renaming(
        self,
        name: str,
        to: str,
        *,
        replace: bool = False,
        is_folder: bool = False,
        given: Mapping[str, str] = _NONE,
    ) -> Steps[Answer]:
        """Do what `rename` does, by steps."""
        query = (*(_DIRECTORY if is_folder else ()), ("comp", "rename"))
        headers = {
            "x-ms-file-rename-source": self.service.signed_url(name),
            "x-ms-file-rename-replace-if-exists": str(replace).lower(),
            **given,
        }
        if self._dots:
            headers["x-ms-source-allow-trailing-dot"] = "true"
        return (yield from self._in_folder(to, ("PUT", to, query, headers)))

    def _in_folder(self, name: str, request: Request) -> Steps[Answer]:
        """Make a request that needs the folders above a name, and make them where they are missing."""
        try:
            return (yield request)
        except FolderMissing:
            for folder in reversed(list(parents(name))):
                with contextlib.suppress(ObjectExists):
                    yield "PUT", folder, _DIRECTORY
            return (yield request)

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one file."""
        with self.changing(name):
            if pin is not None and self.head(name).etag != pin:
                raise SourceChanged(f"{self.url}/{name} is another version than the one to delete.")
            self.service.request("DELETE", name)

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None = None,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Rename a file; versions are compared before, under locks of this process (`share_moving` has more)."""
        return self._moves.move(name, to, pin=pin, replaces=replaces, if_absent=if_absent)

    def changing(self, name: ObjectName) -> threading.Lock:
        """Return the lock under which a version is compared and then replaced."""
        return self._locks[hash(str(name).casefold()) % _LOCKS]

    # -- folders --------------------------------------------------------------------------------

    def swaps_folders(self) -> bool:
        """Tell that the service cannot do that."""
        return False

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Rename a folder."""
        try:
            self.rename(name, to, is_folder=True)
        except ObjectExists:
            if not self._is_removed(to):
                raise PlaceTaken(f"Something stands at {self.url}/{to} already.") from None
            self.rename(name, to, is_folder=True)

    def _is_removed(self, folder: str) -> bool:
        """Remove a folder where it is empty; tell whether it is gone."""
        with contextlib.suppress(ObjectNotFound, PlaceTaken):
            try:
                self.service.request("DELETE", folder, _DIRECTORY)
            except FolderNotEmpty:
                return False
            return True
        return False

    def make_folder(self, name: ObjectName) -> None:
        """Make a folder, and those above it."""
        try:
            self.make_new_folder(name, with_parents=True)
        except ObjectExists:
            if not self.is_folder(name):
                raise PlaceTaken(
                    f"A file stands at {self.url}/{name}, where a folder is to be."
                ) from None
        except FolderMissing:
            self.refuse_file_above(name)
            raise

    def make_new_folder(self, name: ObjectName, *, with_parents: bool) -> None:
        """Make a folder.

        Raises:
            ObjectExists: a file or folder of that name is there.
            FolderMissing: the folder above it is missing, or is a file.
        """
        request = ("PUT", name, _DIRECTORY)
        if with_parents:
            self.carry_out(self._in_folder(name, request))
        else:
            self.service.request(*request)

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove a folder in which nothing is; the service removes no other."""
        try:
            self.service.request("DELETE", name, _DIRECTORY)
        except PlaceTaken:
            raise ObjectNotFound(f"{self.url}/{name} is a file, and no folder.") from None

    def is_folder(self, name: str) -> bool:
        """Tell whether a folder has that name."""
        with contextlib.suppress(ObjectNotFound):
            self.stat(name, is_folder=True)
            return True
        return False

    def refuse_file_above(self, name: str) -> None:
        """Return unless a file stands where a folder above a name is needed."""
        for folder in parents(name):
            with contextlib.suppress(ObjectNotFound):
                self.stat(folder)
                raise PlaceTaken(f"A file stands at {self.url}/{folder}, where a folder is needed.")

    def remove_folder(self, name: ObjectName) -> None:
        """Remove a folder with all below it."""
        with contextlib.suppress(ObjectNotFound, PlaceTaken):
            self._empty(str(name))
            self.service.request("DELETE", name, _DIRECTORY)

    def _empty(self, folder: str) -> None:
        while True:
            page = self.list_page(f"{folder}/", recursive=False)
            for info in page.objects:
                if not info.is_marker:
                    self.delete_unfinished(info.name)
            for below in page.folders:
                self._empty(below)
                with contextlib.suppress(ObjectNotFound):
                    self.service.request("DELETE", below, _DIRECTORY)
            if page.marker is None:
                return

    def interrupt(self) -> None:
        """Break the requests that are under way."""
        self.service.interrupt()

    def close(self) -> None:
        """Let go of connections."""
        self.service.close()


def headers_of(*, by_token: bool) -> dict[str, str]:
    """Return the headers of every request about files."""
    headers = {"x-ms-version": _VERSION}
    return {**headers, "x-ms-file-request-intent": "backup"} if by_token else headers


def _descriptor_in(body: bytes) -> str | None:
    """Return the security descriptor in an answer, or None."""
    try:
        found = json.loads(body)["permission"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _version(etag: str, written: str) -> str:
    """Return what stands for one version: writes over SMB change the time at once, the ETag with them or later."""
    return f"{quoted(etag)} {written}"

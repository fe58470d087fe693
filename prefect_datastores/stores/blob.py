"""Block blobs of one container, by the documented protocol of Azure Blob Storage."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

from prefect_datastores.errors import (
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    SourceChanged,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Capabilities,
    Extras,
    NoFolders,
    NoProperties,
    ObjectInfo,
    Page,
    Pending,
    check_extras,
)
from prefect_datastores.stores.blob_folders import make_marker, remove_marker
from prefect_datastores.stores.blob_moving import BlobMoves
from prefect_datastores.stores.listing import digest_of, page_of, time_of
from prefect_datastores.stores.moving import check_move, stays_in_place
from prefect_datastores.stores.ranges import Asking, Reading
from prefect_datastores.stores.signing import signer_of

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_BLOCK = re.compile(rb"<Block>\s*<Name>([^<]*)</Name>\s*<Size>(\d+)</Size>")
_CONTAINER = (("restype", "container"),)


class BlobStore(NoFolders, NoProperties):
    """One container. Reads are pinned to an ETag, parts carry an MD5, commits are conditional."""

    flat: ClassVar[Capabilities] = Capabilities(
        kind="Azure Blob Storage",
        stores_digest=True,
        part_size=4 * 2**20,
        begins_ahead=True,
        commits_ahead=True,
        commits_with_content=True,
    )

    def __init__(
        self,
        account_url: str,
        container: str,
        *,
        account_name: str | None = None,
        account_key: str | None = None,
        sas_token: str | None = None,
        token: TokenCredential | None = None,
    ) -> None:
        """Name the container; no request is made before the first use.

        Raises:
            ConfigurationError: the address is none.
            AuthenticationFailed: the account key is none.
        """
        signer = signer_of(
            account_url, account_name, account_key=account_key, sas_token=sas_token, token=token
        )
        self._service = AzureService(account_url, container, signer)
        self.url = self._service.url
        self._moves = BlobMoves(self, self._service)

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do."""
        return self.flat

    def name_rules(self) -> NameRules:
        """Tell names by case, but not by dots at a component's end, which the service strips."""
        return NameRules(strips_trailing_dots=True)

    def create_root(self) -> None:
        """Make the container unless it exists."""
        with contextlib.suppress(ObjectExists):
            self._service.request("PUT", query=_CONTAINER)

    def check_root(self) -> None:
        """Raise unless the container exists and can be listed."""
        self.list_page("", limit=1)

    def check_write(self, name: ObjectName) -> None:
        """Stage a block that is never committed: nobody sees it, and the service drops it."""
        block = base64.b64encode(secrets.token_bytes(12)).decode()
        self._service.request("PUT", name, (("comp", "block"), ("blockid", block)), {}, b".")

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page."""
        asked = {
            "include": "metadata",
            "maxresults": str(limit),
            "prefix": prefix,
            "marker": marker,
        }
        asked["delimiter"] = "" if recursive else "/"
        query = (
            *_CONTAINER,
            ("comp", "list"),
            *((key, value) for key, value in asked.items() if value),
        )
        return page_of(self._service.request("GET", query=query).body)

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one blob."""
        return self.info_of(name, self._service.request("HEAD", name).headers)

    def info_of(self, name: ObjectName, headers: Mapping[str, str]) -> ObjectInfo:
        """Return what an answer to a HEAD says of a blob."""
        length, etag = headers.get("content-length", ""), headers.get("etag", "")
        if not length.isdecimal() or not etag:
            raise IntegrityError(
                f"{self.url}/{name} is there, but its length or version was not told; does a proxy drop headers?"
            )
        size = int(length)
        is_folder = headers.get("x-ms-meta-hdi_isfolder", "").lower() == "true"
        is_folder = is_folder or headers.get("x-ms-resource-type") == "directory"
        return ObjectInfo(
            name=str(name),
            size=size,
            etag=etag,
            digest=digest_of(headers.get("content-md5", "")),
            modified=time_of(headers.get("last-modified", "")),
            is_marker=not size and (is_folder or name.endswith("/")),
        )

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> bytes | None:
        """Fill `buffer` from one version."""
        # A range has at least one byte.
        return self._reading(name, offset, buffer, pin, ahead=False).finish() if buffer else None

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Pending[bytes | None]:
        """Ask for a range, which has at least one byte."""
        return self._reading(name, offset, buffer, pin, ahead=True)

    def _reading(
        self, name: ObjectName, offset: int, buffer: memoryview, pin: str | None, *, ahead: bool
    ) -> Reading:
        headers = {"If-Match": pin} if pin else {}
        return Reading(self._service, name, offset, buffer, headers, ahead=ahead)

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> BlobWriting:
        """Begin a blob: blocks are staged, and seen by nobody before the commit."""
        check_extras(self, extras)
        return BlobWriting(self._service, name, size, conditions_of(replaces, if_absent))

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one blob."""
        self._service.request("DELETE", name, headers={"If-Match": pin} if pin else {})

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None = None,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Have the service copy a blob, and delete it under its old name.

        Until the deletion both names hold the whole. Only a copy that the service leaves pending is
        seen before it is done, as an empty blob (`blob_moving` has more). A marker at `to` counts as a folder;
        what is no more than the beginning of names does not.

        Raises:
            TransferError: the service gave the copy up; the blob is where it was.
        """
        if stays_in_place(name, to, self.name_rules()):
            info = self.head(name)
            if info.is_marker:
                raise ObjectNotFound(f"{self.url}/{name} is a folder, and no object.")
            where = f"{self.url}/{to}"
            check_move(where, info, info, pin=pin, replaces=replaces, if_absent=if_absent)
            return info
        return self._moved(name, to, pin=pin, replaces=replaces, if_absent=if_absent)

    def _moved(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None,
        replaces: str | None,
        if_absent: bool,
    ) -> ObjectInfo:
        """Do what `move` says, to a name that is another one."""
        conditions = conditions_of(replaces, if_absent)
        return self._moves.move(
            name, to, conditions, pin=pin, replaces=replaces, if_absent=if_absent
        )

    def make_folder(self, name: ObjectName) -> None:
        """Write a marker, as Azure's own tools do."""
        make_marker(self, self._service, name)

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Delete the marker of a folder, and nothing that is none."""
        remove_marker(self, self._service, name)

    def interrupt(self) -> None:
        """Break the requests that are under way."""
        self._service.interrupt()

    def close(self) -> None:
        """Let go of connections."""
        self._service.close()


class BlobWriting:
    """Put Blob for an object of one part, Put Block and Put Block List for more."""

    def __init__(
        self, service: AzureService, name: ObjectName, size: int, conditions: Mapping[str, str]
    ) -> None:
        """Begin; `conditions` are those of the commit."""
        self._service, self._name, self._size = service, name, size
        self._conditions = conditions
        # A salt, so that blocks of another writer or attempt are never taken for ours
        # (fsspec/adlfs#462); all ids have one length, as the service demands.
        self.token = secrets.token_hex(8)
        self._blocks: dict[int, int] = {}
        self._held: Mapping[tuple[str, int], int] | None = None
        self._kept: dict[int, str] = {}
        self._only_part = memoryview(b"")

    def _block_id(self, index: int) -> str:
        token = self._kept.get(index, self.token)
        return base64.b64encode(f"{token}-{index:06d}".encode()).decode()

    def make_ready(self) -> None:
        """Do nothing: a block needs nothing before it."""

    def token_after(self, token: str) -> str:
        """Return the same: blocks keep their ids."""
        return token

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        """Return which blocks of an earlier writing the service holds; of any number of writings."""
        if not parts:
            return ()
        if self._held is None:
            self._held = self._uncommitted()
        held = self._held
        return [index for index, length in parts.items() if held.get((token, index)) == length]

    def _uncommitted(self) -> Mapping[tuple[str, int], int]:
        """Return the lengths of what was staged, by token and index."""
        query = (("comp", "blocklist"), ("blocklisttype", "uncommitted"))
        try:
            body = self._service.request("GET", self._name, query).body
        except ObjectNotFound:
            return {}
        found = {}
        for encoded, size in _BLOCK.findall(body):
            with contextlib.suppress(ValueError):  # another client's, whose ids have another form
                token, _, index = base64.b64decode(encoded).decode().rpartition("-")
                found[token, int(index)] = int(size)
        return found

    def keep_part(self, index: int, length: int, token: str) -> None:
        """Take a kept part for part `index`."""
        self._kept[index], self._blocks[index] = token, length

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Stage one part."""
        self._blocks[index] = 0
        if len(data) == self._size:
            self._only_part = data
        else:
            query = (("comp", "block"), ("blockid", self._block_id(index)))
            headers = {"Content-MD5": _md5(data)}
            self._service.request("PUT", self._name, query, headers, data)
        self._blocks[index] = len(data)

    def commit(self, digest: bytes) -> ObjectInfo:
        """Make the whole visible."""
        return self._committing(digest, ahead=False).finish()

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        """Ask for the commit."""
        return self._committing(digest, ahead=True)

    def _committing(self, digest: bytes, *, ahead: bool) -> _Committing:
        if sum(self._blocks.values()) != self._size:
            raise IntegrityError(f"{self._service.url}/{self._name} was not written whole.")
        whole = base64.b64encode(digest).decode()
        given = {
            "x-ms-blob-content-type": "application/octet-stream",
            "x-ms-blob-content-md5": whole,
            **self._conditions,
        }
        if len(self._blocks) > 1:
            return self._put_block_list(given, digest, ahead=ahead)
        # The part is the whole, so its digest on the way is the one that is kept.
        given |= {"x-ms-blob-type": "BlockBlob", "Content-MD5": whole}
        asking = Asking(self._service, ("PUT", self._name, (), given, self._only_part), ahead=ahead)
        return _Committing(self, asking, digest)

    def committed(self, asked: Asking, digest: bytes) -> ObjectInfo:
        """Return what is stored now."""
        try:
            headers = asked.finish().headers
        except SourceChanged as error:
            raise ObjectExists(
                f"{self._service.url}/{self._name} was written by somebody else meanwhile; it was left as it is."
            ) from error
        modified = time_of(headers.get("last-modified", "")) or time.time()
        return ObjectInfo(self._name, self._size, headers.get("etag", ""), digest, modified)

    def _put_block_list(
        self, headers: Mapping[str, str], digest: bytes, *, ahead: bool
    ) -> _Committing:
        blocks = "".join(
            f"<Uncommitted>{self._block_id(index)}</Uncommitted>" for index in sorted(self._blocks)
        )
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
        more = {"Content-MD5": _md5(body), "Content-Type": "application/xml"}
        query = (("comp", "blocklist"),)
        asking = Asking(
            self._service, ("PUT", self._name, query, {**headers, **more}, body), ahead=ahead
        )
        return _Committing(self, asking, digest)

    def abort(self, *, keep: bool = False) -> None:
        """Let go of the content; nobody sees what was staged."""
        # Blocks that were never committed are invisible, and the service drops them after a week;
        # deleting the blob to get rid of them would delete somebody's good version.
        self._only_part = memoryview(b"")


class _Committing:
    """A commit that was asked for, and whose answer is still to come."""

    __slots__ = ("_asked", "_digest", "_writing", "drop")

    def __init__(self, writing: BlobWriting, asked: Asking, digest: bytes) -> None:
        self._writing, self._asked, self._digest = writing, asked, digest
        self.drop = asked.drop

    @property
    def is_under_way(self) -> bool:
        return self._asked.is_under_way

    def go_on(self) -> bool:
        return False

    def finish(self) -> ObjectInfo:
        return self._writing.committed(self._asked, self._digest)


def _md5(data: bytes | memoryview) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def conditions_of(replaces: str | None, if_absent: bool) -> dict[str, str]:
    """Return the headers by which a commit replaces one version, or is the first."""
    if if_absent:
        return {"If-None-Match": "*"}
    return {"If-Match": replaces} if replaces is not None else {}

"""The contract of a store, over blobs of an account with a hierarchical namespace.

Directories are things of their own there, and the Blob endpoint lists them among the blobs. Where
the contract cannot hold because of that, a test of the same name says what holds instead.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from azure.storage.blob import BlobServiceClient
from servers.data_lake import DataLake
from small_stores import SmallBlobStore

from prefect_datastores.errors import (
    FolderNotEmpty,
    IntegrityError,
    ObjectNotFound,
    TransferError,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectStore, Page
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing import ODD_NAMES, StoreContract, get, names_below, put


def in_order(names: list[str]) -> list[str]:
    """Names as the service lists them: what is in a directory before what stands beside it."""
    return sorted(names, key=lambda name: name.split("/"))


def is_taken(name: str) -> bool:
    """Tell whether the service takes a name: no control characters, and not dots alone."""
    has_control = any(character < " " or character == "\x7f" for character in name)
    return not has_control and name.strip(".") != ""


class Unmarked(SmallBlobStore):
    """Blobs alone: directories are left out of listings."""

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        page = super().list_page(prefix, marker=marker, recursive=recursive, limit=limit)
        objects = tuple(info for info in page.objects if not info.is_marker)
        return Page(objects, page.folders, page.marker)


class TestBlobsOfAHierarchicalNamespace(StoreContract):
    @pytest.fixture
    def store(self, data_lake: DataLake, filesystem: str) -> Iterator[ObjectStore]:
        with closing(Unmarked(data_lake.blob_url, filesystem, account_key=data_lake.key)) as store:
            yield store

    @pytest.fixture
    def missing_store(self, data_lake: DataLake) -> Iterator[ObjectStore]:
        name = f"missing-{uuid.uuid4().hex}"
        with closing(Unmarked(data_lake.blob_url, name, account_key=data_lake.key)) as store:
            yield store
        credential = {"account_name": data_lake.account, "account_key": data_lake.key}
        with BlobServiceClient(data_lake.blob_url, credential=credential) as service:
            for made in service.list_containers(name_starts_with=name):
                service.delete_container(made.name)

    def test_a_listing_is_in_name_order(self, store: ObjectStore) -> None:
        names = ["b", "a/b", "a.txt", "a/a/z", "a-b", "B", "a0", "a/a.txt", "\u00e9", "a b"]
        for name in names:
            put(store, name)
        assert names_below(store) == in_order(names) != sorted(names)

    def test_a_listing_gives_exactly_what_begins_with_the_prefix(self, store: ObjectStore) -> None:
        for name in ["p/1", "p/sub/2", "p1/x", "p.txt", "q", "a/p/1"]:
            put(store, name)
        assert names_below(store, "p/") == ["p/1", "p/sub/2"]
        assert names_below(store, "p/sub/") == ["p/sub/2"]
        assert names_below(store, "p") == ["p/1", "p/sub/2", "p.txt", "p1/x"]
        assert names_below(store, "p/s") == ["p/sub/2"]
        assert names_below(store, "nothing/") == []
        # "An error will occur in cases where the name of a file appears in the middle of the prefix."
        with pytest.raises(TransferError):
            names_below(store, "p/1/")

    def test_what_is_missing_is_not_found(self, store: ObjectStore) -> None:
        put(store, "folder/a")
        for name in ("missing", "folder/missing", "folder/a/below"):
            with pytest.raises(ObjectNotFound):
                store.head(ObjectName(name))
            with pytest.raises(ObjectNotFound):
                store.read_into(ObjectName(name), 0, memoryview(bytearray(1)), pin=None)
        assert store.head(ObjectName("folder")).is_marker
        with pytest.raises(IntegrityError):
            store.read_into(ObjectName("folder"), 0, memoryview(bytearray(1)), pin=None)

    def test_odd_names_come_back_as_they_were_given(self, store: ObjectStore) -> None:
        names = [f"odd/{name}" for name in ODD_NAMES if is_taken(name)]
        for name in names:
            put(store, name, name.encode())
        assert names_below(store, "odd/") == in_order(names)
        for name in names:
            assert store.head(ObjectName(name)).name == name
            assert get(store, name) == name.encode()
            assert name in names_below(store, name)
            store.delete(ObjectName(name))
            assert name not in names_below(store, name)
        assert list(list_objects(store, "odd/")) == []
        refused = [f"odd/{name}" for name in ODD_NAMES if not is_taken(name)]
        assert refused
        for name in refused:
            with pytest.raises(TransferError):
                put(store, name)

    def test_names_that_look_alike_are_other_objects(self, store: ObjectStore) -> None:
        names = ["%41", "A", "a%2Fb", "a/b", "a+b", "a b", "a%20b", "..a", ".a"]
        for name in names:
            put(store, name, name.encode())
        assert [get(store, name) for name in names] == [name.encode() for name in names]
        assert names_below(store) == in_order(names)

    def test_an_empty_folder_is_made_and_removed(self, store: ObjectStore) -> None:
        for _ in range(2):
            store.make_folder(ObjectName("a/b"))
        assert store.list_page("a/", recursive=False).folders == ("a/b",)
        for name in ("a/b", "a"):  # the one above it was made as well
            store.remove_empty_folder(ObjectName(name))
            with pytest.raises(ObjectNotFound):
                store.remove_empty_folder(ObjectName(name))
        assert store.list_page("", recursive=False) == Page()

    def test_a_folder_is_removed_only_when_it_is_empty(self, store: ObjectStore) -> None:
        put(store, "a/b/c", b"c")
        store.make_folder(ObjectName("d/e"))
        for full in ("a", "a/b", "d"):
            with pytest.raises(FolderNotEmpty):
                store.remove_empty_folder(ObjectName(full))
        assert get(store, "a/b/c") == b"c"
        store.delete(ObjectName("a/b/c"))
        for empty in ("a/b", "a", "d/e", "d"):  # folders stay when what was in them is gone
            store.remove_empty_folder(ObjectName(empty))
        assert store.list_page("", recursive=False) == Page()


def test_blobs_are_listed_with_the_directories_above_them(
    data_lake: DataLake, filesystem: str
) -> None:
    with closing(
        SmallBlobStore(data_lake.blob_url, filesystem, account_key=data_lake.key)
    ) as store:
        put(store, "a/b/c", b"content")
        listed = [(info.name, info.is_marker) for info in list_objects(store, "")]
        assert listed == [("a", True), ("a/b", True), ("a/b/c", False)]
        page = store.list_page("a/", recursive=False)
        assert (page.objects, page.folders) == ((), ("a/b",))

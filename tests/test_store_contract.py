"""The contract that ships with the package, over every store of ours and over the decorators."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from places import RemotePlace

from prefect_datastores.errors import ContainerNotFound, DatastoreError
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.limit import Allowance, LimitedStore, Rates
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.pressure import Pressure, PressuredStore
from prefect_datastores.stores.retry import RetryingStore, RetryPolicy, patient
from prefect_datastores.testing import StoreContract

AT_ONCE = RetryPolicy(tries=2, first_pause=0.0, longest_pause=0.0)
ROOMY = Rates(requests_per_second=1e5, bytes_per_second=1e9)


def missing(place: RemotePlace) -> ObjectStore:
    """The place, whose container is gone until a test makes it."""
    place.destroy()
    return place.store


@pytest.fixture
def missing_blob_store(new_place: Callable[[str], Any]) -> ObjectStore:
    return missing(new_place("blob"))


class TestShareStore(StoreContract):
    @pytest.fixture
    def store(self, share_store: ObjectStore) -> ObjectStore:
        return share_store

    @pytest.fixture
    def missing_store(self, new_place: Callable[[str], Any]) -> ObjectStore:
        return missing(new_place("share"))


class TestDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, lake_store: ObjectStore) -> ObjectStore:
        return lake_store

    @pytest.fixture
    def missing_store(self, new_place: Callable[[str], Any]) -> ObjectStore:
        return missing(new_place("lake"))


class TestFlatDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, flat_place: RemotePlace) -> ObjectStore:
        return flat_place.store

    @pytest.fixture
    def missing_store(self, new_place: Callable[[str], Any]) -> ObjectStore:
        return missing(new_place("flat lake"))


class TestPatientDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, lake_store: ObjectStore) -> ObjectStore:
        return patient(lake_store, AT_ONCE, allowance=Allowance(ROOMY))

    @pytest.fixture
    def missing_store(self, new_place: Callable[[str], Any]) -> ObjectStore:
        return patient(missing(new_place("lake")), AT_ONCE, allowance=Allowance(ROOMY))


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()

    @pytest.fixture
    def missing_store(self) -> ObjectStore:
        return MemoryStore(exists=False)


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with closing(LocalStore(tmp_path)) as store:
            yield store

    @pytest.fixture
    def missing_store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with closing(LocalStore(tmp_path / "missing" / "below")) as store:
            yield store


class TestBlobStore(StoreContract):
    @pytest.fixture
    def store(self, blob_store: BlobStore) -> ObjectStore:
        return blob_store

    @pytest.fixture
    def missing_store(self, missing_blob_store: BlobStore) -> ObjectStore:
        return missing_blob_store


class TestRetryingBlobStore(StoreContract):
    @pytest.fixture
    def store(self, blob_store: BlobStore) -> ObjectStore:
        return RetryingStore(blob_store, AT_ONCE)

    @pytest.fixture
    def missing_store(self, missing_blob_store: BlobStore) -> ObjectStore:
        return RetryingStore(missing_blob_store, AT_ONCE)


class TestLimitedBlobStore(StoreContract):
    @pytest.fixture
    def store(self, blob_store: BlobStore) -> ObjectStore:
        return LimitedStore(blob_store, Allowance(ROOMY))

    @pytest.fixture
    def missing_store(self, missing_blob_store: BlobStore) -> ObjectStore:
        return LimitedStore(missing_blob_store, Allowance(ROOMY))


class TestPressuredBlobStore(StoreContract):
    @pytest.fixture
    def store(self, blob_store: BlobStore) -> ObjectStore:
        return PressuredStore(blob_store, Pressure(AT_ONCE))

    @pytest.fixture
    def missing_store(self, missing_blob_store: BlobStore) -> ObjectStore:
        return PressuredStore(missing_blob_store, Pressure(AT_ONCE))


class TestPatientLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with closing(patient(LocalStore(tmp_path), AT_ONCE, allowance=Allowance(ROOMY))) as store:
            yield store

    @pytest.fixture
    def missing_store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        missing = LocalStore(tmp_path / "missing" / "below")
        with closing(patient(missing, AT_ONCE, allowance=Allowance(ROOMY))) as store:
            yield store


def test_a_local_folder_that_is_removed_while_open_is_not_empty_but_missing(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with closing(LocalStore(root)) as store:
        assert store.list_page("").objects == ()
        root.rmdir()
        for prefix in ("", "folder/"):
            with pytest.raises(ContainerNotFound):
                store.list_page(prefix)
        with pytest.raises(ContainerNotFound):
            store.check_root()


def test_a_local_store_lists_nothing_through_a_link(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "below").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file-link").symlink_to(outside / "secret")
    with closing(LocalStore(root)) as store:
        for prefix in ("", "link/", "link/below/", "link/se"):
            for recursive in (True, False):
                page = store.list_page(prefix, recursive=recursive)
                assert (page.objects, page.folders) == ((), ())


def test_a_folder_is_removed_without_what_its_links_lead_to(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "below").mkdir(parents=True)
    (outside / "kept").write_text("kept")
    (root / "old/sub").mkdir(parents=True)
    (root / "old/sub/link").symlink_to(outside)
    (root / "old/file-link").symlink_to(outside / "kept")
    (root / "link").symlink_to(outside)
    with closing(LocalStore(root)) as store:
        store.remove_folder(ObjectName("old"))
        for name in ("link", "link/below"):
            with pytest.raises(DatastoreError):
                store.remove_folder(ObjectName(name))
    assert not (root / "old").exists()
    assert (outside / "kept").read_text() == "kept"
    assert (outside / "below").is_dir()

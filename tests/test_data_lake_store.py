"""Filesystems of a data lake: the contract of a store over both kinds of namespace, and what only they have."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from azure.storage.blob import BlobServiceClient
from servers.data_lake import DataLake
from small_stores import SmallDataLakeStore

from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.limit import Allowance, Rates
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import StoreContract

AT_ONCE = RetryPolicy(tries=2, first_pause=0.0, longest_pause=0.0)
ROOMY = Rates(requests_per_second=1e5, bytes_per_second=1e9)


def opened(lake: DataLake, filesystem: str) -> SmallDataLakeStore:
    return SmallDataLakeStore(lake.blob_url, filesystem, dfs_url=lake.dfs_url, account_key=lake.key)


def missing(lake: DataLake) -> Iterator[SmallDataLakeStore]:
    """A filesystem that does not exist; it is deleted where a test makes it."""
    name = f"missing-{uuid.uuid4().hex}"
    with closing(opened(lake, name)) as store:
        yield store
    with BlobServiceClient(
        lake.blob_url, credential={"account_name": lake.account, "account_key": lake.key}
    ) as service:
        for made in service.list_containers(name_starts_with=name):
            service.delete_container(made.name)


@pytest.fixture
def missing_lake_store(data_lake: DataLake) -> Iterator[ObjectStore]:
    yield from missing(data_lake)


@pytest.fixture
def flat_store(flat_data_lake: DataLake) -> Iterator[SmallDataLakeStore]:
    """A new, empty filesystem without a hierarchical namespace."""
    for store in missing(flat_data_lake):
        store.create_root()
        yield store


@pytest.fixture
def missing_flat_store(flat_data_lake: DataLake) -> Iterator[ObjectStore]:
    yield from missing(flat_data_lake)


class TestDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, lake_store: ObjectStore) -> ObjectStore:
        return lake_store

    @pytest.fixture
    def missing_store(self, missing_lake_store: ObjectStore) -> ObjectStore:
        return missing_lake_store


class TestFlatDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, flat_store: ObjectStore) -> ObjectStore:
        return flat_store

    @pytest.fixture
    def missing_store(self, missing_flat_store: ObjectStore) -> ObjectStore:
        return missing_flat_store


class TestPatientDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, lake_store: ObjectStore) -> ObjectStore:
        return patient(lake_store, AT_ONCE, allowance=Allowance(ROOMY))

    @pytest.fixture
    def missing_store(self, missing_lake_store: ObjectStore) -> ObjectStore:
        return patient(missing_lake_store, AT_ONCE, allowance=Allowance(ROOMY))

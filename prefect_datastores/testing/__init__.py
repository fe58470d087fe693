"""The contract of a store, as tests: what `stores/base.py` says, each sentence tried.

For authors of stores. Subclass it, and give it two fixtures:

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            with closing(MyStore(a_new_container())) as store:
                yield store  # empty, and its container exists

        @pytest.fixture
        def missing_store(self):
            with closing(MyStore("no-such-container")) as store:
                yield store  # its container does not exist, and may be made

`pytest.register_assert_rewrite("prefect_datastores.testing")`, before this is imported, makes
failures say more.
"""

from __future__ import annotations

import pytest

from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing.containers import ContainerContract
from prefect_datastores.testing.folders import FolderContract
from prefect_datastores.testing.listing import ListingContract
from prefect_datastores.testing.moving import MovingContract
from prefect_datastores.testing.naming import NameContract
from prefect_datastores.testing.objects import (
    ODD_NAMES,
    at_once,
    begin,
    content_of,
    get,
    md5_of,
    names_below,
    parts_of,
    put,
)
from prefect_datastores.testing.reading import ReadingContract
from prefect_datastores.testing.threads import ThreadContract
from prefect_datastores.testing.writing import WritingContract

__all__ = [
    "ODD_NAMES",
    "StoreContract",
    "at_once",
    "begin",
    "content_of",
    "get",
    "md5_of",
    "names_below",
    "parts_of",
    "put",
]


class StoreContract(
    ContainerContract,
    WritingContract,
    ListingContract,
    ReadingContract,
    MovingContract,
    FolderContract,
    NameContract,
    ThreadContract,
):
    """What every store does; subclass it with the fixtures `store` and `missing_store`."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        """Give an empty store whose container exists."""
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def missing_store(self) -> ObjectStore:
        """Give a store whose container does not exist, but can be made."""
        raise NotImplementedError("a subclass gives the store")

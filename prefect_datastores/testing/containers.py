"""The container: made once, and told from an empty listing."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.errors import (
    ContainerNotFound,
    ObjectNotFound,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import (
    ObjectStore,
    Page,
)
from prefect_datastores.testing.objects import get, names_below, put


class ContainerContract:
    """The container: made once, and told from an empty listing."""

    def test_a_new_store_has_a_root_and_no_objects(self, store: ObjectStore) -> None:
        store.check_root()
        assert store.list_page("") == Page()

    def test_a_write_that_is_only_tried_is_seen_by_nobody(
        self, store: ObjectStore, missing_store: ObjectStore
    ) -> None:
        probe = ObjectName("some/folder/probe")
        store.check_write(probe)
        assert names_below(store) == []
        with pytest.raises(ObjectNotFound):
            store.head(probe)
        with pytest.raises(ContainerNotFound):
            missing_store.check_write(probe)

    def test_a_missing_container_is_no_empty_listing(self, missing_store: ObjectStore) -> None:
        for attempt in (
            missing_store.check_root,
            lambda: missing_store.list_page(""),
            lambda: missing_store.list_page("some/folder/"),
            lambda: missing_store.list_page("", recursive=False),
            lambda: missing_store.list_page("", limit=1),
        ):
            with pytest.raises(ContainerNotFound):
                attempt()

    def test_no_object_is_found_or_made_in_a_missing_container(
        self, missing_store: ObjectStore
    ) -> None:
        with pytest.raises((ContainerNotFound, ObjectNotFound)):
            missing_store.head(ObjectName("a"))
        with pytest.raises((ContainerNotFound, ObjectNotFound)):
            missing_store.read_into(ObjectName("a"), 0, memoryview(bytearray(1)), pin=None)
        with pytest.raises(ContainerNotFound):
            put(missing_store, "a")

    def test_a_container_is_made_once_and_keeps_its_objects(
        self, missing_store: ObjectStore
    ) -> None:
        missing_store.create_root()
        missing_store.check_root()
        put(missing_store, "a", b"content")
        missing_store.create_root()
        assert get(missing_store, "a") == b"content"

    def test_the_capabilities_leave_room_for_parts(self, store: ObjectStore) -> None:
        capabilities = store.capabilities
        assert capabilities.kind
        assert capabilities.part_size > 0
        assert capabilities.max_parts > 0

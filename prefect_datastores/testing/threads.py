"""Many threads at one store, and at one object."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing.objects import THREADS, at_once, get, names_below, one_won, put


class ThreadContract:
    """Many threads at one store, and at one object."""

    def test_many_threads_work_on_their_own_objects(self, store: ObjectStore) -> None:
        def work(number: int) -> list[bytes]:
            read = []
            for turn in range(3):
                name = f"thread-{number}/{turn}"
                put(store, name, name.encode())
                read.append(get(store, name))
                assert names_below(store, f"thread-{number}/{turn}") == [name]
            store.delete(ObjectName(f"thread-{number}/0"))
            return read

        done = at_once(lambda n=n: work(n) for n in range(THREADS))  # type: ignore[misc]
        assert done == [[f"thread-{n}/{t}".encode() for t in range(3)] for n in range(THREADS)]
        assert names_below(store) == sorted(
            f"thread-{n}/{t}" for n in range(THREADS) for t in (1, 2)
        )

    def test_of_many_threads_one_makes_a_new_object(self, store: ObjectStore) -> None:
        def work(number: int) -> str:
            return put(store, "a", f"{number}".encode(), if_absent=True).etag

        done = at_once(lambda n=n: work(n) for n in range(THREADS))  # type: ignore[misc]
        one_won(done, store)

    def test_of_many_threads_one_replaces_a_version(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")

        def work(number: int) -> str:
            return put(store, "a", f"{number}".encode(), replaces=old.etag).etag

        done = at_once(lambda n=n: work(n) for n in range(THREADS))  # type: ignore[misc]
        one_won(done, store)

    def test_readers_see_one_whole_version_while_it_is_replaced(self, store: ObjectStore) -> None:
        versions = [bytes([number]) * 4096 for number in range(THREADS)]
        put(store, "a", versions[0])

        def read() -> bytes:
            buffer = bytearray(4096)
            store.read_into(ObjectName("a"), 0, memoryview(buffer), pin=None)
            return bytes(buffer)

        done = at_once(
            [
                *(lambda version=version: put(store, "a", version) for version in versions),
                *[read] * THREADS,
            ]
        )
        seen = [result for result in done if isinstance(result, bytes)]
        assert len(seen) == THREADS
        assert set(seen) <= set(versions)

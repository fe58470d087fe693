"""Listings by components come out by whole names, in bounded memory, over as few requests as there may be."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import fill
from places import LakePlace
from servers.faults import Fault

from prefect_datastores.errors import IntegrityError, ServiceBusy
from prefect_datastores.stores import listed
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.components import in_name_order
from prefect_datastores.stores.data_lake import DataLakeStore
from prefect_datastores.stores.listed import in_order, list_objects
from prefect_datastores.testing import put

Tree = dict[str, "Tree | None"]

NAMES = st.text("a-.0", min_size=1, max_size=3)
TREES = st.recursive(
    st.dictionaries(NAMES, st.none(), max_size=4),
    lambda inside: st.dictionaries(NAMES, st.none() | inside, max_size=4),
    max_leaves=25,
)


def by_component(tree: Tree, prefix: str = "") -> Iterator[ObjectInfo]:
    """Give a tree as a hierarchical namespace lists it."""
    for name in sorted(tree):
        inside = tree[name]
        yield ObjectInfo(f"{prefix}{name}", 0, "e", is_marker=inside is not None)
        if inside is not None:
            yield from by_component(inside, f"{prefix}{name}/")


def by_name(tree: Tree, prefix: str = "") -> list[str]:
    """Name all files of a tree, and folders with nothing in them, in order."""
    found: list[str] = []
    for name, inside in tree.items():
        if inside is None:
            found.append(f"{prefix}{name}")
        elif inside:
            found += by_name(inside, f"{prefix}{name}/")
        else:
            found.append(f"{prefix}{name}/")
    return sorted(found)


@given(TREES, st.integers(0, 4))
def test_what_comes_by_components_goes_by_names(tree: Tree, held: int) -> None:
    names, asked = by_name(tree), list[str]()

    def beside(folder: str) -> list[ObjectInfo]:
        asked.append(folder)
        before = [name for name in names if name.startswith(folder) and name < f"{folder}/"]
        return [ObjectInfo(name, 0, "", is_marker=name.endswith("/")) for name in before]

    found = list(in_name_order(by_component(tree), "", beside, held))
    assert [info.name for info in found] == names
    assert all(info.is_marker == info.name.endswith("/") for info in found)
    assert len(asked) == len(set(asked))
    list(in_name_order(by_component(tree), "", lambda _: pytest.fail("all of it was held")))


@pytest.mark.parametrize("folders", [1, 1000])
def test_no_more_is_held_back_than_may_be(folders: int) -> None:
    """Whatever comes, what was taken is given before much more is taken."""
    files, taken = 20_000 // folders, [0]

    def counted() -> Iterator[ObjectInfo]:
        yield ObjectInfo("d", 0, "", is_marker=True)
        for number in range(folders):
            yield ObjectInfo(f"d/{number:04}", 0, "", is_marker=True)
            for file in range(files):
                taken[0] += 1
                yield ObjectInfo(f"d/{number:04}/{file:05}", 1, "")

    given = most = 0
    for _ in in_name_order(counted(), "", lambda _: (), held=100):
        given += 1
        most = max(most, taken[0] - given)
    assert given == 20_000
    assert most <= 210  # of the folder, and of the one above


# Over the wire.

FILES = {
    *("a", "b/c/d/e", "b/c-/x", "b/c.d", "b-/y/z", "b.txt", "b0", "c/1"),
    *(f"many/{number}/x" for number in range(12)),
}


@pytest.fixture
def lake(lake_place: LakePlace) -> LakePlace:
    fill(lake_place.store, dict.fromkeys(FILES, b"x"))
    for name in ("empty", "b/c/none", "many-/of/nothing"):
        lake_place.make_folder(name)
    return lake_place


ALL = sorted([*FILES, "empty/", "b/c/none/", "many-/of/nothing/"])
FOLDERS = {
    "/".join(name.split("/")[:depth]) for name in ALL for depth in range(1, name.count("/") + 1)
}


@pytest.mark.parametrize("page_size", [2, 7, 5000])
@pytest.mark.parametrize("few", [0, 10**6])
def test_a_data_lake_is_listed_alike_in_each_way(
    lake: LakePlace, monkeypatch: pytest.MonkeyPatch, page_size: int, few: int
) -> None:
    monkeypatch.setattr(listed, "_FEW", few)
    with lake.through(page_size=page_size) as seen:
        found = list(list_objects(seen.store, ""))
        assert [info.name for info in found] == ALL
        assert found == list(in_order(seen.store, ""))
        for prefix in ("b/", "b/c/", "many/", "empty/", "none/", "a/", "b", "b/c", "many-/of/"):
            names = [info.name for info in list_objects(seen.store, prefix)]
            assert names == [name for name in ALL if name.startswith(prefix)], prefix


def test_small_folders_cost_no_request_each(lake: LakePlace) -> None:
    with lake.through() as seen:
        assert len(list(list_objects(seen.store, ""))) == len(ALL)
        assert seen.proxy.count("comp=list") == 1
    with lake.through(page_size=20) as seen:
        assert len(list(list_objects(seen.store, ""))) == len(ALL)
        assert seen.proxy.count("comp=list") == -(-(len(FILES) + len(FOLDERS)) // 20)


def test_large_folders_are_asked_for_at_once(
    lake: LakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "_FEW", 1)
    with lake.through(page_size=20) as seen:
        assert [info.name for info in list_objects(seen.store, "")] == ALL
        assert seen.proxy.count("delimiter=") > 0


def test_what_is_unfinished_is_in_no_page(lake: LakePlace) -> None:
    """However many pages that takes."""
    for number in range(5):
        put(lake.store, f".pds-unfinished/{number}")
    with lake.through(page_size=2) as seen:
        assert [info.name for info in list_objects(seen.store, "")] == ALL


def test_who_wants_a_few_does_not_ask_for_all(lake: LakePlace) -> None:
    with lake.through() as seen:
        assert [info.name for info in list_objects(seen.store, "", limit=2)] == ALL[:2]
        assert seen.proxy.count(r"comp=list\S*delimiter=") == seen.proxy.count("comp=list")


def test_a_page_that_fails_or_repeats_ends_the_listing(lake: LakePlace) -> None:
    with lake.through(page_size=5) as seen:
        seen.proxy.fail_by(Fault("comp=list", "answer", skip=3, times=None))
        with pytest.raises(ServiceBusy):
            list(list_objects(seen.store, ""))
        seen.proxy.fail_by()
        first = seen.bare.page_by_component("")
        seen.bare.page_by_component = lambda *_, **__: first  # type: ignore[method-assign]
        with pytest.raises(IntegrityError, match="repeats itself"):
            list(list_objects(seen.store, ""))


def test_of_whom_nothing_is_known_is_listed_by_folder(lake: LakePlace) -> None:
    blob, dfs = (f"http://{lake.server.host}:{port}/{lake.server.account}" for port in lake.ports)
    store = DataLakeStore(blob, lake.name, dfs_url=dfs)
    assert not store.capabilities.pages_by_component
    store.close()

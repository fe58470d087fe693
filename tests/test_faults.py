"""Faults of the wire and of the service, met by whole transfers; `docs/faults.md` numbers them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient
from oracle import TRIES, attempt, check, stored, through
from servers.azurite import Azurite
from servers.faults import Fault
from small_stores import PART, SmallBlobStore, make_tree, tree
from wire_faults import LISTING, READING, WRITING, Named, at

from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import Capabilities
from prefect_datastores.testing import content_of, put

PARTS = 4
LARGE = content_of(3 * PART + 77)
NEW = {"large": LARGE, "small": b"new and small", "sub/other": b"other", "empty": b""}
OLD = {"large": b"old", "small": b"old and small", "kept": b"kept"}
STALL = 0.15
OF_LARGE = r"GET \S+/large(\?|$)"


@pytest.fixture
def direct(azurite: Azurite, container: ContainerClient) -> SmallBlobStore:
    return SmallBlobStore(azurite.url, container.container_name, account_key=azurite.key)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "destination", OLD)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", NEW)


def fill(store: SmallBlobStore, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        put(store, name, data)


REPLACE = DownloadRequest(overwrite="replace")
ALL = {**OLD, **NEW}


# Every fault, once and for ever.


@pytest.mark.parametrize("name", READING)
def test_a_fault_of_a_read_is_got_over_or_told_and_never_published(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    name: str,
) -> None:
    fill(direct, NEW)
    named = READING[name]
    with through(azurite, container, stall=STALL) as seen:
        for times in (None, 1):
            make_tree(destination, OLD)
            seen.proxy.fail_by(at(named.fault, OF_LARGE, times=times, skip=1))
            outcome = attempt(lambda: download(seen.store, destination, REPLACE))
            check(outcome, OLD, NEW, tree(destination))
            got_over = named.passes and times == 1
            assert outcome.row("large").action == ("moved" if got_over else "failed")
            # A part is tried so often, and a whole object that arrived damaged once more.
            assert seen.proxy.count(OF_LARGE) <= 2 * PARTS * TRIES
        seen.proxy.fail_by()
        download(seen.store, destination, REPLACE)
    assert tree(destination) == ALL
    assert not list(destination.glob(".pds-*"))


@pytest.mark.parametrize("name", LISTING)
def test_a_fault_of_a_listing_is_got_over_or_told_and_nothing_is_moved(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    source: Path,
    name: str,
) -> None:
    class Paged(SmallBlobStore):
        capabilities = Capabilities("pages of two", stores_digest=True, part_size=PART, page_size=2)

    fill(direct, NEW)
    named = LISTING[name]
    with through(azurite, container, stall=STALL, kind=Paged) as seen:
        for times in (None, 1):
            make_tree(destination, OLD)
            seen.proxy.fail_by(at(named.fault, "comp=list", times=times, skip=1))  # the second page
            outcome = attempt(lambda: download(seen.store, destination, REPLACE))
            check(outcome, OLD, NEW, tree(destination))
            assert (outcome.error is None) == (named.passes and times == 1)
            assert seen.proxy.count("comp=list") <= 1 + TRIES
            if outcome.error:
                assert outcome.report is None
                assert seen.proxy.count(OF_LARGE) == 0


OF_PART = r"PUT \S+/large\?\S*comp=block&"
OF_COMMIT = r"PUT \S+/large\?\S*comp=blocklist"
OF_SMALL = r"PUT \S+/small(\?|$)"


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize(
    ("match", "hit"), [(OF_PART, "large"), (OF_COMMIT, "large"), (OF_SMALL, "small")]
)
def test_a_fault_of_a_write_is_got_over_or_told_and_never_half_there(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    source: Path,
    name: str,
    match: str,
    hit: str,
) -> None:
    named = WRITING[name]
    with through(azurite, container) as seen:
        for times in (None, 1):
            fill(direct, OLD)
            for added in stored(direct).keys() - OLD.keys():
                container.delete_blob(added)
            seen.proxy.fail_by(at(named.fault, match, times=times, skip=match == OF_PART))
            outcome = attempt(
                lambda: upload(seen.store, folder_source(source), "", "if_changed")
            )
            # It was done, and nobody ever heard of it.
            lost = name == "the answer is lost" and times is None and match != OF_PART
            check(outcome, OLD, NEW, stored(direct), unheard=[hit] if lost else [])
            got_over = named.passes and times == 1
            assert outcome.row(hit).action == ("moved" if got_over else "failed"), outcome.error
            assert seen.proxy.count(match) <= PARTS * TRIES
        seen.proxy.fail_by()
        upload(seen.store, folder_source(source), "", "if_changed")
    assert stored(direct) == ALL

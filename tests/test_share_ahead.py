"""Small files of a share are sent ahead, in several requests each: whole or not at all, and nothing hidden is left."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from oracle import attempt, check, threads_left
from places import TRIES, SharePlace
from servers.azure_files import AzureFiles
from servers.faults import Fault, faulty
from small_stores import SmallShareStore, make_tree
from wire_faults import WRITING, at

from prefect_datastores.errors import TransferCancelled
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import content_of, get, md5_of, put

MANY = {
    f"{number // 50}/deep/{number:03}": content_of(number, str(number)) for number in range(200)
}
FEW = {f"{number:03}": content_of(100 + number, str(number)) for number in range(12)}
OLD = {"003": b"old", "kept": b"kept"}


def stored(store: SmallShareStore) -> dict[str, bytes]:
    return {
        info.name: get(store, info.name) for info in list_objects(store, "") if not info.is_marker
    }


def hidden(store: SmallShareStore) -> list[str]:
    found = store.list_page(".pds-unfinished/", recursive=False)
    return [info.name for info in found.objects if not info.is_marker]


class Watching(SmallShareStore):
    """Takes note of how many files were made when the first got its name."""

    made = made_at_first = 0

    def making(self, *given: Any, **more: Any) -> Any:
        self.made += 1
        return super().making(*given, **more)

    def renaming(self, *given: Any, **more: Any) -> Any:
        self.made_at_first = self.made_at_first or self.made
        return super().renaming(*given, **more)


@pytest.fixture
def watching(azure_files: AzureFiles, share: str) -> Iterator[Watching]:
    with closing(Watching(azure_files.url, share, account_key=azure_files.key)) as store:
        yield store


def test_many_are_under_way_and_all_of_them_are_stored(
    watching: Watching, share_store: SmallShareStore, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", MANY))
    for _ in range(
        2
    ):  # in folders that are missing, and over what is there, by connections that are there
        watching.made = watching.made_at_first = 0
        outcome = attempt(lambda: upload(watching, source, "", "replace"))
        assert outcome.error is None
        assert stored(share_store) == MANY
        assert hidden(share_store) == []
    assert watching.made_at_first > 3
    info = share_store.head(ObjectName("1/deep/077"))
    assert info.digest == md5_of(MANY["1/deep/077"])
    report = upload(watching, source, "", "if_changed")
    assert {row.action for row in report.rows} == {"unchanged"}


@pytest.mark.parametrize("what", ["unfinished/[0-9a-f]+$", "/003.comp=rename"])
@pytest.mark.parametrize("fault", [*WRITING])
def test_a_fault_of_either_request_is_got_over_or_told(
    share_place: SharePlace,
    share_store: SmallShareStore,
    tmp_path: Path,
    what: str,
    fault: str,
) -> None:
    source = folder_source(make_tree(tmp_path / "source", FEW))
    named = WRITING[fault]
    with share_place.through(stall=0.5) as seen:
        upload(seen.store, source, "first", "replace")  # connections are there now
        for times in (None, 1):
            for key in stored(share_store):
                share_store.delete(ObjectName(key))
            for key, content in OLD.items():
                put(share_store, key, content)
            seen.proxy.fail_by(at(named.fault, rf"PUT \S+{what}", times=times))
            outcome = attempt(lambda: upload(seen.store, source, "", "replace"))
            # Where no answer to a rename comes, nobody can tell.
            unheard = {"003"} if "rename" in what and "lost" in fault else set[str]()
            check(outcome, OLD, FEW, stored(share_store), unheard=unheard)
            if named.passes and times == 1:
                assert outcome.error is None
                assert stored(share_store) == {**OLD, **FEW}
            assert seen.proxy.count(rf"PUT \S+{what}") <= len(FEW) * 11 * TRIES
            for name in hidden(share_store):  # made by a request whose answer was lost
                assert "lost" in fault or times is None
                share_store.delete_unfinished(name)


def test_those_whose_name_is_lost_or_taken_are_told_right(
    share_place: SharePlace, share_store: SmallShareStore, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", FEW))
    theirs = b"theirs"
    rename = r"PUT \S+/{}\?comp=rename"
    with share_place.through() as seen:
        upload(seen.store, source, "first", "replace")
        seen.proxy.fail_by(
            Fault(rename.format("003"), "lose"),
            Fault(rename.format("005"), "pass", meanwhile=lambda: put(share_store, "005", theirs)),
        )
        outcome = attempt(lambda: upload(seen.store, source, "", "fail"))
    found = {name: content for name, content in stored(share_store).items() if "/" not in name}
    check(outcome, {"005": theirs}, FEW, found)
    assert outcome.row("003").action == "moved"
    assert outcome.row("005").action == "failed"
    assert found == {**FEW, "005": theirs}
    assert hidden(share_store) == []


def test_one_that_is_taken_away_between_its_requests_is_sent_again(
    share_place: SharePlace, share_store: SmallShareStore, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", FEW))

    def rob() -> None:
        for name in hidden(share_store):
            share_store.delete_unfinished(name)

    with share_place.through() as seen:
        upload(seen.store, source, "first", "replace")
        seen.proxy.fail_by(Fault("comp=rename", "pass", meanwhile=rob))
        outcome = attempt(lambda: upload(seen.store, source, "", "replace"))
    assert outcome.error is None
    assert {name: get(share_store, name) for name in FEW} == FEW
    assert hidden(share_store) == []


def test_a_service_that_is_busy_is_waited_for_with_many_under_way(
    azure_files: AzureFiles, share: str, share_store: SmallShareStore, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", MANY))
    pauses: list[float] = []
    policy = RetryPolicy(sleep=pauses.append, jitter=lambda: 0.0)
    faults = (
        Fault(r"PUT \S+unfinished/[0-9a-f]+$", "answer", skip=20, times=6, status=503),
        Fault(r"PUT \S+/1\d\d\?comp=rename", "answer", times=6, status=503),
    )
    with faulty(azure_files.host, azure_files.port, *faults) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{azure_files.account}"
        bare = SmallShareStore(url, share, account_key=azure_files.key)
        with closing(patient(bare, policy)) as store:
            assert attempt(lambda: upload(store, source, "", "replace")).error is None
    assert stored(share_store) == MANY
    assert hidden(share_store) == []
    assert len(pauses) >= 2


def test_a_cancel_leaves_whole_files_and_no_thread(
    share_place: SharePlace, share_store: SmallShareStore, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", MANY))
    for what in ("unfinished/[0-9a-f]+$", "comp=rename"):
        stop = Cancellation()
        with share_place.through() as seen:
            seen.proxy.fail_by(Fault(what, "pass", skip=60, meanwhile=stop.cancel))
            outcome = attempt(
                lambda stop=stop: upload(
                    *(seen.store, source, "", "replace"),
                    limits=Limits(small=32),
                    cancellation=stop,
                )
            )
        assert isinstance(outcome.error, TransferCancelled)
        assert stored(share_store).items() <= MANY.items()
        assert len(stored(share_store)) < len(MANY)
        assert threads_left() == []
        # Nobody waits for what was begun, so that it stays for the sweep.
        assert len(hidden(share_store)) <= 64
        for name in (*stored(share_store), *hidden(share_store)):
            share_store.delete(ObjectName(name))

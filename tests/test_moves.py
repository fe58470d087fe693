"""Objects that get another name, and empty folders, over the wire: what fails half way, and who comes between."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from azure.storage.blob import ContainerClient, ContentSettings
from places import LakePlace, RemotePlace, SharePlace
from servers.faults import Fault, Reply
from small_stores import PART, SmallBlobStore, SmallLocalStore

from prefect_datastores import files
from prefect_datastores.errors import (
    AccessError,
    DatastoreError,
    FolderNotEmpty,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import Extras
from prefect_datastores.stores.blob_moving import BlobMoves
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.stores.moving import Remembered
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import content_of, get, md5_of, names_below, put

AT_ONCE = RetryPolicy(tries=3, first_pause=0.0, longest_pause=0.0)
NAME, TO = ObjectName("a"), ObjectName("b")
CONTENT = content_of(PART + 5)
COPY, RENAME = r"PUT \S+/b$", r"PUT \S+/b\?\S*(comp=rename|mode=legacy)"
DELETE = r"DELETE \S+/a$"


class Kind(NamedTuple):
    """A kind of place, and the requests by which an object is moved there."""

    name: str
    requests: tuple[str, ...]


KINDS = [
    Kind("blob", (COPY, DELETE)),
    Kind("flat lake", (COPY, DELETE)),
    Kind("share", (RENAME,)),
    Kind("lake", (RENAME,)),
]
EACH = [(kind.name, request) for kind in KINDS for request in kind.requests]
CONDITIONED = ["blob", "flat lake", "lake"]  # by the service itself


@pytest.fixture
def of_kind(request: pytest.FixtureRequest, new_place: Callable[[str], Any]) -> RemotePlace:
    """A new, empty place of a kind."""
    made: RemotePlace = new_place(request.param)
    return made


def condition_of(place: RemotePlace, condition: str) -> dict[str, Any]:
    """What a move is told of its place, where something may stand already."""
    if condition == "if absent":
        return {"if_absent": True}
    standing = put(place.store, TO, b"there")
    return {"replaces": standing.etag} if condition == "replaces" else {}


def whole(place: RemotePlace, name: str, content: bytes) -> None:
    """Store an object with its MD5, as this package does."""
    put(place.store, name, content)


def bare(place: RemotePlace, name: str, content: bytes) -> None:
    """Store a blob without an MD5, as other clients do with large ones."""
    ask = place.service.request
    ask("PUT", name, (("comp", "block"), ("blockid", "AAAA")), {}, content)
    listed = b"<BlockList><Uncommitted>AAAA</Uncommitted></BlockList>"
    ask("PUT", name, (("comp", "blocklist"),), {}, listed)


def copy(place: RemotePlace, source: str) -> None:
    """Copy a blob to the place of moves, as another client does."""
    headers = {"x-ms-copy-source": place.service.signed_url(source)}
    place.service.request("PUT", TO, (), headers)


def write(place: RemotePlace, source: str) -> None:
    """Write the bytes that a blob has to the place of moves."""
    put(place.store, TO, get(place.store, source))


# Answers that are lost.


@pytest.mark.parametrize(("of_kind", "match"), EACH, indirect=["of_kind"])
@pytest.mark.parametrize("action", ["lose", "drop"])
@pytest.mark.parametrize("condition", ["always", "if absent", "replaces"])
def test_a_move_whose_answer_is_lost_is_gone_on_with(
    of_kind: RemotePlace, match: str, action: Any, condition: str
) -> None:
    put(of_kind.store, NAME, CONTENT)
    given = condition_of(of_kind, condition)
    with of_kind.through(Fault(match, action, times=2)) as one:
        moved = patient(one.bare, AT_ONCE).move(NAME, TO, **given)
        assert moved == one.bare.head(TO)
        # What is over is forgotten: nothing is there now.
        with pytest.raises(ObjectNotFound):
            one.bare.move(NAME, TO)
    assert (moved.size, moved.digest) == (len(CONTENT), md5_of(CONTENT))
    assert get(of_kind.store, TO) == CONTENT
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize(("of_kind", "match"), EACH, indirect=["of_kind"])
def test_a_move_that_ends_half_way_leaves_the_whole_and_is_made_again_by_anybody(
    of_kind: RemotePlace, match: str
) -> None:
    put(of_kind.store, NAME, CONTENT)
    with of_kind.through(Fault(match, "drop", times=None)) as one:
        with pytest.raises(ServiceBusy):
            patient(one.bare, AT_ONCE).move(NAME, TO)
    for name in names_below(of_kind.store):
        assert get(of_kind.store, name) == CONTENT
    assert NAME in names_below(of_kind.store)
    of_kind.store.move(NAME, TO)
    assert names_below(of_kind.store) == [TO]
    assert get(of_kind.store, TO) == CONTENT


@pytest.mark.parametrize("of_kind", ["share", "lake"], indirect=True)
def test_a_move_whose_answer_is_lost_and_whose_place_was_written_since_is_not_known(
    of_kind: RemotePlace,
) -> None:
    put(of_kind.store, NAME, CONTENT)
    with of_kind.through(Fault(RENAME, "lose")) as one:
        with pytest.raises(ServiceBusy):
            one.bare.move(NAME, TO)
        put(of_kind.store, TO, b"since")
        with pytest.raises(TransferError, match="not known"):
            one.bare.move(NAME, TO)
        with pytest.raises(ObjectNotFound):
            one.bare.move(NAME, TO)
    assert get(of_kind.store, TO) == b"since"


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
def test_a_deletion_whose_answer_is_lost_and_whose_place_was_written_since_is_not_known(
    of_kind: RemotePlace,
) -> None:
    put(of_kind.store, NAME, CONTENT)
    with of_kind.through(Fault(DELETE, "lose")) as one:
        with pytest.raises(ServiceBusy):
            one.bare.move(NAME, TO)
        put(of_kind.store, TO, b"since")
        with pytest.raises(TransferError, match="not known"):
            one.bare.move(NAME, TO)
    assert get(of_kind.store, TO) == b"since"


@pytest.mark.parametrize(
    ("of_kind", "store_by"),
    [*((kind.name, whole) for kind in KINDS), ("blob", bare), ("flat lake", bare)],
    indirect=["of_kind"],
)
def test_what_was_written_to_the_old_name_since_is_moved_and_not_taken_for_moved(
    of_kind: RemotePlace, store_by: Callable[[RemotePlace, str, bytes], None]
) -> None:
    store_by(of_kind, NAME, CONTENT)
    with of_kind.through(Fault(f"{COPY}|{RENAME}", "lose")) as one:
        with pytest.raises(ServiceBusy):
            one.bare.move(NAME, TO)
        since = content_of(len(CONTENT), "since")
        store_by(of_kind, NAME, since)
        one.bare.move(NAME, TO)
    assert get(of_kind.store, TO) == since
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
@pytest.mark.parametrize("others", [copy, write])
@pytest.mark.parametrize("action", ["lose", "drop"])
@pytest.mark.parametrize("store_by", [whole, bare])
def test_what_another_wrote_since_is_not_taken_for_a_copy_whose_answer_is_lost(
    of_kind: RemotePlace,
    others: Callable[[RemotePlace, str], None],
    action: Any,
    store_by: Callable[[RemotePlace, str, bytes], None],
) -> None:
    store_by(of_kind, NAME, CONTENT)
    theirs = content_of(len(CONTENT), "theirs")
    store_by(of_kind, "other", theirs)
    with of_kind.through(Fault(COPY, action)) as one:
        with pytest.raises(ServiceBusy):
            one.bare.move(NAME, TO, if_absent=True)
        others(of_kind, "other")
        with pytest.raises(ObjectExists):
            one.bare.move(NAME, TO, if_absent=True)
    assert get(of_kind.store, TO) == theirs
    assert get(of_kind.store, NAME) == CONTENT


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
@pytest.mark.parametrize("seed", ["before", ""])
def test_what_was_copied_from_the_same_name_before_is_not_taken_for_a_copy_that_was_not_made(
    of_kind: RemotePlace, seed: str
) -> None:
    put(of_kind.store, NAME, content_of(len(CONTENT), seed))
    copy(of_kind, NAME)
    before = of_kind.store.head(TO)
    put(of_kind.store, NAME, CONTENT)
    with of_kind.through(Fault(COPY, "drop")) as one:
        with pytest.raises(ServiceBusy):
            one.bare.move(NAME, TO)
        assert one.bare.move(NAME, TO).etag != before.etag
    assert get(of_kind.store, TO) == CONTENT
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize("of_kind", [kind.name for kind in KINDS], indirect=True)
@pytest.mark.parametrize("action", ["lose", "drop"])
def test_a_folder_whose_making_or_removal_was_not_answered_is_made_and_removed(
    of_kind: RemotePlace, action: Any
) -> None:
    folder = ObjectName("folder")
    made, gone = Fault(r"PUT \S+/folder", action), Fault(r"DELETE \S+/folder", action)
    with of_kind.through(made, gone) as one:
        store = patient(one.bare, AT_ONCE)
        store.make_folder(folder)
        assert [info.is_marker for info in store.list_page("folder").objects] == [True]
        store.remove_empty_folder(folder)
        with pytest.raises(ObjectNotFound):
            store.remove_empty_folder(folder)


# Others who come between.


@pytest.mark.parametrize("of_kind", CONDITIONED, indirect=True)
def test_a_source_that_is_written_meanwhile_is_moved_as_it_is_then_or_not_at_all(
    of_kind: RemotePlace,
) -> None:
    pin = put(of_kind.store, NAME, CONTENT).etag
    written = Fault(
        f"{COPY}|{RENAME}", "pass", meanwhile=lambda: put(of_kind.store, NAME, b"written")
    )
    with of_kind.through(written) as one:
        with pytest.raises(SourceChanged):
            one.bare.move(NAME, TO, pin=pin)
        assert names_below(of_kind.store) == [NAME]
        one.proxy.fail_by(written)
        moved = one.bare.move(NAME, TO)
    assert (moved.size, get(of_kind.store, TO)) == (7, b"written")
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize("of_kind", CONDITIONED, indirect=True)
@pytest.mark.parametrize("condition", ["if absent", "replaces"])
def test_a_place_that_is_written_meanwhile_is_left_as_it_is(
    of_kind: RemotePlace, condition: str
) -> None:
    put(of_kind.store, NAME, CONTENT)
    given = condition_of(of_kind, condition)
    written = Fault(
        f"{COPY}|{RENAME}", "pass", meanwhile=lambda: put(of_kind.store, TO, b"written")
    )
    with of_kind.through(written) as one, pytest.raises(ObjectExists):
        one.bare.move(NAME, TO, **given)
    assert get(of_kind.store, NAME) == CONTENT
    assert get(of_kind.store, TO) == b"written"


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
def test_what_is_written_to_a_blob_that_was_copied_stays(of_kind: RemotePlace) -> None:
    put(of_kind.store, NAME, CONTENT)
    written = Fault(DELETE, "pass", meanwhile=lambda: put(of_kind.store, NAME, b"written"))
    with of_kind.through(written) as one:
        one.bare.move(NAME, TO)
    assert get(of_kind.store, NAME) == b"written"
    assert get(of_kind.store, TO) == CONTENT


@pytest.mark.parametrize("of_kind", [kind.name for kind in KINDS], indirect=True)
def test_a_folder_that_is_filled_meanwhile_loses_nothing(of_kind: RemotePlace) -> None:
    of_kind.store.make_folder(ObjectName("folder"))
    filled = Fault(
        r"DELETE \S+/folder", "pass", meanwhile=lambda: put(of_kind.store, "folder/a", b"a")
    )
    with of_kind.through(filled) as one, suppress(FolderNotEmpty):
        one.bare.remove_empty_folder(ObjectName("folder"))
    assert get(of_kind.store, "folder/a") == b"a"


@pytest.mark.parametrize("of_kind", ["blob", "flat lake", "lake"], indirect=True)
def test_an_object_that_takes_an_empty_folders_place_meanwhile_is_not_deleted(
    of_kind: RemotePlace,
) -> None:
    folder = ObjectName("folder")

    def replaced() -> None:
        of_kind.store.remove_empty_folder(folder)
        put(of_kind.store, folder, b"")

    of_kind.store.make_folder(folder)
    with of_kind.through(Fault(r"DELETE \S+/folder", "pass", meanwhile=replaced)) as one:
        with pytest.raises((SourceChanged, ObjectNotFound)):
            one.bare.remove_empty_folder(folder)
    assert not of_kind.store.head(folder).is_marker


# Blobs: what comes along, and copies that take their time.


def test_headers_and_metadata_of_a_blob_come_along(
    blob_store: SmallBlobStore, container: ContainerClient
) -> None:
    settings = ContentSettings(
        content_type="text/csv", content_language="de", content_md5=bytearray(md5_of(CONTENT))
    )
    container.upload_blob(NAME, CONTENT, metadata={"Key": "value"}, content_settings=settings)
    before = container.get_blob_client(NAME).get_blob_properties()
    blob_store.move(NAME, TO)
    after = container.get_blob_client(TO).get_blob_properties()
    assert after.metadata == before.metadata == {"Key": "value"}
    assert dict(after.content_settings) == dict(before.content_settings)
    assert after.content_settings.content_type == "text/csv"


@pytest.mark.parametrize("of_kind", ["blob", "flat lake", "share", "lake"], indirect=True)
def test_who_signs_by_a_token_of_the_container_moves_as_well(of_kind: RemotePlace) -> None:
    put(of_kind.store, NAME, CONTENT)
    with closing(of_kind.open(sas_token=of_kind.sas())) as store:
        store.move(NAME, TO)
        store.make_folder(ObjectName("folder"))
        store.remove_empty_folder(ObjectName("folder"))
    assert get(of_kind.store, TO) == CONTENT
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
def test_who_may_not_delete_leaves_both_names(of_kind: RemotePlace) -> None:
    put(of_kind.store, NAME, CONTENT)
    with closing(of_kind.open(sas_token=of_kind.sas("rcwl"))) as store:
        with pytest.raises(AccessError):
            store.move(NAME, TO)
    assert get(of_kind.store, NAME) == get(of_kind.store, TO) == CONTENT


class Copying:
    """A blob place behind a proxy, whose service says of copies what a test has it say."""

    def __init__(self, place: RemotePlace, one: Any, seconds: float = 60.0) -> None:
        self.place, self.one, self.now = place, one, 0.0
        store = one.bare
        store._moves = BlobMoves(
            store, store._service, seconds=seconds, sleep=self.sleep, clock=lambda: self.now
        )
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert NAME in names_below(self.place.store)  # the source waits for the end
        self.pauses.append(seconds)
        self.now += seconds


def says(**headers: str) -> Callable[[Reply], Reply]:
    """Change headers of an answer."""
    named = {f"x-ms-copy-{name.replace('_', '-')}": text for name, text in headers.items()}
    return lambda reply: Reply(reply.status, {**reply.headers, **named}, reply.body)


HEAD = r"HEAD \S+/b$"
PENDING = Fault(COPY, "change", change=says(status="pending"))


def told_next(times: int, skip: int = 1, **headers: str) -> Fault:
    """What is told of the place after the first look at it, so often."""
    return Fault(HEAD, "change", skip=skip, times=times, change=says(**headers))


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
def test_a_copy_that_is_pending_is_waited_for(of_kind: RemotePlace) -> None:
    put(of_kind.store, NAME, CONTENT)
    with of_kind.through(PENDING, told_next(7, status="pending")) as one:
        copying = Copying(of_kind, one)
        moved = one.bare.move(NAME, TO)
    assert copying.pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert moved == of_kind.store.head(TO)
    assert get(of_kind.store, TO) == CONTENT
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
def test_a_copy_that_was_pending_when_it_was_asked_for_first_is_waited_for_later(
    of_kind: RemotePlace,
) -> None:
    put(of_kind.store, NAME, CONTENT)
    lost = Fault(HEAD, "drop", skip=1)
    with of_kind.through(PENDING, lost) as one:
        copying = Copying(of_kind, one)
        with pytest.raises(ServiceBusy):
            one.bare.move(NAME, TO, if_absent=True)
        one.proxy.fail_by(told_next(1, skip=0, status="pending"))
        one.bare.move(NAME, TO, if_absent=True)
        assert one.proxy.count(COPY) == 0
    assert copying.pauses == [0.05, 0.05]
    assert names_below(of_kind.store) == [TO]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"status": "failed", "status_description": "500 it broke"}, "500 it broke"),
        ({"status": "aborted"}, "aborted"),
        ({"id": "another"}, "somebody else"),
        ({"status": "", "id": "another"}, "somebody else"),
    ],
)
def test_a_copy_that_the_service_gives_up_leaves_the_source(
    blob_place: RemotePlace, told: Mapping[str, str], why: str
) -> None:
    put(blob_place.store, NAME, CONTENT)
    put(blob_place.store, TO, b"there")
    with blob_place.through(PENDING, told_next(9, **told)) as one:
        Copying(blob_place, one)
        with pytest.raises(TransferError, match=why):
            one.bare.move(NAME, TO)
    assert get(blob_place.store, NAME) == CONTENT
    assert TO in names_below(blob_place.store)


def test_a_copy_that_takes_too_long_is_ended_and_what_is_left_of_it_removed(
    blob_place: RemotePlace,
) -> None:
    put(blob_place.store, NAME, b"")  # as an ended copy leaves an empty blob
    with blob_place.through(PENDING, told_next(50, status="pending")) as one:
        copying = Copying(blob_place, one, seconds=10.0)
        with pytest.raises(TransferError, match="too long"):
            one.bare.move(NAME, TO)
        assert one.proxy.count(r"PUT \S+/b\?comp=copy&copyid=") == 1
    assert 10 <= sum(copying.pauses) < 13
    assert names_below(blob_place.store) == [NAME]


# Markers of other clients.


@pytest.mark.parametrize("of_kind", ["blob", "flat lake"], indirect=True)
def test_a_marker_in_either_form_is_removed_and_nothing_else(of_kind: RemotePlace) -> None:
    ask, folder = of_kind.service.request, ObjectName("folder")
    blob = {"x-ms-blob-type": "BlockBlob"}
    if of_kind.kind == "blob":  # the other server knows no names that end in a slash
        ask("PUT", "folder/", (), blob)
    ask("PUT", "folder", (), {**blob, "x-ms-meta-hdi_isfolder": "True"})
    of_kind.store.make_folder(folder)
    with pytest.raises(PlaceTaken):
        put(of_kind.store, "a")
        of_kind.store.move(NAME, folder)
    of_kind.store.remove_empty_folder(folder)
    assert names_below(of_kind.store) == ["a"]
    with pytest.raises(ObjectNotFound):
        of_kind.store.remove_empty_folder(folder)


def test_an_object_beside_a_marker_of_its_name_and_one_that_ends_in_a_slash_stay(
    blob_place: RemotePlace,
) -> None:
    ask, folder = blob_place.service.request, ObjectName("folder")
    blob = {"x-ms-blob-type": "BlockBlob"}
    put(blob_place.store, folder, b"object")
    ask("PUT", "folder/", (), blob)
    blob_place.store.remove_empty_folder(folder)
    assert names_below(blob_place.store) == ["folder"]
    ask("PUT", "folder/", (), blob, b"content")
    with pytest.raises(FolderNotEmpty):
        blob_place.store.remove_empty_folder(folder)
    assert names_below(blob_place.store) == ["folder", "folder/"]


# Shares and data lakes.


def test_a_file_of_a_share_keeps_what_it_has_beside_its_content(share_place: SharePlace) -> None:
    store = share_place.store
    info = put(store, NAME, CONTENT, extras=Extras(modified=1_234_567_890 * 10**9))
    given = {"x-ms-meta-key": "value", "x-ms-meta-other": "more"}
    kept = {name: text for name, text in store.stat(NAME).items() if name.startswith("x-ms-meta")}
    store.service.request("PUT", NAME, (("comp", "metadata"),), {**kept, **given})
    before = store.stat(NAME)
    moved = store.move(NAME, TO)
    after = store.stat(TO)
    for header in ("x-ms-file-id", "x-ms-file-creation-time", "content-type", *given):
        assert after[header] == before[header]
    assert moved.modified == info.modified


def test_a_file_below_a_folder_that_is_a_file_is_refused_and_makes_nothing(
    share_place: SharePlace,
) -> None:
    store = share_place.store
    put(store, NAME)
    put(store, "file")
    for attempt in (
        lambda: store.move(NAME, ObjectName("file/a/b")),
        lambda: store.make_folder(ObjectName("file/a/b")),
    ):
        with pytest.raises(PlaceTaken, match="file"):
            attempt()
    assert names_below(store) == ["a", "file"]


def test_a_rename_is_refused_by_a_source_that_is_a_folder_by_then(lake_place: LakePlace) -> None:
    put(lake_place.store, NAME)

    def replaced() -> None:
        lake_place.store.delete(NAME)
        lake_place.store.make_folder(NAME)

    with lake_place.through(Fault(RENAME, "pass", meanwhile=replaced)) as one:
        with pytest.raises(ObjectNotFound):
            one.bare.move(NAME, TO)
    assert lake_place.store.list_page("", recursive=False).folders == (NAME,)


# The local disk.


@pytest.fixture(params=["links", "no links"])
def poor_disk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LocalStore:
    """A folder on a disk where no rename can be told to be to a new name, with and without hard links."""
    monkeypatch.setattr(files, "rename_to_new", lambda *_: False)
    if request.param == "no links":

        def refused(*_: object, **__: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refused)
    return LocalStore(tmp_path)


def test_a_disk_that_can_do_less_moves_to_new_names_all_the_same(
    poor_disk: LocalStore, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with closing(poor_disk) as store:
        store.move(NAME, TO, if_absent=True)
        (tmp_path / "a").write_bytes(b"another")
        with pytest.raises(ObjectExists):
            store.move(NAME, TO, if_absent=True)
    assert (tmp_path / "b").read_bytes() == b"a"
    assert (tmp_path / "a").read_bytes() == b"another"


def test_a_move_that_was_killed_between_two_names_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    os.link(tmp_path / "a", tmp_path / "b")
    with closing(SmallLocalStore(tmp_path)) as store:
        store.move(NAME, TO)
        assert names_below(store) == [TO]
        assert get(store, TO) == b"a"


def test_no_link_is_moved_or_replaced_and_none_is_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "kept").write_text("kept")
    (root / "link").symlink_to(outside / "kept")
    (root / "folder").symlink_to(outside)
    (root / "a").write_text("a")
    with closing(LocalStore(root)) as store:
        for name, to in (("link", "b"), ("a", "link"), ("a", "folder/b"), ("folder/kept", "b")):
            with pytest.raises(DatastoreError):
                store.move(ObjectName(name), ObjectName(to))
        for attempt in (store.make_folder, store.remove_empty_folder):
            for name in ("folder", "folder/below", "link"):
                with pytest.raises(DatastoreError):
                    attempt(ObjectName(name))
    assert sorted(path.name for path in root.iterdir()) == ["a", "folder", "link"]
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"


# What is remembered, and which names are one.


def test_of_many_moves_whose_answers_were_lost_the_oldest_are_forgotten() -> None:
    known = Remembered[int]()
    for number in range(1500):
        known.keep((str(number), "to"), number)
    known.keep(("600", "to"), 0)  # the last one again
    known.forget(("700", "to"))
    known.forget(("700", "to"))
    assert known.of(("499", "to")) is None
    assert [known.of((name, "to")) for name in ("500", "600", "700", "1499")] == [
        500,
        0,
        None,
        1499,
    ]


@pytest.mark.parametrize(
    ("rules", "one", "other", "is_one"),
    [
        (NameRules(), "a", "A", False),
        (NameRules(case_sensitive=False), "a/B", "A/b", True),
        (NameRules(strips_trailing_dots=True), "a./b", "a/b..", True),
        (NameRules(), "a.", "a", False),
        (NameRules(normalizes_unicode=True), "\u00e9", "e\u0301", True),
        (NameRules(case_sensitive=False), "a/b", "ab", False),
    ],
)
def test_the_rules_say_which_names_are_one(
    rules: NameRules, one: str, other: str, is_one: bool
) -> None:
    assert rules.takes_for_one(one, other) == rules.takes_for_one(other, one) == is_one

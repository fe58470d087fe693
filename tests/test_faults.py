"""Faults of the wire and of the service, met by whole transfers; `docs/faults.md` numbers them."""

import email.utils
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import (
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    generate_container_sas,
)
from oracle import TRIES, Through, attempt, check, stored, through
from servers.azurite import Azurite
from servers.faults import Fault, Reply
from small_stores import PART, SmallBlobStore, make_tree, tree
from wire_faults import LISTING, READING, WRITING, at

from prefect_datastores.errors import IntegrityError, ObjectNotFound, ServiceBusy
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import Capabilities, ObjectStore
from prefect_datastores.testing import content_of, md5_of, put

PARTS = 4
LARGE = content_of(3 * PART + 77)
NEW = {"large": LARGE, "small": b"new and small", "sub/other": b"other", "empty": b""}
OLD = {"large": b"old", "small": b"old and small", "kept": b"kept"}
STALL = 0.5
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


def only(container: ContainerClient, store: SmallBlobStore, content: dict[str, bytes]) -> None:
    """Have the container hold this and nothing else."""
    fill(store, content)
    for added in stored(store).keys() - content.keys():
        container.delete_blob(added)


EMPTY_LISTING = b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"


class Paged(SmallBlobStore):
    """Lists two objects a page."""

    capabilities = Capabilities(
        "pages of two",
        stores_digest=True,
        part_size=PART,
        page_size=2,
        begins_ahead=True,
        commits_ahead=True,
    )


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
            only(container, direct, OLD)
            seen.proxy.fail_by(at(named.fault, match, times=times, skip=match == OF_PART))
            outcome = attempt(lambda: upload(seen.store, folder_source(source), "", "if_changed"))
            # It was done, and nobody ever heard of it.
            lost = name == "the answer is lost" and times is None and match != OF_PART
            check(outcome, OLD, NEW, stored(direct), unheard=[hit] if lost else [])
            got_over = named.passes and times == 1
            if name == "damaged on its way" and match == OF_COMMIT:
                got_over = False  # Azurite reads the list without a look at its digest
            assert outcome.row(hit).action == ("moved" if got_over else "failed"), outcome.error
            assert seen.proxy.count(match) <= PARTS * TRIES
        seen.proxy.fail_by()
        upload(seen.store, folder_source(source), "", "if_changed")
    assert stored(direct) == ALL


# Writes that others meet, and of which nothing more is heard.


@pytest.mark.parametrize("rule", ["replace", "if_changed"])
def test_unfinished_blocks_of_another_client_are_told_and_nothing_is_deleted(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    source: Path,
    rule: Overwrite,
) -> None:
    fill(direct, OLD)
    for name in ("large", "small"):
        container.get_blob_client(name).stage_block("another length", b"theirs")
    with through(azurite, container) as seen:
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", rule))
        assert seen.proxy.count("DELETE") == 0
    check(outcome, OLD, NEW, stored(direct))
    assert outcome.actions == {**dict.fromkeys(NEW, "moved"), "large": "failed"}
    assert "unfinished blocks of another client" in outcome.row("large").detail


def test_a_lost_commit_that_somebody_replaced_is_not_taken_for_ours(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, source: Path
) -> None:
    theirs = content_of(2 * PART, "theirs")
    for match, name in ((OF_COMMIT, "large"), (OF_SMALL, "small")):
        for rule, action in (("if_changed", "failed"), ("replace", "moved")):
            only(container, direct, OLD)
            faults = (
                Fault(match, "lose"),
                Fault(match, "pass", meanwhile=lambda name=name: put(direct, name, theirs)),
            )
            with through(azurite, container, *faults) as seen:
                outcome = attempt(lambda: upload(seen.store, folder_source(source), "", rule))  # noqa: B023
            found = stored(direct)
            check(outcome, {**OLD, name: theirs}, NEW, found)
            assert outcome.row(name).action == action
            assert found[name] == (NEW[name] if action == "moved" else theirs)


@pytest.mark.parametrize("name", ["large", "small"])
def test_nobody_clears_up_after_a_commit_of_which_nothing_more_is_heard(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    source: Path,
    name: str,
) -> None:
    fill(direct, OLD)
    commit = OF_COMMIT if name == "large" else OF_SMALL
    faults = (Fault(commit, "lose"), Fault(rf"/{name}\b", "answer", skip=0, times=None))
    with through(azurite, container) as seen:
        # From the commit on, the service says nothing but 503 of that object.
        seen.proxy.fail_by(
            Fault(commit, "lose", meanwhile=lambda: seen.proxy.fail_by(faults[0], faults[1]))
        )
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", "replace"))
        check(outcome, OLD, NEW, stored(direct), unheard=[name])
        assert outcome.row(name).action == "failed"
        assert stored(direct)[name] == NEW[name]
        assert seen.proxy.count("DELETE") == 0
        seen.proxy.fail_by()
        again = attempt(lambda: upload(seen.store, folder_source(source), "", "if_changed"))
    assert again.actions == dict.fromkeys(NEW, "unchanged")


# What is damaged, and what nobody can tell.


@pytest.mark.parametrize(("times", "action"), [(1, "moved"), (None, "failed")])
def test_an_object_that_arrives_damaged_is_fetched_once_more(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    times: int | None,
    action: str,
) -> None:
    fill(direct, NEW)
    flip = at(READING["one bit is another"].fault, OF_LARGE, times=times, skip=2)
    with through(azurite, container, flip) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        assert seen.proxy.count(OF_LARGE) == 2 * PARTS
    check(outcome, OLD, NEW, tree(destination))
    assert outcome.row("large").action == action
    assert ("another MD5" in outcome.row("large").detail) == (action == "failed")
    assert not list(destination.glob(".pds-*"))


def test_an_object_whose_stored_digest_is_wrong_is_fetched_twice_and_never_published(
    container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    wrong = ContentSettings(content_md5=bytearray(md5_of(b"something else")))
    fill(direct, NEW)
    for name in ("large", "small"):
        client = container.get_blob_client(name)
        client.stage_block("1", NEW[name])
        client.commit_block_list(["1"], content_settings=wrong)
    outcome = attempt(lambda: download(direct, destination, REPLACE))
    check(outcome, OLD, NEW, tree(destination))
    assert {n for n, action in outcome.actions.items() if action == "failed"} == {"large", "small"}
    assert not list(destination.glob(".pds-*"))


def test_an_object_without_a_stored_digest_is_named_as_unverified(
    container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    fill(direct, NEW)
    client = container.get_blob_client("large")
    client.stage_block("1", LARGE)
    client.commit_block_list(["1"])
    outcome = attempt(lambda: download(direct, destination, REPLACE))
    check(outcome, OLD, NEW, tree(destination))
    assert outcome.report is not None
    assert [row.name for row in outcome.report.unverified] == ["large"]


def test_an_object_without_a_stored_digest_fails_where_one_is_required(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    fill(direct, NEW)
    client = container.get_blob_client("large")
    client.stage_block("1", LARGE)
    client.commit_block_list(["1"])
    strict = replace(REPLACE, require_digest=True)
    with through(azurite, container) as seen:
        outcome = attempt(lambda: download(seen.store, destination, strict))
        assert seen.proxy.count(OF_LARGE) == 0
        check(outcome, OLD, NEW, tree(destination))
        assert outcome.actions == {**dict.fromkeys(NEW, "moved"), "large": "failed"}
        assert "Store it again" in outcome.row("large").detail
        put(direct, "large", LARGE)
        download(seen.store, destination, strict)
    assert tree(destination) == ALL


# A service that is busy.


@pytest.mark.parametrize(
    ("said", "pause"),
    [
        *(("9" * 400, 30.0), ("9" * 5000, 30.0), ("\u00b2", 0.0), ("1e3", 0.0), ("nan", 0.0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 30.0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0.0),
        ("Fri, 99 Dec 2100 23:59:59 GMT", 0.0),
        ("Fri, 31 Dec 2100 23:59:59 +9999", 0.0),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("header", ["Retry-After", "x-ms-retry-after-ms"])
def test_an_absurd_wish_for_a_pause_is_capped_or_left(
    azurite: Azurite, container: ContainerClient, header: str, said: str, pause: float
) -> None:
    pause = 0.0 if header != "Retry-After" and "GMT" in said else pause
    busy = Fault("comp=list", "answer", headers={header: said})
    with through(azurite, container, busy) as seen:
        assert seen.store.list_page("").objects == ()
        assert seen.pauses == [pause]


def test_a_pause_until_a_date_is_no_longer_than_that(
    azurite: Azurite, container: ContainerClient
) -> None:
    soon = email.utils.formatdate(time.time() + 20, usegmt=True)
    busy = Fault("comp=list", "answer", headers={"Retry-After": soon})
    with through(azurite, container, busy) as seen:
        seen.store.list_page("")
        (pause,) = seen.pauses
        assert 0 < pause <= 20


def test_a_service_that_stays_busy_ends_a_transfer_after_a_bounded_number_of_requests(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    source: Path,
) -> None:
    fill(direct, NEW)
    make_tree(source, {name: content[::-1] for name, content in NEW.items()})
    with through(azurite, container) as seen:
        seen.proxy.fail_by(Fault(r"GET \S+/(large|small|other|empty)", "answer", times=None))
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        check(outcome, OLD, NEW, tree(destination))
        asked = {name for name, action in outcome.actions.items() if action == "failed"}
        assert asked == {"large", "small", "sub/other"}  # nothing is asked for the empty one
        assert all(f"after {TRIES} tries" in outcome.row(name).detail for name in asked)
        assert seen.proxy.count("/(large|small|other)") <= (PARTS + 2) * TRIES

        seen.proxy.fail_by(Fault("PUT", "answer", times=None))
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", "replace"))
        assert set(outcome.actions.values()) == {"failed"}
        assert seen.proxy.count("PUT") <= (PARTS + 3) * TRIES
    assert stored(direct) == NEW


# An object that changes, or goes, while it is fetched.


def test_an_object_that_gets_another_version_between_its_parts_is_begun_anew(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    fill(direct, NEW)
    newer = {**NEW, "large": content_of(len(LARGE), "newer")}
    change = Fault(OF_LARGE, "pass", skip=2, meanwhile=lambda: put(direct, "large", newer["large"]))
    with through(azurite, container, change) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        check(outcome, OLD, newer, tree(destination))
        assert outcome.row("large").action == "failed"
        assert "another version" in outcome.row("large").detail
        assert not list(destination.glob(".pds-*"))  # its parts are of no use to anybody
        seen.proxy.fail_by()
        download(seen.store, destination, REPLACE)
        assert seen.proxy.count(OF_LARGE) == PARTS
    assert tree(destination) == {**OLD, **newer}


def test_an_object_that_is_deleted_between_its_parts_leaves_the_old_file(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    fill(direct, NEW)
    gone = Fault(OF_LARGE, "pass", skip=1, meanwhile=lambda: container.delete_blob("large"))
    with through(azurite, container, gone) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
    check(outcome, OLD, NEW, tree(destination))
    assert outcome.row("large").action == "failed"
    # Azurite looks at the version first.
    assert re.search("does not exist|another version", outcome.row("large").detail)
    assert tree(destination)["large"] == OLD["large"]
    assert not list(destination.glob(".pds-*"))


# Sign-ins that end in the middle.

EXPIRED = (
    b"<?xml?><Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request."
    b"</Message><AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [x] - "
    b"Expiry [y] - Current [z]</AuthenticationErrorDetail></Error>"
)
ONE_AT_A_TIME = Limits(files=1, parts=1)


def sas_of(azurite: Azurite, container: ContainerClient, hours: int = 1) -> str:
    return generate_container_sas(
        azurite.account,
        container.container_name,
        account_key=azurite.key,
        permission=ContainerSasPermissions(read=True, write=True, list=True, delete=True),
        expiry=datetime.now(timezone.utc) + timedelta(hours=hours),
    )


def expired(match: str, skip: int) -> Fault:
    said = {"x-ms-error-code": "AuthenticationFailed"}
    return Fault(match, "answer", skip=skip, times=None, status=403, headers=said, body=EXPIRED)


def with_a_new_token(azurite: Azurite, container: ContainerClient, seen: Through) -> SmallBlobStore:
    url = f"http://127.0.0.1:{seen.proxy.port}/{azurite.account}"
    token = sas_of(azurite, container, hours=2)
    return SmallBlobStore(url, container.container_name, sas_token=token)


def test_a_download_whose_sas_expires_is_gone_on_with_by_a_new_one(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    fill(direct, NEW)
    sas = sas_of(azurite, container)
    with through(azurite, container, expired(OF_LARGE, 2), sas_token=sas) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE, limits=ONE_AT_A_TIME))
        check(outcome, OLD, NEW, tree(destination))
        assert "SAS token is outside its time" in outcome.row("large").detail
        assert outcome.actions["small"] == outcome.actions["sub/other"] == "cancelled"
        seen.proxy.fail_by()
        renewed = with_a_new_token(azurite, container, seen)
        again = attempt(lambda: download(renewed, destination, REPLACE))
        assert seen.proxy.count(OF_LARGE) == PARTS - 2
    assert again.actions == dict.fromkeys(NEW, "moved")
    assert tree(destination) == ALL


def test_an_upload_whose_sas_expires_is_gone_on_with_by_a_new_one(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    source: Path,
    tmp_path: Path,
) -> None:
    fill(direct, OLD)
    sas, journals = sas_of(azurite, container), tmp_path / "journals"

    def send(store: ObjectStore) -> TransferReport:
        return upload(
            *(store, folder_source(source), "", "replace"),
            limits=ONE_AT_A_TIME,
            journals=journals,
        )

    with through(azurite, container, expired(OF_PART, 2), sas_token=sas) as seen:
        outcome = attempt(lambda: send(seen.store))
        check(outcome, OLD, NEW, stored(direct))
        assert "SAS token is outside its time" in outcome.row("large").detail
        seen.proxy.fail_by()
        again = attempt(lambda: send(with_a_new_token(azurite, container, seen)))
        assert seen.proxy.count(OF_PART) == PARTS - 2
    assert again.actions == dict.fromkeys(NEW, "moved")
    assert stored(direct) == ALL


class Tokens:
    """Gives a new token each time, as a service does that revoked the last one."""

    def __init__(self) -> None:
        self.given = 0

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        self.given += 1
        return AccessToken(f"token-number-{self.given}", int(time.time()) + 3600)


def test_a_token_that_is_revoked_in_the_middle_is_renewed_once_for_all_threads(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    source: Path,
) -> None:
    content = {f"{n:02}": content_of(2 * PART, f"{n}") for n in range(8)} | NEW
    fill(direct, content)
    sas = sas_of(azurite, container)
    revoked = Fault("", "answer", skip=3, times=None, status=401, token="token-number-1")
    tokens = Tokens()
    with through(azurite, container, revoked, sas=sas, token=tokens) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        check(outcome, OLD, content, tree(destination))
        assert outcome.actions == dict.fromkeys(content, "moved")
        assert tokens.given == 2
        gone = Fault("", "answer", skip=3, times=None, status=401, token="token-number-2")
        seen.proxy.fail_by(gone)
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "up", "replace"))
        assert outcome.actions == dict.fromkeys(NEW, "moved")
        assert tokens.given == 3


# What is unknown is never absent.


def repeated(reply: Reply) -> Reply:
    marker = rb"<NextMarker>large</NextMarker>"
    body = re.sub(rb"<NextMarker>[^<]*</NextMarker>|<NextMarker\s*/>", marker, reply.body)
    assert marker in body
    return replace(reply, body=body)


def test_a_listing_that_repeats_its_marker_ends_with_an_error(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, destination: Path
) -> None:
    fill(direct, NEW)
    fault = Fault("comp=list", "change", times=None, change=repeated)
    with through(azurite, container, fault, kind=Paged) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        assert seen.proxy.count("comp=list") == 2
    check(outcome, OLD, NEW, tree(destination))
    assert isinstance(outcome.error, IntegrityError)


BROKEN_LISTINGS = {
    "500": Fault("comp=list", "answer", skip=1, times=None, status=500),
    "cut": at(LISTING["XML that is cut"].fault, "comp=list", skip=1, times=None),
    "no end": Fault("comp=list", "change", times=None, change=repeated),
    "404": Fault("comp=list", "answer", skip=1, times=None, status=404),
}


@pytest.mark.parametrize("rule", ["fail", "skip", "if_changed"])
@pytest.mark.parametrize("fault", BROKEN_LISTINGS)
def test_an_upload_that_cannot_see_all_that_is_there_replaces_nothing(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    tmp_path: Path,
    rule: Overwrite,
    fault: str,
) -> None:
    old = {"large": b"old", "n10": b"old", "n19": b"old", "z": b"old"}
    new = {f"n{number}": b"new" for number in range(10, 30)}  # so many that they are listed
    fill(direct, old)
    source = make_tree(tmp_path / "many", new)
    with through(azurite, container, BROKEN_LISTINGS[fault], kind=Paged) as seen:
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", rule))
        assert seen.proxy.count("PUT") == 0
        assert seen.proxy.count("comp=list") <= 1 + TRIES
    assert outcome.error is not None
    check(outcome, old, new, stored(direct))


@pytest.mark.parametrize("status", [503, 500, 404])
@pytest.mark.parametrize("path", ["large", "sub"])
def test_an_object_of_which_nothing_can_be_learned_is_not_absent(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    source: Path,
    path: str,
    status: int,
) -> None:
    """The 404 is that of a proxy: the service always says which thing is missing."""
    fill(direct, NEW)
    nothing_listed = at(LISTING["XML that is cut"].fault, "comp=list", times=None)
    head = Fault("HEAD", "answer", times=None, status=status)
    # Were the first answer taken for "no", the second would be "nothing there".
    listed = Fault("comp=list", "answer", times=None, status=200, body=EMPTY_LISTING)
    for rest in (nothing_listed, listed):
        with through(azurite, container, head, rest) as seen:
            request = DownloadRequest(path, overwrite="replace", allow_empty=True)
            outcome = attempt(lambda: download(seen.store, destination, request))  # noqa: B023
            check(outcome, OLD, {}, tree(destination))
            assert outcome.error is not None
            assert not isinstance(outcome.error, ObjectNotFound)
            rules: tuple[Overwrite, ...] = ("fail", "skip", "if_changed")
            for rule in rules:
                sent = attempt(lambda: upload(seen.store, folder_source(source), "", rule))  # noqa: B023
                assert sent.error is not None
                assert not isinstance(sent.error, ObjectNotFound)
            assert seen.proxy.count("PUT") == 0
    with through(azurite, container, Fault("comp=list", "answer", times=None)) as seen:
        outcome = attempt(
            lambda: download(seen.store, destination, DownloadRequest("sub", allow_empty=True))
        )
    assert isinstance(outcome.error, ServiceBusy)
    check(outcome, OLD, {}, tree(destination))


def without_length(reply: Reply) -> Reply:
    return replace(reply, headers={**reply.headers, "x-length": ""})


def of_no_length(reply: Reply) -> Reply:
    return replace(reply, headers={**reply.headers, "x-length": "many"})


def without_etag(reply: Reply) -> Reply:
    return replace(
        reply, headers={name: text for name, text in reply.headers.items() if name != "etag"}
    )


@pytest.mark.parametrize("change", [without_length, of_no_length, without_etag])
def test_an_object_whose_length_or_version_is_not_said_is_not_empty(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    destination: Path,
    change: Callable[[Reply], Reply],
) -> None:
    fill(direct, NEW)
    fault = Fault("HEAD", "change", times=None, change=change)
    with through(azurite, container, fault) as seen:
        request = DownloadRequest("large", overwrite="replace", allow_empty=True)
        outcome = attempt(lambda: download(seen.store, destination, request))
        check(outcome, OLD, {"large": LARGE}, tree(destination))
        assert isinstance(outcome.error, IntegrityError)

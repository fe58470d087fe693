"""Faults of the wire and of the service, met by whole transfers; `docs/faults.md` numbers them."""

import email.utils
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from oracle import attempt, check, fill, stored
from places import REMOTE, TRIES, RemotePlace
from servers.faults import Fault, Reply
from small_stores import PART, make_tree, tree
from wire_faults import LISTING, READING, WRITING, at

from prefect_datastores.errors import IntegrityError, ObjectNotFound, ServiceBusy
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing import content_of, md5_of, put

PARTS = 4
LARGE = content_of(3 * PART + 77)
NEW = {"large": LARGE, "small": b"new and small", "sub/other": b"other", "empty": b""}
OLD = {"large": b"old", "small": b"old and small", "kept": b"kept"}
STALL = 0.5
OF_LARGE = r"GET \S+/large(\?|$)"


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "destination", OLD)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", NEW)


def only(store: ObjectStore, content: dict[str, bytes]) -> None:
    """Have the store hold this and nothing else."""
    fill(store, content)
    for added in stored(store).keys() - content.keys():
        store.delete(ObjectName(added))


REPLACE = DownloadRequest(overwrite="replace")
ONE_PART = Limits(parts=1)
ALL = {**OLD, **NEW}


# Every fault, once and for ever.


@pytest.mark.parametrize("name", READING)
def test_a_fault_of_a_read_is_got_over_or_told_and_never_published(
    remote: RemotePlace, tmp_path: Path, name: str
) -> None:
    fill(remote.store, NEW)
    named = READING[name]
    with remote.through(stall=STALL) as seen:
        for times in (None, 1):
            destination = make_tree(tmp_path / f"to{times}", OLD)
            seen.proxy.fail_by(at(named.fault, OF_LARGE, times=times, skip=1))
            outcome = attempt(lambda to=destination: download(seen.store, to, REPLACE))
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
    remote: RemotePlace, tmp_path: Path, name: str
) -> None:
    fill(remote.store, NEW)
    named = LISTING[name]
    with remote.through(stall=STALL, page_size=2) as seen:
        download(seen.store, tmp_path / "clean", REPLACE)
        pages = seen.proxy.count("comp=list")
        for times in (None, 1):
            destination = make_tree(tmp_path / f"to{times}", OLD)
            seen.proxy.fail_by(at(named.fault, "comp=list", times=times, skip=1))  # the second page
            outcome = attempt(lambda to=destination: download(seen.store, to, REPLACE))
            check(outcome, OLD, NEW, tree(destination))
            assert (outcome.error is None) == (named.passes and times == 1)
            if outcome.error is None:
                assert seen.proxy.count("comp=list") == pages + 1
            else:
                assert seen.proxy.count("comp=list") <= 1 + TRIES
                assert outcome.report is None
                assert seen.proxy.count(OF_LARGE) == 0


WRITES = [
    (kind, step, name)
    for kind, made in REMOTE.items()
    for step, asked in made.steps.items()
    for name, named in WRITING.items()
    if asked.has_body or named.fault.action != "damage"
]


@pytest.mark.parametrize(("remote", "step", "name"), WRITES, indirect=["remote"])
def test_a_fault_of_a_write_is_got_over_or_told_and_never_half_there(
    remote: RemotePlace, source: Path, step: str, name: str
) -> None:
    named, asked = WRITING[name], remote.steps[step]
    with remote.through() as seen:
        for times in (None, 1):
            only(remote.store, OLD)
            if step in remote.over_dfs:
                remote.plant_by_dfs("large", OLD["large"])
            seen.proxy.fail_by(at(named.fault, asked.match, times=times, skip=step == "part"))
            outcome = attempt(lambda: upload(seen.store, folder_source(source), "", "if_changed"))
            # It was done, and nobody ever heard of it.
            lost = name == "the answer is lost" and times is None and asked.shows
            check(outcome, OLD, NEW, stored(remote.store), unheard=asked.files if lost else [])
            got_over = named.passes and times == 1
            got_over |= lost and asked.is_known
            got_over |= name == "404 BlobNotFound" and times == 1 and asked.begun_anew > 0
            if name == "damaged on its way" and (remote.kind, step) == ("blob", "commit"):
                got_over = False  # Azurite reads the list without a look at its digest
            failed = {one for one, action in outcome.actions.items() if action == "failed"}
            assert failed <= set(asked.files)
            assert (failed == set()) == got_over, outcome.error
            assert seen.proxy.count(asked.match) <= (PARTS + len(asked.files) - 1) * TRIES * (
                1 + asked.begun_anew
            )
        seen.proxy.fail_by()
        upload(seen.store, folder_source(source), "", "if_changed")
    assert stored(remote.store) == ALL


# Writes that others meet, and of which nothing more is heard.


@pytest.mark.parametrize("remote", ["blob", "lake"], indirect=True)  # a share has no blocks
@pytest.mark.parametrize("rule", ["replace", "if_changed"])
def test_unfinished_blocks_of_another_client_are_told_and_nothing_is_deleted(
    remote: RemotePlace, source: Path, rule: Overwrite
) -> None:
    fill(remote.store, OLD)
    for name in ("large", "small"):
        query = (("comp", "block"), ("blockid", "YW5vdGhlciBsZW5ndGg="))
        remote.service.request("PUT", name, query, {}, b"theirs")
    with remote.through() as seen:
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", rule))
        assert seen.proxy.count("DELETE") == 0
    check(outcome, OLD, NEW, stored(remote.store))
    assert outcome.actions == {**dict.fromkeys(NEW, "moved"), "large": "failed"}
    assert "unfinished blocks of another client" in outcome.row("large").detail


def test_a_lost_commit_that_somebody_replaced_is_not_taken_for_ours(
    remote: RemotePlace, source: Path
) -> None:
    theirs = content_of(2 * PART, "theirs")
    for match, name in ((remote.asks("commit"), "large"), (remote.asks("small"), "small")):
        for rule, action in (("if_changed", "failed"), ("replace", "moved")):
            only(remote.store, OLD)
            with remote.through() as seen:
                replaced = Fault(
                    rf"/{name}\b",
                    "pass",
                    meanwhile=lambda name=name: put(remote.store, name, theirs),
                )
                lost = Fault(match, "lose", meanwhile=partial(seen.proxy.fail_by, replaced))
                seen.proxy.fail_by(lost)
                outcome = attempt(lambda: upload(seen.store, folder_source(source), "", rule))  # noqa: B023
            found = stored(remote.store)
            check(outcome, {**OLD, name: theirs}, NEW, found)
            assert outcome.row(name).action == action
            assert found[name] == (NEW[name] if action == "moved" else theirs)


@pytest.mark.parametrize("name", ["large", "small"])
def test_nobody_clears_up_after_a_commit_of_which_nothing_more_is_heard(
    remote: RemotePlace, source: Path, name: str
) -> None:
    fill(remote.store, OLD)
    commit = remote.asks("commit") if name == "large" else remote.asks("small")
    faults = (Fault(commit, "lose"), Fault(rf"/{name}\b", "answer", skip=0, times=None))
    with remote.through() as seen:
        # From the commit on, the service says nothing but 503 of that object.
        seen.proxy.fail_by(
            Fault(commit, "lose", meanwhile=lambda: seen.proxy.fail_by(faults[0], faults[1]))
        )
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", "replace"))
        check(outcome, OLD, NEW, stored(remote.store), unheard=[name])
        assert outcome.row(name).action == "failed"
        assert stored(remote.store)[name] == NEW[name]
        # A share's upload removes its own unfinished files, and nothing else.
        assert seen.proxy.count("DELETE") == seen.proxy.count("DELETE .*/.pds-unfinished/")
        seen.proxy.fail_by()
        again = attempt(lambda: upload(seen.store, folder_source(source), "", "if_changed"))
    assert again.actions == dict.fromkeys(NEW, "unchanged")


# What is damaged, and what nobody can tell.


@pytest.mark.parametrize(("times", "action"), [(1, "moved"), (None, "failed")])
def test_an_object_that_arrives_damaged_is_fetched_once_more(
    remote: RemotePlace, destination: Path, times: int | None, action: str
) -> None:
    fill(remote.store, NEW)
    flip = at(READING["one bit is another"].fault, OF_LARGE, times=times, skip=2)
    with remote.through(flip) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        assert seen.proxy.count(OF_LARGE) == 2 * PARTS
    check(outcome, OLD, NEW, tree(destination))
    assert outcome.row("large").action == action
    assert ("another MD5" in outcome.row("large").detail) == (action == "failed")
    assert not list(destination.glob(".pds-*"))


def test_an_object_whose_stored_digest_is_wrong_is_fetched_twice_and_never_published(
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    for name in ("large", "small"):
        remote.plant(name, NEW[name], md5_of(b"something else"))
    outcome = attempt(lambda: download(remote.store, destination, REPLACE))
    check(outcome, OLD, NEW, tree(destination))
    assert {n for n, action in outcome.actions.items() if action == "failed"} == {"large", "small"}
    assert not list(destination.glob(".pds-*"))


def test_an_object_without_a_stored_digest_is_named_as_unverified(
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    remote.plant("large", LARGE)
    outcome = attempt(lambda: download(remote.store, destination, REPLACE))
    check(outcome, OLD, NEW, tree(destination))
    assert outcome.report is not None
    assert [row.name for row in outcome.report.unverified] == ["large"]


def test_an_object_without_a_stored_digest_fails_where_one_is_required(
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    remote.plant("large", LARGE)
    strict = replace(REPLACE, require_digest=True)
    with remote.through() as seen:
        outcome = attempt(lambda: download(seen.store, destination, strict, limits=ONE_PART))
        # Where listings tell no digests, its first bytes do, and no more of it are asked for.
        asked = seen.proxy.count(OF_LARGE)
        assert asked == 0 if seen.store.capabilities.lists_digest else asked < PARTS
        check(outcome, OLD, NEW, tree(destination))
        assert outcome.actions == {**dict.fromkeys(NEW, "moved"), "large": "failed"}
        assert "Store it again" in outcome.row("large").detail
        put(remote.store, "large", LARGE)
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
    remote: RemotePlace, header: str, said: str, pause: float
) -> None:
    pause = 0.0 if header != "Retry-After" and "GMT" in said else pause
    busy = Fault("comp=list", "answer", headers={header: said})
    with remote.through(busy) as seen:
        assert seen.store.list_page("").objects == ()
        assert seen.pauses == [pause]


def test_a_pause_until_a_date_is_no_longer_than_that(remote: RemotePlace) -> None:
    soon = email.utils.formatdate(time.time() + 20, usegmt=True)
    busy = Fault("comp=list", "answer", headers={"Retry-After": soon})
    with remote.through(busy) as seen:
        seen.store.list_page("")
        (pause,) = seen.pauses
        assert 0 < pause <= 20


def test_a_service_that_stays_busy_ends_a_transfer_after_a_bounded_number_of_requests(
    remote: RemotePlace, destination: Path, source: Path
) -> None:
    fill(remote.store, NEW)
    make_tree(source, {name: content[::-1] for name, content in NEW.items()})
    with remote.through() as seen:
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
    assert stored(remote.store) == NEW


# An object that changes, or goes, while it is fetched.


def test_an_object_that_gets_another_version_between_its_parts_is_begun_anew(
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    newer = {**NEW, "large": content_of(len(LARGE), "newer")}
    change = Fault(
        OF_LARGE, "pass", skip=2, meanwhile=lambda: put(remote.store, "large", newer["large"])
    )
    with remote.through(change) as seen:
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
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    gone = Fault(
        OF_LARGE, "pass", skip=1, meanwhile=lambda: remote.store.delete(ObjectName("large"))
    )
    with remote.through(gone) as seen:
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


def expired(match: str, skip: int) -> Fault:
    said = {"x-ms-error-code": "AuthenticationFailed"}
    return Fault(match, "answer", skip=skip, times=None, status=403, headers=said, body=EXPIRED)


def test_a_download_whose_sas_expires_is_gone_on_with_by_a_new_one(
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    sas = remote.sas()
    with remote.through(expired(OF_LARGE, 2), sas_token=sas) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE, limits=ONE_AT_A_TIME))
        check(outcome, OLD, NEW, tree(destination))
        assert "SAS token is outside its time" in outcome.row("large").detail
        assert outcome.actions["small"] == outcome.actions["sub/other"] == "cancelled"
        seen.proxy.fail_by()
        renewed = remote.open(seen.ports, sas_token=remote.sas(hours=2))
        again = attempt(lambda: download(renewed, destination, REPLACE))
        assert seen.proxy.count(OF_LARGE) == PARTS - 2
    assert again.actions == dict.fromkeys(NEW, "moved")
    assert tree(destination) == ALL


@pytest.mark.parametrize("remote", ["blob", "lake"], indirect=True)
def test_an_upload_whose_sas_expires_is_gone_on_with_by_a_new_one(
    remote: RemotePlace, source: Path, tmp_path: Path
) -> None:
    fill(remote.store, OLD)
    sas, journals = remote.sas(), tmp_path / "journals"

    def send(store: ObjectStore) -> TransferReport:
        return upload(
            *(store, folder_source(source), "", "replace"),
            limits=ONE_AT_A_TIME,
            journals=journals,
        )

    with remote.through(expired(remote.asks("part"), 2), sas_token=sas) as seen:
        outcome = attempt(lambda: send(seen.store))
        check(outcome, OLD, NEW, stored(remote.store))
        assert "SAS token is outside its time" in outcome.row("large").detail
        seen.proxy.fail_by()
        again = attempt(lambda: send(remote.open(seen.ports, sas_token=remote.sas(hours=2))))
        assert seen.proxy.count(remote.asks("part")) == PARTS - 2
    assert again.actions == dict.fromkeys(NEW, "moved")
    assert stored(remote.store) == ALL


class Tokens:
    """Gives a new token each time, as a service does that revoked the last one."""

    def __init__(self) -> None:
        self.given = 0

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        self.given += 1
        return AccessToken(f"token-number-{self.given}", int(time.time()) + 3600)


def test_a_token_that_is_revoked_in_the_middle_is_renewed_once_for_all_threads(
    remote: RemotePlace, destination: Path, source: Path
) -> None:
    content = {f"{n:02}": content_of(2 * PART, f"{n}") for n in range(8)} | NEW
    fill(remote.store, content)
    revoked = Fault("", "answer", skip=3, times=None, status=401, token="token-number-1")
    tokens = Tokens()
    with remote.through(revoked, takes_any_token=True, token=tokens) as seen:
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


def repeating() -> Callable[[Reply], Reply]:
    """Return what has all pages tell the first one's marker."""
    told: list[bytes] = []

    def repeated(reply: Reply) -> Reply:
        told.extend(re.findall(rb"<NextMarker>[^<]+</NextMarker>", reply.body))
        body = re.sub(rb"<NextMarker>[^<]*</NextMarker>|<NextMarker ?/>", told[0], reply.body)
        return replace(reply, body=body)

    return repeated


def test_a_listing_that_repeats_its_marker_ends_with_an_error(
    remote: RemotePlace, destination: Path
) -> None:
    fill(remote.store, NEW)
    fault = Fault("comp=list", "change", times=None, change=repeating())
    with remote.through(fault, page_size=2) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
        assert seen.proxy.count("comp=list") == 2
    check(outcome, OLD, NEW, tree(destination))
    assert isinstance(outcome.error, IntegrityError)


BROKEN_LISTINGS: dict[str, Callable[[], Fault]] = {
    "500": lambda: Fault("comp=list", "answer", skip=1, times=None, status=500),
    "cut": lambda: at(LISTING["XML that is cut"].fault, "comp=list", skip=1, times=None),
    "no end": lambda: Fault("comp=list", "change", times=None, change=repeating()),
    "404": lambda: Fault("comp=list", "answer", skip=1, times=None, status=404),
}


@pytest.mark.parametrize("rule", ["fail", "skip", "if_changed"])
@pytest.mark.parametrize("fault", BROKEN_LISTINGS)
def test_an_upload_that_cannot_see_all_that_is_there_replaces_nothing(
    remote: RemotePlace, tmp_path: Path, rule: Overwrite, fault: str
) -> None:
    old = {"large": b"old", "n10": b"old", "n19": b"old", "z": b"old"}
    new = {f"n{number}": b"new" for number in range(10, 30)}  # so many that they are listed
    fill(remote.store, old)
    source = make_tree(tmp_path / "many", new)
    with remote.through(BROKEN_LISTINGS[fault](), page_size=2) as seen:
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", rule))
        assert seen.proxy.count("PUT") == 0
        assert seen.proxy.count("comp=list") <= 1 + TRIES
    assert outcome.error is not None
    check(outcome, old, new, stored(remote.store))


@pytest.mark.parametrize("status", [503, 500, 404])
@pytest.mark.parametrize("path", ["large", "sub"])
def test_an_object_of_which_nothing_can_be_learned_is_not_absent(
    remote: RemotePlace, destination: Path, source: Path, path: str, status: int
) -> None:
    """The 404 is that of a proxy: the service always says which thing is missing."""
    fill(remote.store, NEW)
    nothing_listed = at(LISTING["XML that is cut"].fault, "comp=list", times=None)
    head = Fault("HEAD", "answer", times=None, status=status)
    # Were the first answer taken for "no", the second would be "nothing there".
    listed = Fault("comp=list", "answer", times=None, status=200, body=remote.empty_listing)
    for rest in (nothing_listed, listed):
        with remote.through(head, rest) as seen:
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
    with remote.through(Fault("comp=list", "answer", times=None)) as seen:
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
    remote: RemotePlace, destination: Path, change: Callable[[Reply], Reply]
) -> None:
    fill(remote.store, NEW)
    fault = Fault("HEAD", "change", times=None, change=change)
    with remote.through(fault) as seen:
        request = DownloadRequest("large", overwrite="replace", allow_empty=True)
        outcome = attempt(lambda: download(seen.store, destination, request))
        check(outcome, OLD, {"large": LARGE}, tree(destination))
        assert isinstance(outcome.error, IntegrityError)

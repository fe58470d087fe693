"""Uploads to a share that were interrupted: gone on with in the hidden file, and in nothing that is not that file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from places import SharePlace
from servers import sandbox
from servers.azure_files import AzureFiles
from servers.faults import Fault
from small_stores import PART, Breaking, SmallShareStore, make_tree, tree
from wire_faults import WRITING, at

from prefect_datastores.errors import DatastoreError, StageFailed
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing import get, md5_of

PARTS = 6
LARGE = os.urandom(PARTS * PART - 1)
NAME = "models/large"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", {"large": LARGE})


@pytest.fixture
def send(source: Path, tmp_path: Path) -> Callable[[ObjectStore], None]:
    def sent(store: ObjectStore) -> None:
        upload(
            *(store, folder_source(source), "models", "replace"),
            limits=Limits(parts=2),
            journals=tmp_path / "journals",
        )

    return sent


def hidden(store: SmallShareStore) -> list[str]:
    found = store.list_page(".pds-unfinished/", recursive=False)
    return [info.name for info in found.objects if not info.is_marker]


def interrupted(send: Callable[[ObjectStore], None], store: ObjectStore, most: int = 4) -> int:
    """Upload until it breaks; return how many parts were written."""
    breaking = Breaking(store, most)
    with pytest.raises(StageFailed, match="It broke"):
        send(breaking)
    return breaking.wrote


def finished(send: Callable[[ObjectStore], None], store: ObjectStore) -> int:
    """Upload to the end; return how many parts had to be written."""
    counting = Breaking(store)
    send(counting)
    return counting.wrote


Send = Callable[[ObjectStore], None]


def test_only_what_is_missing_is_sent(
    share_store: SmallShareStore, send: Send, tmp_path: Path
) -> None:
    wrote = interrupted(send, share_store)
    assert len(hidden(share_store)) == 1
    with pytest.raises(FileNotFoundError):
        share_store.head(ObjectName(NAME))
    assert wrote + finished(send, share_store) == PARTS
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == []
    assert list((tmp_path / "journals").iterdir()) == []


def test_it_may_break_again_and_again(share_store: SmallShareStore, send: Send) -> None:
    assert [interrupted(send, share_store, 1) for _ in range(PARTS - 1)] == [1] * (PARTS - 1)
    assert len(hidden(share_store)) == 1
    assert finished(send, share_store) == 1
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == []


@pytest.mark.parametrize("what", ["comp=properties", "models.*comp=rename"])
def test_one_that_was_whole_and_had_no_name_gets_it(
    share_place: SharePlace, share_store: SmallShareStore, send: Send, what: str
) -> None:
    with share_place.through() as seen:
        seen.proxy.fail_by(Fault(what, "drop", times=None))
        with pytest.raises(StageFailed):
            send(seen.store)
        assert len(hidden(share_store)) == 1
        seen.proxy.fail_by()
        assert finished(send, seen.store) == 0
    assert get(share_store, NAME) == LARGE
    assert share_store.head(ObjectName(NAME)).digest == md5_of(LARGE)
    assert hidden(share_store) == []


def test_one_that_breaks_before_its_first_part_leaves_nothing(
    share_store: SmallShareStore, send: Send
) -> None:
    assert interrupted(send, share_store, 0) == 0
    assert hidden(share_store) == []


def test_a_source_that_changed_is_sent_anew(
    share_store: SmallShareStore, send: Send, source: Path
) -> None:
    """All of it: what a journal says of a hidden file is never made untrue."""
    interrupted(send, share_store)
    changed = bytearray(LARGE)
    changed[2 * PART] ^= 1
    (source / "large").write_bytes(changed)
    assert PARTS <= finished(send, share_store) <= PARTS + 2
    assert get(share_store, NAME) == bytes(changed)
    assert hidden(share_store) == []


def hand(store: SmallShareStore, method: str, name: str, **given: object) -> None:
    """Do something to a hidden file that nobody here would."""
    store.service.request(method, name, **given)  # type: ignore[arg-type]


def delete(store: SmallShareStore, name: str) -> None:
    store.delete_unfinished(name)


def put_another(store: SmallShareStore, name: str) -> None:
    """The same name and length, and all of it written."""
    headers = {"x-ms-type": "file", "x-ms-content-length": str(len(LARGE))}
    hand(store, "PUT", name, headers=headers)
    for offset in range(0, len(LARGE), PART):
        content = memoryview(bytes(min(PART, len(LARGE) - offset)))
        store.write_range(name, offset, content)


def shorten(store: SmallShareStore, name: str) -> None:
    store.describe(name, {"x-ms-content-length": str(PART)})


def clear(store: SmallShareStore, name: str) -> None:
    headers = {"x-ms-write": "clear", "x-ms-range": f"bytes=0-{PART - 1}"}
    hand(store, "PUT", name, query=(("comp", "range"),), headers=headers)


@pytest.mark.parametrize("meddle", [delete, put_another, shorten, clear])
def test_a_hidden_file_that_is_not_as_it_was_left_is_not_gone_on_with(
    share_store: SmallShareStore, send: Send, meddle: Callable[[SmallShareStore, str], None]
) -> None:
    interrupted(send, share_store)
    (name,) = hidden(share_store)
    meddle(share_store, name)
    assert finished(send, share_store) == PARTS
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == []


def test_a_hidden_file_that_somebody_leased_is_left_alone(
    share_store: SmallShareStore, send: Send
) -> None:
    interrupted(send, share_store)
    (name,) = hidden(share_store)
    lease = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
    hand(share_store, "PUT", name, query=(("comp", "lease"),), headers=lease)
    assert finished(send, share_store) == PARTS
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == [name]


def test_without_a_journal_nothing_is_left(
    share_store: SmallShareStore, send: Send, tmp_path: Path
) -> None:
    (tmp_path / "journals").write_bytes(b"a file")
    interrupted(send, share_store)
    assert hidden(share_store) == []


@pytest.mark.parametrize(
    "token", ["../../models/kept.1", "kept", "models/kept.1", "..%2fkept.1", " "]
)
def test_a_journal_names_nothing_but_hidden_files(
    share_store: SmallShareStore, send: Send, token: str
) -> None:
    share_store.begin_write(ObjectName("models/kept"), 0).commit(b"")
    writing = share_store.begin_write(ObjectName(NAME), len(LARGE))
    assert list(writing.take_over(token, {0: PART})) == []
    assert writing.token_after(token) == ""
    assert share_store.head(ObjectName("models/kept")).size == 0


def test_of_two_that_were_left_one_is_gone_on_with_and_none_stays(
    share_store: SmallShareStore, source: Path, tmp_path: Path
) -> None:
    """As after two processes that did not know of each other, and were both ended."""

    class Nested(Breaking):
        def count(self) -> None:
            if self.begun == 1 and not inner.begun:
                with pytest.raises(StageFailed, match="It broke"):
                    send_now(inner)
            super().count()

    def send_now(store: ObjectStore) -> None:
        upload(
            *(store, folder_source(source), "models", "replace"),
            limits=Limits(parts=1),
            journals=tmp_path / "journals",
        )

    inner, outer = Breaking(share_store, 2), Nested(share_store, 4)
    with pytest.raises(StageFailed, match="It broke"):
        send_now(outer)
    assert (inner.wrote, outer.wrote, len(hidden(share_store))) == (2, 4, 2)
    assert finished(send_now, share_store) == PARTS - 4
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == []


def test_one_whose_hidden_file_is_taken_away_begins_again(
    share_store: SmallShareStore, send: Send
) -> None:
    """As by the sweep of another process, or where a lock is granted to all."""

    class Robbed(Breaking):
        def count(self) -> None:
            super().count()
            if self.begun == PARTS - 1:
                for name in hidden(share_store):
                    share_store.delete_unfinished(name)

    robbed = Robbed(share_store)
    send(robbed)
    assert robbed.wrote > PARTS
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == []


# Faults of the wire while it is taken over.


def test_a_taking_over_whose_answer_is_lost_is_recognised(
    share_place: SharePlace, share_store: SmallShareStore, send: Send
) -> None:
    with share_place.through() as seen:
        wrote = interrupted(send, seen.store)
        seen.proxy.fail_by(Fault("comp=rename", "lose", times=1))
        assert wrote + finished(send, seen.store) == PARTS
        assert seen.proxy.count("unfinished.*comp=rename") == 2
    assert get(share_store, NAME) == LARGE
    assert hidden(share_store) == []


@pytest.mark.parametrize("what", ["PUT .*unfinished.*comp=rename", "comp=rangelist", "HEAD .*unf"])
@pytest.mark.parametrize("fault", [name for name in WRITING if name != "damaged on its way"])
def test_a_fault_while_it_is_taken_over_is_got_over_or_costs_the_taking_over(
    share_place: SharePlace,
    share_store: SmallShareStore,
    send: Send,
    what: str,
    fault: str,
) -> None:
    named = WRITING[fault]
    with share_place.through(stall=0.5) as seen:
        for times in (None, 1):
            for name in hidden(share_store):
                share_store.delete_unfinished(name)
            wrote = interrupted(send, seen.store)
            seen.proxy.fail_by(at(named.fault, what, times=times))
            try:
                more = finished(send, seen.store)
                assert more in (
                    (PARTS - wrote,) if named.passes and times else (PARTS - wrote, PARTS)
                )
            except DatastoreError:
                assert times is None or not named.passes
                seen.proxy.fail_by()
                finished(send, seen.store)
            assert get(share_store, NAME) == LARGE
            seen.proxy.fail_by()


# SIGKILL, at every request.

SWEEP = """
import hashlib, threading
from contextlib import closing
from dataclasses import replace
from prefect_datastores.names import ObjectName
from prefect_datastores.staging import journal
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores import azure
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.stores.share_writing import ShareWriting
url, share, key, *told = sys.argv[3:]
PART = 65536
class Small(ShareStore):
    capabilities = replace(ShareStore.capabilities, part_size=PART)
def opened():
    return closing(Small(url, share, account_key=key))

def forked(work):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(lambda text: os.write(writing, text.encode()))
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as said:
        return os.waitstatus_to_exitcode(status), said.read().decode()

def upload_until(content, step, after):
    # Every request is a step; the one that was the last is told.
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "large").write_bytes(content)
    def work(say):
        steps, wrote, lock, last = 0, 0, threading.Lock(), None
        begin, finish = azure.AzureService.begin, azure.Asked.finish
        def counted(service, method, name="", query=(), *more, **named):
            nonlocal steps, last
            with lock:
                steps += 1
                mine, what = steps, f"{method} {name} {dict(query).get('comp')}"
                if mine == step and not after:
                    say(what); die()
            asked = begin(service, method, name, query, *more, **named)
            if mine == step:
                last = asked, what
            return asked
        def finished(asked, *more):
            try:
                return finish(asked, *more)
            finally:
                if after and last and last[0] is asked:
                    say(last[1]); die()
        azure.AzureService.begin, azure.Asked.finish = counted, finished
        write_range = Small.write_range
        def writing(store, *part):
            nonlocal wrote
            write_range(store, *part)
            with lock: wrote += 1
        Small.write_range = writing
        with opened() as store:
            upload(store, folder_source(folder / "source"), "models", "replace",
                   limits=Limits(parts=2), journals=folder / "journals")
        say(str(wrote))
    return forked(work)

def look():
    # What is seen at the name, and what is hidden.
    def work(say):
        with opened() as store:
            info = store.head(ObjectName("models/large"))
            content = bytearray(info.size)
            store.read_into(ObjectName("models/large"), 0, memoryview(content), pin=None)
            (folder / "seen").write_bytes(content)
            page = store.list_page(".pds-unfinished/", recursive=False)
            say(" ".join(i.name.rpartition("/")[2] for i in page.objects if not i.is_marker))
    code, names = forked(work)
    assert code == 0
    return (folder / "seen").read_bytes(), names.split()

def start_anew():
    def work(say):
        with opened() as store:
            for info in store.list_page(".pds-unfinished/", recursive=False).objects:
                if not info.is_marker: store.delete_unfinished(info.name)
            writing = store.begin_write(ObjectName("models/large"), 3)
            writing.write_part(0, 0, memoryview(b"old"))
            writing.commit(hashlib.md5(b"old").digest())
    assert forked(work)[0] == 0

def written_down(names):
    # How many parts of a hidden file that is there journals tell of.
    most = 0
    for path in (folder / "journals").glob(".pds-*/journal"):
        begun = journal.unfinished(path.read_bytes(), f"to {url}/{share}/models") or {}
        for item in begun.values():
            if item.place.partition(".")[0] in names:
                most = max(most, len(item.parts))
    return most
"""

EVERY_STEP = """
first, second, third = (b"".join(bytes([c]) * PART for c in bytes.fromhex(t)) for t in told)
killed = kept = step = 0
over = False
while not over:
    step += 1
    for after in (False, True):
        start_anew()
        if first:
            code, _ = upload_until(first, 6, True)
            assert code == -9 and look()[0] == b"old"
        code, at = upload_until(second, step, after)
        assert code in (0, -9), (step, after)
        seen, names = look()
        if code == 0:
            assert (seen, names) == (second, []), (step, after)
        else:
            assert seen in (b"old", second), (step, after, at)
        there = written_down(names)
        code_again, wrote = upload_until(third, 0, False)
        assert code_again == 0, (step, after, at)
        seen, names = look()
        assert seen == third, (step, after, at)
        # One that was made by a request after which nothing could be written down stays for the sweep.
        is_made = code and after and at.startswith("PUT .pds-unfinished") and at.endswith("None")
        assert not names or is_made, (step, after, at, names)
        if first in (b"", second) and second == third:
            assert int(wrote) == len(third) // PART - there, (step, after, at, wrote, there)
        over = code == 0
        killed += code == -9
        kept += there > 0
tell(killed=killed, kept=kept)
"""

A, B = "01020304", "01ff0304"


@pytest.mark.parametrize(
    "contents", [("", A, A), (A, A, A), (A, B, A), (A, A, B), ("", A, B)], ids=" ".join
)
def test_a_kill_at_every_request_costs_no_part_and_mixes_nothing(
    azure_files: AzureFiles, share: str, tmp_path: Path, contents: tuple[str, str, str]
) -> None:
    """Killed with the first content, with the second at each request, and sent to the end with the third."""
    told = sandbox.run(
        SWEEP + EVERY_STEP,
        tmp_path,
        azure_files.url,
        share,
        azure_files.key,
        *contents,
        timeout=300,
    )
    assert told["killed"] > 10
    assert told["kept"] > 5


AT_ONCE = """
import fcntl
from dataclasses import replace
from prefect_datastores import workspaces
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.share import ShareStore
url, share, key, mode, most = sys.argv[3:]
if mode != "known owners":
    workspaces._machine = lambda: ""  # as on a disk that several machines share
if mode == "locks for all":
    fcntl.flock = lambda *_: None
class Small(ShareStore):
    capabilities = replace(ShareStore.capabilities, part_size=65536)
    wrote = 0
    def write_range(self, name, offset, data):
        super().write_range(name, offset, data)
        Small.wrote += 1
        if Small.wrote == int(most): die()
store = Small(url, share, account_key=key)
store.check_root()
if not int(most): wait()
for turn in range(3):
    report = upload(store, folder_source(folder / "source"), f"to{turn}", "replace",
                    limits=Limits(parts=2), journals=folder / "journals")
tell(actions=dict(report.actions))
"""


@pytest.mark.parametrize("mode", ["known owners", "locks", "locks for all"])
def test_many_processes_that_go_on_with_what_a_killed_one_left_all_end_right(
    azure_files: AzureFiles,
    share: str,
    share_store: SmallShareStore,
    source: Path,
    tmp_path: Path,
    mode: str,
) -> None:
    make_tree(source, {"other": LARGE[::-1], "small": b"1"})
    where = (azure_files.url, share, azure_files.key, mode)
    killed = sandbox.start(AT_ONCE, tmp_path, *where, str(PARTS))
    _, complaint = killed.communicate(timeout=60)
    assert killed.returncode == -9, complaint
    assert hidden(share_store)
    told = sandbox.run_together(AT_ONCE, tmp_path, *[(*where, "0")] * 3)
    assert told == [{"actions": {"moved": 3}}] * 3
    for turn in range(3):
        for name, content in tree(source).items():
            assert get(share_store, f"to{turn}/{name}") == content
    assert hidden(share_store) == []

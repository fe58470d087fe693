"""What a kill leaves: nothing that is taken for data, and all that the next run can go on with."""

import errno
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from places import Place, RemotePlace
from servers import sandbox
from small_stores import PART, Breaking, make_tree, tree

from prefect_datastores.errors import StageFailed, TransferError
from prefect_datastores.files import Folder
from prefect_datastores.names import ObjectName, RelativePath
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.journal import Journal, Unfinished, origin_of, unfinished
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.testing import content_of, get, names_below, put
from prefect_datastores.workspaces import Workspace, abandoned, is_part

PARTS = 6
LARGE = os.urandom(PARTS * PART - 1)
ORIGIN = "from memory://memory"


# The file itself.


def written(tmp_path: Path) -> bytes:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    with closing(Journal(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), ORIGIN)) as journal:
        journal.begin(Unfinished("a", "1.part"))
        journal.done("a", 0, "00")
        journal.begin(Unfinished("b", "2.part", {0: "aa"}))
        journal.done("a", PART, "01")
        journal.end("b")
        journal.done("a", 2 * PART, "02")
    return path.read_bytes()


A = Unfinished("a", "1.part", {0: "00", PART: "01", 2 * PART: "02"})


def test_what_was_begun_and_not_ended_is_found(tmp_path: Path) -> None:
    content = written(tmp_path)
    assert unfinished(content, ORIGIN) == {"a": A}
    assert origin_of(content) == ORIGIN


def test_a_torn_end_costs_the_last_line_only(tmp_path: Path) -> None:
    content = written(tmp_path)
    until = content.rindex(b"\n", 0, -1) + 1
    for length in range(until, len(content)):
        found = unfinished(content[:length], ORIGIN)
        assert found == {"a": Unfinished("a", "1.part", {0: "00", PART: "01"})}


def test_a_flipped_bit_costs_the_last_line_or_everything(tmp_path: Path) -> None:
    content = written(tmp_path)
    until = content.rindex(b"\n", 0, -1) + 1
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        found = unfinished(bytes(damaged), ORIGIN)
        if place == until - 1:  # the last two lines become one
            assert found is not None
            assert found["a"].parts == {0: "00", PART: "01"}
        elif place >= until:
            assert found == {"a": Unfinished("a", "1.part", {0: "00", PART: "01"})}, place
        else:
            assert found is None, place


@pytest.mark.parametrize("head", [{"format": 2, "origin": ORIGIN}, {"format": 1, "origin": "?"}])
def test_another_format_or_origin_is_worth_nothing(tmp_path: Path, head: dict[str, object]) -> None:
    text = json.dumps(head, separators=(",", ":")).encode()
    _, _, rest = written(tmp_path).partition(b"\n")
    assert unfinished(b"%08x %s\n%s" % (zlib.crc32(text), text, rest), ORIGIN) is None
    assert unfinished(b"", ORIGIN) is None


# A download that is interrupted, and the next one.


def interrupted(store: ObjectStore, destination: Path, most: int) -> int:
    """Download until it breaks; return how many parts came."""
    breaking = Breaking(store, most)
    with pytest.raises(StageFailed, match="It broke"):
        download(breaking, destination, DownloadRequest())
    assert not (destination / "large").exists()
    return breaking.read


def finished(store: ObjectStore, destination: Path) -> int:
    """Download to the end; return how many parts had to be fetched."""
    counting = Breaking(store)
    report = download(counting, destination, DownloadRequest())
    assert {row.action for row in report.rows} == {"moved"}
    assert not [path for path in destination.iterdir() if is_part(path.name)]
    return counting.read


@pytest.fixture
def store(place: Place) -> ObjectStore:
    put(place.store, "large", LARGE)
    return place.store


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "destination"


def test_only_what_is_missing_is_fetched(store: ObjectStore, destination: Path) -> None:
    came = interrupted(store, destination, 4)
    assert came + finished(store, destination) == PARTS
    assert tree(destination) == {"large": LARGE}


def test_it_may_break_again_and_again(store: ObjectStore, destination: Path) -> None:
    came = [interrupted(store, destination, 1) for _ in range(PARTS - 1)]
    assert came == [1] * (PARTS - 1)
    assert finished(store, destination) == 1
    assert tree(destination) == {"large": LARGE}


def test_one_that_was_taken_over_and_broken_off_is_taken_over_again(
    store: ObjectStore, destination: Path
) -> None:
    """Whichever of the journals is read first: all of them tell of as many parts."""
    came = interrupted(store, destination, 3)
    for _ in range(6):
        assert interrupted(store, destination, 0) == 0
        assert len(list(destination.glob(".pds-*/*.part"))) == 1
    assert came + finished(store, destination) == PARTS
    assert tree(destination) == {"large": LARGE}


def test_a_part_that_is_not_as_it_was_written_is_fetched_again(
    store: ObjectStore, destination: Path
) -> None:
    interrupted(store, destination, PARTS - 1)
    (part,) = destination.glob(".pds-*/*.part")
    content = bytearray(part.read_bytes())
    content[0] ^= 1
    part.write_bytes(content)
    assert finished(store, destination) == 2
    assert tree(destination) == {"large": LARGE}


def test_another_version_begins_anew(store: ObjectStore, destination: Path) -> None:
    interrupted(store, destination, 4)
    new = os.urandom(len(LARGE))
    put(store, "large", new)
    assert finished(store, destination) == PARTS
    assert tree(destination) == {"large": new}


def of_another_format(content: bytes) -> bytes:
    text = json.dumps({"format": 2, "origin": origin_of(content)}, separators=(",", ":")).encode()
    return b"%08x %s\n%s" % (zlib.crc32(text), text, content.partition(b"\n")[2])


@pytest.mark.parametrize("make", [lambda content: b"?" + content, of_another_format])
def test_a_journal_of_no_use_is_said_once_and_all_is_fetched(
    store: ObjectStore,
    destination: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[bytes], bytes],
) -> None:
    interrupted(store, destination, 4)
    (journal,) = destination.glob(".pds-*/journal")
    journal.write_bytes(make(journal.read_bytes()))
    assert finished(store, destination) == PARTS
    assert tree(destination) == {"large": LARGE}
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_what_another_transfer_left_stays_for_it(store: ObjectStore, destination: Path) -> None:
    came = interrupted(store, destination, 4)
    other = MemoryStore("other")
    other.put("small", b"other")
    download(other, destination, DownloadRequest())
    assert came + finished(store, destination) == PARTS
    assert tree(destination) == {"large": LARGE, "small": b"other"}


def test_what_a_living_process_works_on_is_left_alone(
    store: ObjectStore, destination: Path
) -> None:
    with Folder(destination, create=True) as folder:
        part = folder.part_file(RelativePath("other"), 3)
        part.write_at(0, b"abc")
        download(store, destination, DownloadRequest())
        part.publish(replace=False)
    assert tree(destination) == {"large": LARGE, "other": b"abc"}


def test_one_whose_part_file_is_taken_away_begins_again(
    store: ObjectStore, destination: Path
) -> None:
    """As where a lock is granted to all, so that another took a living process for a dead one."""

    class Robbed(Breaking):
        def read_into(
            self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
        ) -> None:
            super().read_into(name, offset, buffer, pin=pin)
            if self.read == PARTS:
                (part,) = destination.glob(".pds-*/*.part")
                part.unlink()

    robbed = Robbed(store)
    download(robbed, destination, DownloadRequest())
    assert tree(destination) == {"large": LARGE}
    assert robbed.read == 2 * PARTS

    class Robber(Robbed):
        def read_into(
            self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
        ) -> None:
            self.read = PARTS - 1  # every time
            super().read_into(name, offset, buffer, pin=pin)

    (destination / "large").unlink()
    with pytest.raises((StageFailed, ValueError)):
        download(Robber(store), destination, DownloadRequest())
    assert tree(destination) == {}


def test_the_folder_of_another_machine_is_known_by_its_lock(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    workspace = Workspace(root)
    owner = tmp_path / workspace.name / "owner"
    with abandoned(root) as found:
        assert found == []
    owner.write_text(json.dumps({"machine": "another", "pid": 1, "started": "1"}))
    with abandoned(root) as found:
        assert found == []  # its lock is held, by this test
    os.close(workspace._owner)
    with abandoned(root) as found:
        assert [item.name for item in found] == [workspace.name]
    owner.write_text("")  # as between its making and its first line
    with abandoned(root) as found:
        assert found == []
    os.utime(tmp_path / workspace.name, (1, 1))
    with abandoned(root) as found:
        assert [item.name for item in found] == [workspace.name]


def test_the_folder_of_a_process_that_nobody_buries_is_left(tmp_path: Path) -> None:
    """As in a container whose first process buries nobody."""
    root = os.open(tmp_path, os.O_RDONLY)
    make = "import os, sys\nfrom prefect_datastores.workspaces import Workspace\n"
    make += "made = Workspace(os.open(sys.argv[1], os.O_RDONLY))\nprint(made.name, flush=True)\nos.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", make, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().decode().strip()
        with abandoned(root) as found:
            assert found == []
        owner.kill()
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
        with abandoned(root) as found:
            assert [item.name for item in found] == [name]


# SIGKILL, at every step and at any time.

SWEEP = """
import random, shutil, time
from prefect_datastores.staging import journal
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.stores.base import Capabilities
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.workspaces import is_part

PART = 4096
class Small(LocalStore):
    capabilities = Capabilities(kind="small files", part_size=PART)
    read = 0
    def read_into(self, name, offset, buffer, *, pin):
        super().read_into(name, offset, buffer, pin=pin)
        Small.read += len(buffer) == PART  # the small files and the last parts are shorter

seed = random.Random(20261125)
new = {f"large{n}": seed.randbytes(5 * PART + 1) for n in range(2)}
new |= {f"sub/small{n}": seed.randbytes(100) for n in range(4)} | {"empty": b""}
old = {"large0": b"old", "sub/small0": b"old", "kept": b"kept"}

def make(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

def tree(root):
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths
            if not any(map(is_part, path.relative_to(root).parts))}

def move(destination):
    store = Small(folder / "store")
    download(store, destination, DownloadRequest(overwrite="replace"), limits=Limits(files=3, parts=2))
    store.close()
    return Small.read

def die_at(step, after):
    # Every call by which a transfer changes the disk is a step.
    steps = 0
    def counted(call):
        def stepping(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == step and not after: die()
            result = call(*args, **kwargs)
            if steps >= step and after: die()
            return result
        return stepping
    for name in ("write", "pwrite", "open", "mkdir", "rename", "link", "unlink", "rmdir", "fsync", "fchmod"):
        setattr(os, name, counted(getattr(os, name)))

def forked(work):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, b"%d" % work())
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    return child, reading

def ended(child, reading):
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        return os.waitstatus_to_exitcode(status), told.read()

make(folder / "store", new)
def check(kill):
    destination = folder / "destination"
    shutil.rmtree(destination, ignore_errors=True)
    make(destination, old)
    code, _ = kill(destination)
    found = tree(destination)
    for name, content in found.items():
        assert content in (old.get(name), new.get(name)), name
    assert old.keys() <= found.keys()
    there = 0
    for path in destination.glob(".pds-*/journal"):
        begun = journal.unfinished(path.read_bytes(), "from " + (folder / "store").as_uri()) or {}
        for item in begun.values():
            if (path.parent / item.place).exists():
                there += len([offset for offset in item.parts if offset < 5 * PART])
    for path in destination.glob(".pds-*"):
        os.utime(path, (1, 1))  # one that has no owner yet is left alone for a minute
    code_again, told = ended(*forked(lambda: move(destination)))
    assert code_again == 0
    assert tree(destination) == {**old, **new}
    assert not [path for path in destination.rglob("*") if is_part(path.name)]
    # All is replaced, so that what is published is fetched again; what is unfinished is not.
    assert int(told) == 10 - there, (int(told), there)
    return code, there
"""

EVERY_STEP = """
killed = kept = step = 0
over = False
while not over:
    step += 1
    for after in (False, True):
        def kill(destination):
            def work():
                die_at(step, after)
                return move(destination)
            return ended(*forked(work))
        code, there = check(kill)
        assert code in (0, -9)
        over = code == 0
        killed += code == -9
        kept += there > 0
tell(killed=killed, kept=kept)
"""

ANY_TIME = """
killed = kept = 0
def seconds():
    began = time.monotonic()
    ended(*forked(lambda: move(folder / "destination")))
    return time.monotonic() - began
usual = min(seconds() for _ in range(5))  # the first one takes far longer
for _ in range(200):
    def kill(destination):
        child, reading = forked(lambda: move(destination))
        time.sleep(seed.random() * usual)
        os.kill(child, signal.SIGKILL)
        return ended(child, reading)
    code, there = check(kill)
    killed += code == -9
    kept += there > 0
tell(killed=killed, kept=kept)
"""


def test_a_kill_at_every_step_of_a_download_loses_nothing(tmp_path: Path) -> None:
    told = sandbox.run(SWEEP + EVERY_STEP, tmp_path)
    assert told["killed"] > 100
    assert told["kept"] > 20


def test_a_kill_at_any_time_loses_nothing(tmp_path: Path) -> None:
    told = sandbox.run(SWEEP + ANY_TIME, tmp_path)
    assert told["killed"] > 50
    assert told["kept"] > 10


KILLED_DOWNLOAD = """
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
class Dying(Store):
    came = 0
    def read_into(self, *given, **more):
        told = super().read_into(*given, **more)
        Dying.came += 1
        if Dying.came == int(sys.argv[3]): die()
        return told
Store = Dying
download(opened(), folder / "destination", DownloadRequest(), limits=Limits(parts=1))
"""


@pytest.mark.parametrize("most", [1, PARTS // 2, PARTS])
def test_a_killed_download_is_gone_on_with_from_each_kind_of_store(
    kept: Place, tmp_path: Path, most: int
) -> None:
    put(kept.store, "large", LARGE)
    process = sandbox.start(kept.opened_by() + KILLED_DOWNLOAD, tmp_path, str(most))
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == -9, complaint
    # What came and was not yet written down is fetched again; the file's thread brings parts as well.
    assert PARTS - most <= finished(kept.store, tmp_path / "destination") <= PARTS - most + 2
    assert tree(tmp_path / "destination") == {"large": LARGE}


# Uploads.


@pytest.fixture(params=["blob", "lake"])
def blocks(request: pytest.FixtureRequest) -> RemotePlace:
    """A place whose service keeps parts of what was not finished."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", {"large": LARGE})


def send(store: ObjectStore, source: Path, tmp_path: Path) -> None:
    upload(store, folder_source(source), "models", "replace", journals=tmp_path / "journals")


def test_an_upload_goes_on_with_the_blocks_that_the_service_kept(
    blocks: RemotePlace, source: Path, tmp_path: Path
) -> None:
    breaking = Breaking(blocks.store, 4)
    with pytest.raises(StageFailed, match="It broke"):
        send(breaking, source, tmp_path)
    assert names_below(blocks.store) == []
    counting = Breaking(blocks.store)
    send(counting, source, tmp_path)
    assert breaking.wrote + counting.wrote == PARTS
    assert get(blocks.store, "models/large") == LARGE
    assert list((tmp_path / "journals").iterdir()) == []


def test_an_upload_takes_over_only_what_the_file_still_begins_with(
    blocks: RemotePlace, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageFailed, match="It broke"):
        send(Breaking(blocks.store, 5), source, tmp_path)
    changed = bytearray(LARGE)
    changed[2 * PART] ^= 1
    (source / "large").write_bytes(changed)
    counting = Breaking(blocks.store)
    send(counting, source, tmp_path)
    assert PARTS - 2 <= counting.wrote <= PARTS
    assert get(blocks.store, "models/large") == bytes(changed)


def test_an_upload_sends_anew_what_the_service_did_not_keep(
    blocks: RemotePlace, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageFailed, match="It broke"):
        send(Breaking(blocks.store, 4), source, tmp_path)
    put(blocks.store, "models/large", content_of(2 * PART))  # a commit drops all other blocks
    counting = Breaking(blocks.store)
    send(counting, source, tmp_path)
    assert counting.wrote == PARTS
    assert get(blocks.store, "models/large") == LARGE


def test_a_block_of_another_length_is_sent_again(
    blocks: RemotePlace, source: Path, tmp_path: Path
) -> None:
    breaking = Breaking(blocks.store, 4)
    with pytest.raises(StageFailed, match="It broke"):
        send(breaking, source, tmp_path)
    ask = blocks.service.request
    kept = ask("GET", "models/large", (("comp", "blocklist"), ("blocklisttype", "uncommitted")))
    block = re.findall(rb"<Name>([^<]*)</Name>", kept.body)[0].decode()
    query = (("comp", "block"), ("blockid", block))
    ask("PUT", "models/large", query, {}, b"of the same id")
    counting = Breaking(blocks.store)
    send(counting, source, tmp_path)
    assert breaking.wrote + counting.wrote == PARTS + 1
    assert get(blocks.store, "models/large") == LARGE


KILLED_UPLOAD = """
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
class Dying(Store):
    sent = 0
    def begin_write(self, *given, **more):
        writing = super().begin_write(*given, **more)
        write_part = writing.write_part
        def writing_part(*part):
            write_part(*part)
            Dying.sent += 1
            if Dying.sent == int(sys.argv[3]): die()
        writing.write_part = writing_part
        return writing
Store = Dying
upload(opened(), folder_source(folder / "source"), "models", "replace", journals=folder / "journals")
"""


@pytest.mark.parametrize("most", range(1, PARTS + 1))
def test_a_killed_upload_is_seen_by_nobody_and_gone_on_with(
    blocks: RemotePlace,
    source: Path,
    tmp_path: Path,
    most: int,
) -> None:
    put(blocks.store, "models/large", b"old")
    process = sandbox.start(blocks.opened_by() + KILLED_UPLOAD, tmp_path, str(most))
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == -9, complaint
    assert get(blocks.store, "models/large") == b"old"
    counting = Breaking(blocks.store)
    send(counting, source, tmp_path)
    # The last one may have been sent and not yet written down.
    assert PARTS - most <= counting.wrote <= PARTS - most + 4
    assert counting.wrote < PARTS or most <= 4
    assert get(blocks.store, "models/large") == LARGE


def test_a_journal_that_cannot_be_written_costs_no_upload(
    blocks: RemotePlace, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "journals").write_bytes(b"a file")
    send(blocks.store, source, tmp_path)
    assert get(blocks.store, "models/large") == LARGE


@pytest.mark.parametrize("short", [True, False])
def test_a_journal_that_finds_no_room_costs_no_upload_and_is_said_once(
    blocks: RemotePlace,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    short: bool,
) -> None:
    """A full disk may take a part of a line before it says no; what stands before it counts."""
    write = os.write
    breaking = Breaking(blocks.store, 4)

    def says_no(fd: int, data: bytes) -> int:
        if breaking.wrote < 2:
            return write(fd, data)
        if short:
            return write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", says_no)
    with pytest.raises(StageFailed, match="It broke"):
        upload(
            *(breaking, folder_source(source), "models", "replace"),
            limits=Limits(parts=1),
            journals=tmp_path / "journals",
        )
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    monkeypatch.setattr(os, "write", write)
    counting = Breaking(blocks.store)
    send(counting, source, tmp_path)
    assert PARTS - 2 <= counting.wrote <= PARTS - 1
    assert get(blocks.store, "models/large") == LARGE


def test_a_lost_part_has_a_name(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        part = folder.part_file(RelativePath("file"), 1)
        (path,) = tmp_path.glob(".pds-*/*.part")
        path.unlink()
        with pytest.raises(TransferError, match="was taken away"):
            part.publish(replace=True)


# Many at once on one destination, with locks that work and with locks that are granted to all.

AT_ONCE = """
import fcntl
from prefect_datastores import workspaces
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.stores.base import Capabilities
from prefect_datastores.stores.local import LocalStore
mode = sys.argv[3]
if mode != "known owners":
    workspaces._machine = lambda: ""  # as on a disk that several machines share
if mode == "locks for all":
    fcntl.flock = lambda *_: None
class Small(LocalStore):
    capabilities = Capabilities(kind="small files", part_size=4096)
wait()
for turn in range(10):
    store = Small(folder / "store")
    report = download(store, folder / f"to{turn}", DownloadRequest(overwrite="replace"))
    store.close()
tell(actions=dict(report.actions))
"""


@pytest.mark.parametrize("mode", ["known owners", "locks", "locks for all"])
def test_many_processes_on_one_destination_all_end_right(tmp_path: Path, mode: str) -> None:
    files = {f"large{number}": os.urandom(5 * 4096 + 1) for number in range(4)} | {"small": b"1"}
    make_tree(tmp_path / "store", files)
    told = sandbox.run_together(AT_ONCE, tmp_path, *[(mode,)] * 3)
    assert told == [{"actions": {"moved": 5}}] * 3
    for turn in range(10):
        assert tree(tmp_path / f"to{turn}") == files


KILLED_AT_HALF = """
read_into, came = Small.read_into, []
def reading(self, *given, **more):
    read_into(self, *given, **more)
    came.append(1)
    if len(came) == 12: die()
Small.read_into = reading
"""


@pytest.mark.parametrize("mode", ["known owners", "locks", "locks for all"])
def test_many_processes_that_go_on_with_what_a_killed_one_left_all_end_right(
    tmp_path: Path, mode: str
) -> None:
    files = {f"large{number}": os.urandom(5 * 4096 + 1) for number in range(4)} | {"small": b"1"}
    make_tree(tmp_path / "store", files)
    killed = sandbox.start(AT_ONCE.replace("wait()", KILLED_AT_HALF), tmp_path, mode)
    _, complaint = killed.communicate(timeout=60)
    assert killed.returncode == -9, complaint
    assert list((tmp_path / "to0").glob(".pds-*/*.part"))
    told = sandbox.run_together(AT_ONCE, tmp_path, *[(mode,)] * 3)
    assert told == [{"actions": {"moved": 5}}] * 3
    for turn in range(10):
        assert tree(tmp_path / f"to{turn}") == files


UPLOADS_AT_ONCE = """
import fcntl
from prefect_datastores import workspaces
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
mode = sys.argv[3]
if mode != "known owners":
    workspaces._machine = lambda: ""  # as on a disk that several machines share
if mode == "locks for all":
    fcntl.flock = lambda *_: None
store = opened()
store.check_root()
wait()
for turn in range(3):
    report = upload(store, folder_source(folder / "source"), f"to{turn}", "replace", journals=folder / "journals")
tell(actions=dict(report.actions))
"""


@pytest.mark.parametrize("mode", ["known owners", "locks", "locks for all"])
def test_many_processes_that_upload_to_one_place_all_end_right(
    remote: RemotePlace, source: Path, tmp_path: Path, mode: str
) -> None:
    make_tree(source, {"other": LARGE[::-1], "small": b"1"})
    program = remote.opened_by() + UPLOADS_AT_ONCE
    told = sandbox.run_together(program, tmp_path, *[(mode,)] * 3)
    assert told == [{"actions": {"moved": 3}}] * 3
    for turn in range(3):
        for name, content in tree(source).items():
            assert get(remote.store, f"to{turn}/{name}") == content


def test_two_that_go_on_with_one_transfer_share_what_it_left(
    store: ObjectStore, destination: Path
) -> None:
    came = interrupted(store, destination, 4)

    class Together(Breaking):
        """Begins a second transfer to the same place in the middle of the first."""

        def read_into(
            self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
        ) -> None:
            if not self.read:
                download(counting, destination, DownloadRequest())
            super().read_into(name, offset, buffer, pin=pin)

    counting, together = Breaking(store), Together(store)
    download(together, destination, DownloadRequest(), limits=Limits(parts=1))
    assert tree(destination) == {"large": LARGE}
    assert came + together.read == PARTS  # the first took it, so that the second found nothing
    assert counting.read == PARTS

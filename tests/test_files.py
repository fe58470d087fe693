"""Files: written whole or not at all, and never outside of their folder."""

import errno
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from servers import sandbox

from prefect_datastores.disk import local_error
from prefect_datastores.errors import (
    AccessError,
    ContainerNotFound,
    DatastoreError,
    LocalDiskFull,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    TransferError,
    UnsafeName,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import ObjectName, RelativePath
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.workspaces import is_part

FILE = RelativePath("file")
BELOW = RelativePath("a/b/file")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"outside")
    return tmp_path / "outside"


@pytest.fixture
def folder(root: Path) -> Iterator[Folder]:
    with Folder(root) as opened:
        yield opened


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def write(folder: Folder, path: RelativePath, content: bytes, *, replace: bool = True) -> None:
    part = folder.part_file(path, len(content))
    part.write_at(0, content)
    part.publish(replace=replace)


def tree(root: Path) -> dict[str, bytes | str]:
    """Everything below a folder: files by content, links by target, the rest by kind.

    A workspace counts by what is in it beside its owner: what is nothing is as good as none.
    """
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if (is_part(path.name) and path.is_dir()) or path.name == "owner":
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_bytes() if path.is_file() else "other"
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not is_part(path.name))


def parts(root: Path) -> list[Path]:
    """The part files below a folder."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and any(map(is_part, path.relative_to(root).parts))
        and path.name not in {"owner", "journal"}
    ]


def open_descriptors() -> int:
    return len(names(Path("/dev/fd")))


# Whole or not at all.


def test_a_file_is_not_there_before_it_is_published(folder: Folder, root: Path) -> None:
    part = folder.part_file(BELOW, 6)
    part.write_at(3, b"def")
    assert not (root / "a/b/file").exists()
    part.write_at(0, b"abc")
    part.publish(replace=False)
    assert tree(root) == {"a": "other", "a/b": "other", "a/b/file": b"abcdef"}


def test_the_old_file_stands_until_the_new_one_is_published(folder: Folder, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    with (root / "file").open("rb") as reader:
        part = folder.part_file(FILE, 3)
        part.write_at(0, b"new")
        assert (root / "file").read_bytes() == b"old"
        part.publish(replace=True)
        assert reader.read() == b"old"
    assert tree(root) == {"file": b"new"}


def test_what_is_discarded_leaves_nothing(folder: Folder, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    part = folder.part_file(FILE, 3)
    part.write_at(0, b"new")
    part.discard()
    part.discard()
    assert tree(root) == {"file": b"old"}


def test_a_taken_name_is_not_replaced_unless_asked(folder: Folder, root: Path) -> None:
    part = folder.part_file(FILE, 3)
    part.write_at(0, b"new")
    (root / "file").write_bytes(b"came meanwhile")
    with pytest.raises(ObjectExists):
        part.publish(replace=False)
    assert tree(root) == {"file": b"came meanwhile"}


@pytest.mark.parametrize("replace", [True, False])
def test_many_threads_leave_one_whole_file(folder: Folder, root: Path, replace: bool) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    gate = threading.Barrier(len(contents))

    def one(content: bytes) -> bool:
        part = folder.part_file(FILE, len(content))
        part.write_at(0, content)
        gate.wait()
        try:
            part.publish(replace=replace)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(len(contents)) as threads:
        published = list(threads.map(one, contents))
    assert published.count(True) == (8 if replace else 1)
    assert names(root) == ["file"]
    assert (root / "file").read_bytes() in [
        content for content, won in zip(contents, published, strict=True) if won
    ]


def test_a_part_file_is_private_and_in_a_private_folder(folder: Folder, root: Path) -> None:
    part = folder.part_file(BELOW, 3)
    (path,) = parts(root)
    assert is_part(path.parent.name)
    assert path.parent.parent == root
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    part.discard()
    assert parts(root) == []


def test_no_two_part_files_share_a_name(folder: Folder, root: Path) -> None:
    opened = [folder.part_file(FILE, 0) for _ in range(20)]
    assert len(parts(root)) == 20
    for part in opened:
        part.discard()


def test_a_transfers_own_folder_is_gone_with_it(root: Path) -> None:
    with Folder(root) as folder:
        write(folder, FILE, b"content")
        part = folder.part_file(BELOW, 3)
        assert [path.name for path in root.iterdir() if is_part(path.name)]
        part.discard()
    assert sorted(path.name for path in root.rglob("*")) == ["file"]


def test_a_folder_on_another_disk_gets_its_files_too(
    folder: Folder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between_disks(call: Callable[..., None]) -> Callable[..., None]:
        def refusing(*names: str, src_dir_fd: int, dst_dir_fd: int) -> None:
            if os.fstat(src_dir_fd).st_ino != os.fstat(dst_dir_fd).st_ino:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            call(*names, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return refusing

    monkeypatch.setattr(os, "rename", between_disks(os.rename))
    monkeypatch.setattr(os, "link", between_disks(os.link))
    write(folder, BELOW, b"new", replace=False)
    with pytest.raises(ObjectExists):
        write(folder, BELOW, b"other", replace=False)
    write(folder, BELOW, b"newer")
    assert tree(root / "a/b") == {"file": b"newer"}
    assert stat.S_IMODE((root / "a/b/file").stat().st_mode) == 0o666 & ~_umask()
    assert parts(root) == []


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", [".pds-.part.txt", "pds-1.part", ".pds-1", "x.part", ".pds"])
def test_peoples_files_are_no_part_files(name: str) -> None:
    assert not is_part(name)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_decides_the_mode(root: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with Folder(root) as folder:
            write(folder, FILE, b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "file").stat().st_mode) == mode


def test_a_file_can_carry_times(folder: Folder, root: Path) -> None:
    part = folder.part_file(FILE, 0)
    part.seal(1_200_000_000_123_456_789)
    part.publish(replace=True)
    assert (root / "file").stat().st_mtime_ns == 1_200_000_000_123_456_789


def test_what_was_written_reads_back_before_it_is_published(folder: Folder) -> None:
    part = folder.part_file(FILE, 6)
    part.write_at(0, memoryview(b"abcdef"))
    assert part.read_at(2, 100) == b"cdef"
    part.discard()


def test_a_flush_survives_folders_that_are_gone(folder: Folder, root: Path) -> None:
    write(folder, BELOW, b"content")
    folder.remove(BELOW)
    (root / "a/b").rmdir()
    folder.flush()
    folder.flush()
    assert tree(root) == {"a": "other"}


# Never outside.


def attempts(folder: Folder, path: RelativePath) -> dict[str, Callable[[], object]]:
    return {
        "read": lambda: os.close(folder.open_read(path)),
        "write": lambda: write(folder, path, b"planted"),
        "write new": lambda: write(folder, path, b"planted", replace=False),
    }


@pytest.mark.parametrize("attempt", ["read", "write", "write new"])
@pytest.mark.parametrize("target", ["file", "missing"])
def test_a_link_at_the_file_is_not_followed(
    folder: Folder, root: Path, outside: Path, attempt: str, target: str
) -> None:
    (root / "file").symlink_to(outside / target)
    before = tree(root)
    with pytest.raises((UnsafeName, ObjectExists)) as caught:
        attempts(folder, FILE)[attempt]()
    assert str(root / "file") in str(caught.value)
    assert tree(outside) == {"file": b"outside"}
    assert tree(root) == before


@pytest.mark.parametrize("target", ["outside", "missing", "root/real"])
@pytest.mark.parametrize("path", ["link/file", "link/deeper/file", "real/link/file"])
def test_a_link_above_the_file_is_not_followed(
    folder: Folder, root: Path, outside: Path, target: str, path: str
) -> None:
    (root / "real").mkdir()
    (root / "real" / "file").write_bytes(b"real")
    link = root / path[: path.index("link") + 4]
    link.symlink_to(outside.parent / target)
    before, relative = tree(root), RelativePath(path)
    for attempt in (
        *attempts(folder, relative).values(),
        lambda: folder.stat(relative),
        lambda: folder.remove(relative),
        lambda: folder.make_directory(relative),
        lambda: folder.entries(relative[:-1]),
    ):
        with pytest.raises(UnsafeName, match="link"):
            attempt()
    assert tree(outside) == {"file": b"outside"}
    assert tree(root) == before


def test_a_link_planted_where_an_open_folder_was_is_not_followed(
    folder: Folder, root: Path, outside: Path
) -> None:
    (root / "a").mkdir()
    part = folder.part_file(RelativePath("a/file"), 7)
    part.write_at(0, b"content")
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to(outside)
    part.publish(replace=True)
    with pytest.raises(UnsafeName, match="link"):
        folder.flush()
    assert tree(outside) == {"file": b"outside"}
    assert tree(root) == {"a": f"-> {outside}", "moved": "other", "moved/file": b"content"}


def test_a_link_planted_while_a_file_is_written_is_not_replaced(
    folder: Folder, root: Path, outside: Path
) -> None:
    part = folder.part_file(FILE, 7)
    part.write_at(0, b"content")
    (root / "file").symlink_to(outside / "file")
    with pytest.raises(UnsafeName, match="link"):
        part.publish(replace=True)
    assert tree(outside) == {"file": b"outside"}
    assert tree(root) == {"file": f"-> {outside / 'file'}"}


def test_the_folder_stays_the_one_that_was_opened(root: Path, outside: Path) -> None:
    with Folder(root) as folder:
        root.rename(root.with_name("moved"))
        root.symlink_to(outside)
        write(folder, FILE, b"content")
    assert tree(outside) == {"file": b"outside"}
    assert tree(root.with_name("moved")) == {"file": b"content"}


def test_removing_a_link_removes_the_link(folder: Folder, root: Path, outside: Path) -> None:
    (root / "file").symlink_to(outside / "file")
    folder.remove(FILE)
    assert tree(root) == {}
    assert tree(outside) == {"file": b"outside"}


def test_a_fifo_or_a_socket_is_refused_and_nobody_waits(folder: Folder, root: Path) -> None:
    os.mkfifo(root / "file")
    with pytest.raises(UnsafeName, match="not a regular file"):
        folder.open_read(FILE)
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(root)  # a socket's path is short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
        with pytest.raises(DatastoreError, match="socket"):
            folder.open_read(RelativePath("socket"))


def test_a_folder_is_no_file_and_a_file_is_no_folder(folder: Folder, root: Path) -> None:
    (root / "folder" / "full").mkdir(parents=True)
    (root / "file").write_bytes(b"old")
    for replace in (True, False):
        with pytest.raises(PlaceTaken):
            write(folder, RelativePath("folder"), b"new", replace=replace)
    with pytest.raises(UnsafeName):
        folder.open_read(RelativePath("folder"))
    with pytest.raises(PlaceTaken):
        write(folder, RelativePath("file/below"), b"new")
    with pytest.raises(PlaceTaken):
        folder.make_directory(FILE)
    assert folder.stat(RelativePath("file/below")) is None
    assert tree(root) == {"file": b"old", "folder": "other", "folder/full": "other"}


def test_what_is_missing_is_not_found(folder: Folder, root: Path) -> None:
    with pytest.raises(ObjectNotFound):
        folder.open_read(BELOW)
    with pytest.raises(ObjectNotFound):
        folder.remove(BELOW)
    with pytest.raises(ObjectNotFound):
        folder.entries(("a",))
    with pytest.raises(ObjectNotFound):
        Folder(root / "missing")
    assert folder.stat(BELOW) is None
    assert tree(root) == {}


def test_entries_are_what_stands_there_however_many_look(folder: Folder, root: Path) -> None:
    for number in range(300):
        (root / f"{number:03}").write_bytes(b"")
    (root / "link").symlink_to("/")
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda _: sorted(folder.entries(())), range(16)))
    expected = [*(f"{number:03}" for number in range(300)), "link"]
    assert [[name for name, _ in entries] for entries in seen] == [expected] * 16
    assert stat.S_ISLNK(seen[0][-1][1].st_mode)


def test_the_rules_of_a_disk_are_found_by_trying_and_leave_nothing(
    folder: Folder, root: Path
) -> None:
    rules = folder.rules()
    for name in ("Case", "case", "caf\u00e9", "cafe\u0301"):
        (root / name).write_bytes(b"")
    assert len(names(root)) == len({rules.key(name) for name in names(root)})
    assert not parts(root)
    assert rules.key("Case") == rules.key("case") or len(names(root)) >= 3


# When the disk says no.

DISK_FULL = """
from prefect_datastores.errors import LocalDiskFull
from prefect_datastores.files import Folder
from prefect_datastores.names import RelativePath
{limit}
(folder / "file").write_bytes(b"old")
path, errors = RelativePath("file"), []
descriptors = len(os.listdir("/dev/fd"))
with Folder(folder) as opened:
    try:
        opened.part_file(path, 64 * 2**20)
    except LocalDiskFull as error:
        errors.append(str(error))
    part = opened.part_file(path, 0)
    try:
        for offset in range(0, 64 * 2**20, 2**20):
            part.write_at(offset, bytes(2**20))
    except LocalDiskFull as error:
        errors.append(str(error))
    part.discard()
tell(
    errors=errors,
    names=os.listdir(folder),
    old=(folder / "file").read_text(),
    descriptors=len(os.listdir("/dev/fd")) - descriptors,
)
"""


@pytest.mark.parametrize("disk", sandbox.SMALL_DISKS)
def test_a_full_disk_leaves_the_old_file_and_no_part(disk: str, root: Path) -> None:
    told = sandbox.run(DISK_FULL.format(limit=sandbox.SMALL_DISKS[disk]), root)
    assert len(told["errors"]) == 2
    assert all(str(root / "file") in error for error in told["errors"])
    assert told | {"errors": []} == {
        "errors": [],
        "names": ["file"],
        "old": "old",
        "descriptors": 0,
    }


READ_ONLY = """
from prefect_datastores.errors import AccessError
from prefect_datastores.files import Folder
from prefect_datastores.names import RelativePath
{without_root}
descriptors, errors = len(os.listdir("/dev/fd")), []
with Folder(folder) as opened:
    for attempt in (
        lambda: opened.part_file(RelativePath("new"), 1),
        lambda: opened.part_file(RelativePath("sub/new"), 1),
        lambda: opened.open_read(RelativePath("secret")),
        lambda: opened.remove(RelativePath("secret")),
        lambda: opened.make_directory(RelativePath("sub")),
        opened.rules,
    ):
        try:
            attempt()
        except AccessError as error:
            errors.append(str(folder) in str(error))
tell(errors=errors, descriptors=len(os.listdir("/dev/fd")) - descriptors)
"""


def test_a_folder_without_rights_gives_an_access_error_that_names_it(open_folder: Path) -> None:
    (open_folder / "secret").write_bytes(b"secret")
    (open_folder / "secret").chmod(0o000)
    open_folder.chmod(0o555)
    told = sandbox.run(READ_ONLY.format(without_root=sandbox.WITHOUT_ROOT), open_folder)
    assert told == {"errors": [True] * 6, "descriptors": 0}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("ENOSPC", LocalDiskFull),
        ("EDQUOT", LocalDiskFull),
        ("EFBIG", LocalDiskFull),
        ("EROFS", AccessError),
        ("EACCES", AccessError),
        ("EPERM", AccessError),
        ("ENOENT", ObjectNotFound),
        ("ELOOP", UnsafeName),
        ("EMFILE", TransferError),
        ("EIO", TransferError),
    ],
)
def test_a_fault_of_the_disk_has_a_type_and_names_the_path(
    number: str, kind: type[DatastoreError]
) -> None:
    code = getattr(errno, number)
    error = local_error(OSError(code, os.strerror(code)), "/data/file")
    assert type(error) is kind
    assert "/data/file" in str(error)


def test_no_descriptor_is_left_open_by_faults(folder: Folder, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    (root / "file").write_bytes(b"old")
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    folder.workspace()
    before = open_descriptors()
    for attempt in (
        lambda: write(folder, RelativePath("link/file"), b"new"),
        lambda: write(folder, RelativePath("file/below"), b"new"),
        lambda: write(folder, RelativePath("folder"), b"new"),
        lambda: write(folder, FILE, b"new", replace=False),
        lambda: folder.open_read(RelativePath("fifo")),
        lambda: folder.open_read(RelativePath("link")),
        lambda: folder.open_read(RelativePath("missing/file")),
        lambda: folder.entries(("link",)),
        lambda: folder.remove(RelativePath("missing/file")),
        lambda: Folder(root / "file"),
        lambda: folder.part_file(FILE, 2**62),
    ):
        with pytest.raises(DatastoreError):
            attempt()
    assert open_descriptors() == before + len(folder._kept)
    assert not parts(root)


def test_a_closed_folder_holds_no_descriptor(root: Path) -> None:
    before = open_descriptors()
    with Folder(root) as folder:
        write(folder, BELOW, b"content")
        folder.rules()
        folder.flush()
    folder.close()
    assert open_descriptors() == before


# What a kill leaves.

KILLED = """
from prefect_datastores.files import Folder
from prefect_datastores.names import RelativePath
part = Folder(folder).part_file(RelativePath("data/file"), 8)
part.write_at(0, b"new data")
{then}
die()
"""


def test_a_killed_write_is_never_taken_for_a_file(root: Path, tmp_path: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "file").write_bytes(b"old")
    sandbox.run_until_killed(KILLED.format(then=""), root)

    (left,) = [path.name for path in root.iterdir() if path.name != "data"]
    assert is_part(left)
    assert (root / "data" / "file").read_bytes() == b"old"
    with closing(LocalStore(root)) as store:
        assert [info.name for info in store.list_page("").objects] == ["data/file"]
        copy = tmp_path / "copy"
        report = download(store, copy, DownloadRequest())
        assert [row.name for row in report.rows] == ["data/file"]
        assert tree(copy) == {"data": "other", "data/file": b"old"}
    source = folder_source(root)
    assert [str(file.relative) for file in source.files] == ["data/file"]
    assert [row.name for row in source.ignored] == [left]

    remote = MemoryStore()
    remote.put("data/file", b"new data")
    download(remote, root, DownloadRequest())
    assert (root / "data" / "file").read_bytes() == b"new data"
    assert [path.name for path in root.iterdir()] == ["data"]


def test_a_kill_after_the_publishing_leaves_the_whole_file(root: Path) -> None:
    sandbox.run_until_killed(KILLED.format(then="part.publish(replace=True)"), root)
    assert tree(root) == {"data": "other", "data/file": b"new data"}


def test_a_file_store_without_a_root_reads_nothing(tmp_path: Path) -> None:
    with closing(LocalStore(tmp_path / "missing")) as store, pytest.raises(ContainerNotFound):
        store.head(ObjectName("a"))

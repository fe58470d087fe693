"""A local folder as it is seen while others write to it: which files, and whether they are still the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prefect_datastores.errors import ConfigurationError, SourceChanged
from prefect_datastores.files import Folder
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.digest import md5_of_file
from prefect_datastores.staging.plan import SourceFile
from prefect_datastores.staging.report import ObjectRow
from prefect_datastores.staging.walk import folder_source

_TURNS, _QUIET_TURNS = (
    10,
    4,
)  # times that a folder may change while it is looked at, or until it is quiet
_LOOK_SECONDS = 0.01


class Stamp(NamedTuple):
    """What changes when a file does."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


@dataclass(frozen=True)
class SeenFile:
    """A file of the folder as it was seen."""

    source: SourceFile
    stamp: Stamp


Seen = Mapping[str, SeenFile]
"""Files by their names in the folder."""


class Observed:
    """A folder that others write to; used by one thread at a time."""

    def __init__(
        self, folder: Path, exclude: Sequence[str], quiet: float, clock: Callable[[], float]
    ) -> None:
        """Look at nothing yet; names that match `exclude` are left out, and `quiet` seconds are waited for."""
        self.folder = folder
        self._exclude, self._quiet, self._clock = exclude, quiet, clock
        self.ignored: Sequence[ObjectRow] = ()
        """What was seen last, and is no file."""

    def scan(self, *, everything: bool = False) -> dict[str, SeenFile]:
        """Return the files by name; where one goes while it is looked at, all are looked at again."""
        exclude, turn = () if everything else self._exclude, 0
        while True:
            turn += 1
            try:
                source = folder_source(self.folder, (), exclude)
                seen = {str(file.relative): self._seen(file) for file in source.files}
            except (FileNotFoundError, ConfigurationError) as error:
                if turn == _TURNS:
                    raise self.unsettled() from error
                time.sleep(_LOOK_SECONDS)
            else:
                self.ignored = source.ignored
                return seen

    def _seen(self, file: SourceFile) -> SeenFile:
        info = (self.folder / str(file.path)).stat()
        stamp = Stamp(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return SeenFile(SourceFile(file.path, file.relative, info.st_size), stamp)

    def scan_when_quiet(self, stop: Cancellation) -> dict[str, SeenFile]:
        """Return the files once the last change is some time ago, or not much later."""
        for _ in range(_QUIET_TURNS):
            seen = self.scan()
            youngest = max((file.stamp.changed for file in seen.values()), default=0) / 1e9
            age = self._clock() - youngest
            if not 0 <= age < self._quiet:  # what is of the future is of another clock
                break
            stop.pause(self._quiet - age)
        return seen

    def md5_of(self, file: SeenFile, stop: Cancellation) -> bytes:
        """Return the digest of a file as it is now."""
        with Folder(self.folder) as folder:
            fd = folder.open_read(file.source.path)
            try:
                return md5_of_file(fd, stop)
            finally:
                os.close(fd)

    def unsettled(self, name: str = "") -> SourceChanged:
        """Return the error that says that it does not hold still."""
        what = repr(name) if name else "a file"
        return SourceChanged(
            f"No checkpoint was made of {self.folder}: it does not hold still, {what} was written to or removed while "
            "it was read. Have the script write beside, as `name.tmp`, and rename, or leave the file out with `exclude`."
        )


def different(one: Seen, other: Seen) -> str:
    """Return the name of a file that is not the same in both; "" where there is none."""
    for name in sorted({*one, *other}):
        if name not in one or name not in other or one[name].stamp != other[name].stamp:
            return name
    return ""

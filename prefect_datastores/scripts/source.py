"""The source of a script: copied to where it runs, told from what a run made."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

from prefect_datastores.disk import local_error
from prefect_datastores.errors import ConfigurationError

OUTPUTS = "outputs"
NOT_SOURCE = (".git", "__pycache__", ".ipynb_checkpoints", ".venv", "*.pyc")
"""Version control, caches and environments: no ignore file has to name them."""

_SHOWN = 3

Stamp = frozenset[tuple[str, int, int, int]]


def copy_source(source: Path, target: Path, *, leave_out: Path) -> None:
    """Copy a source folder to `target`, which is new, without what is no source.

    Left out are version control, caches and environments, links that lead back up, the folder
    `leave_out` where it lies in the source, and `outputs` at the top: what an earlier run left there is no result of this one.

    Raises:
        ConfigurationError: something in it cannot be copied.
    """
    leave_out = leave_out.resolve()
    inside = _below(leave_out, source.resolve())

    def ignored(folder: str, names: list[str]) -> set[str]:
        where = Path(folder).relative_to(source)
        skipped = {name for pattern in NOT_SOURCE for name in fnmatch.filter(names, pattern)} | {
            name for name in names if where / name == inside
        }
        climbing = {name for name in names if _climbs(Path(folder) / name, leave_out)}
        return skipped | climbing | ({OUTPUTS} if where == Path() else set())

    try:
        shutil.copytree(source, target, ignore=ignored, ignore_dangling_symlinks=True)
    except shutil.Error as error:
        faults = error.args[0]
        shown = "\n  ".join(f"{path}: {why}" for path, _, why in faults[:_SHOWN])
        more = f"\n  ... and {len(faults) - _SHOWN} more." if len(faults) > _SHOWN else ""
        raise ConfigurationError(
            f"The source_directory {source} cannot be copied to {target}:\n  {shown}{more}"
        ) from None
    except OSError as error:
        raise local_error(error, target) from error


def _climbs(path: Path, leave_out: Path) -> bool:
    """Tell whether a link leads to a folder that it lies in itself, or that `leave_out` lies in."""
    if not path.is_symlink():
        return False
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # it leads to itself
        return True
    return path.parent.resolve().is_relative_to(target) or leave_out.is_relative_to(target)


def _below(path: Path, folder: Path) -> Path | None:
    return path.relative_to(folder) if path.is_relative_to(folder) else None


def stamp(path: Path) -> Stamp:
    """Return what tells the files at and below a path from any that are written there later."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return frozenset(
        (str(file), info.st_size, info.st_mtime_ns, info.st_ino)
        for file in files
        for info in [file.stat()]
    )


def forget_unless_written(path: Path, before: Stamp) -> None:
    """Remove what came with the source and was not touched since: it is no result."""
    if not before or stamp(path) != before:
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

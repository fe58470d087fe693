"""Which files of a source directory are its source: what the ignore file at its root leaves in."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from prefect_datastores.disk import local_error
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.scripts.source import NOT_SOURCE

IGNORE_FILES = (".amlignore", ".gitignore", ".dockerignore")
"""The first of them that is there is the only one that counts, as `.amlignore` did in Azure ML."""


@dataclass(frozen=True)
class Ignored:
    """What is left out of a source directory, by names relative to it."""

    file: str = ""
    """The ignore file that counts; "" where there is none."""
    _spec: GitIgnoreSpec = field(default_factory=lambda: GitIgnoreSpec.from_lines([]))
    _whole_folders: bool = True
    _at_the_top: frozenset[str] = frozenset()

    def file_is(self, relative: str) -> bool:
        """Tell whether a file is left out."""
        return self._never(relative) or bool(self._spec.match_file(relative))

    def folder_is(self, relative: str) -> bool:
        """Tell whether a folder is left out with all below it, so that nobody need look into it."""
        if self._never(relative):
            return True
        # Docker looks below: a later line can take a file of such a folder in again.
        return self._whole_folders and bool(self._spec.match_file(f"{relative}/"))

    def _never(self, relative: str) -> bool:
        name = relative.rpartition("/")[2]
        return relative in self._at_the_top or any(
            fnmatch.fnmatchcase(name, pattern) for pattern in NOT_SOURCE
        )


def ignored_in(directory: Path, at_the_top: Iterable[str] = ()) -> Ignored:
    """Return what the ignore file at the root of a directory leaves out, and `NOT_SOURCE`.

    `.amlignore` counts before `.gitignore`, and that before `.dockerignore`: the first that is there
    replaces the others. Each has the syntax of its own tool: a line of `.dockerignore` is anchored at
    the root, and a later line takes in again what lies in a folder that is left out. `at_the_top` are
    names at the root that are left out as well.

    Raises:
        ConfigurationError: a line is no pattern.
    """
    for name in IGNORE_FILES:
        try:
            text = (directory / name).read_text(encoding="utf-8", errors="surrogateescape")
        except (FileNotFoundError, IsADirectoryError):
            continue
        except OSError as error:
            raise local_error(error, directory / name) from error
        docker = name == ".dockerignore"
        lines = text.removeprefix("\ufeff").splitlines()
        try:
            spec = GitIgnoreSpec.from_lines(map(_anchored, lines) if docker else lines)
        except ValueError as error:
            raise ConfigurationError(
                f"{directory / name} has a line that is no pattern: {error}."
            ) from None
        return Ignored(name, spec, not docker, frozenset(at_the_top))
    return Ignored(_at_the_top=frozenset(at_the_top))


def _anchored(line: str) -> str:
    """Return a line of `.dockerignore` as Git spells it: there each pattern begins at the root."""
    pattern = line.strip()
    if not pattern or pattern.startswith("#"):
        return ""
    negated = pattern.startswith("!")
    parts = [part for part in pattern.removeprefix("!").strip().split("/") if part not in {"", "."}]
    return f"{'!' if negated else ''}/{'/'.join(parts)}" if parts else ""

"""A listing in the order of components, put in that of whole names; pure, and in bounded memory.

A hierarchical namespace lists a folder, what is in it, and then what stands beside it: `a`, `a/b`,
`a-b`. By whole names `a-b` comes before `a/b`, because `-` is less than `/`. So what is in a folder
is held back while names that go on where the folder's ends may come, which are the next ones beside
it. Where that is more than may be held, those names are asked for on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from prefect_datastores.stores.base import ObjectInfo

HELD = 5000
"""Objects of one folder that are held back at most."""

Beside = Callable[[str], Iterable[ObjectInfo]]
"""Gives all objects whose names begin with a folder's and come before what is in it, in name order."""


def in_name_order(
    listed: Iterable[ObjectInfo], prefix: str, beside: Beside, held: int = HELD
) -> Iterator[ObjectInfo]:
    """Give what is listed below a prefix in name order; an empty folder as a marker, no other folder.

    In `listed`, which is in the order of components, a folder is a marker whose name has no `/` at
    its end, and comes before what is in it.
    """
    return _Walk(listed, beside, held).below(prefix)


class _Walk:
    """One pass; each level takes what is below its own prefix, and leaves the next to the one above."""

    def __init__(self, listed: Iterable[ObjectInfo], beside: Beside, held: int) -> None:
        self._rest, self._beside, self._held = iter(listed), beside, held
        self._next = next(self._rest, None)

    def below(self, prefix: str) -> Iterator[ObjectInfo]:
        held: list[tuple[str, list[ObjectInfo]]] = []  # folders that wait, the last goes first
        told = ""  # a folder of which all that comes before its content was asked for
        while (info := self._next) is not None and info.name.startswith(prefix):
            self._next = next(self._rest, None)
            while held and not _goes_on(held[-1][0], info.name):
                yield from held.pop()[1]
            if told and _goes_on(told, info.name):
                if info.is_marker:
                    for _ in self.below(f"{info.name}/"):
                        pass
                continue
            told = ""
            if not info.is_marker:
                yield info
                continue
            inside = self._inside(info)
            first = list(islice(inside, self._held + 1))
            if len(first) <= self._held:
                held.append((info.name, first))
                continue
            told = info.name
            yield from self._beside(info.name)
            yield from first
            yield from inside
        while held:
            yield from held.pop()[1]

    def _inside(self, folder: ObjectInfo) -> Iterator[ObjectInfo]:
        """Give what is in a folder, or a marker where that is nothing."""
        prefix = f"{folder.name}/"
        if self._next is None or not self._next.name.startswith(prefix):
            yield folder._replace(name=prefix, etag="", modified=None)
            return
        yield from self.below(prefix)


def _goes_on(folder: str, name: str) -> bool:
    """Tell whether a name begins with a folder's, and comes before what is in it."""
    return name.startswith(folder) and name[len(folder) : len(folder) + 1] < "/"

"""What a reader will want next, told from what it read. Pure: nothing is fetched here."""

from __future__ import annotations

_FIRST, _MOST = 2**21, 64 * 2**20
_NEAR = 4 * 2**20
"""Bytes by which the kernel's own read-ahead, which asks out of order, may be off."""
_STRIDES = 3
_STRIDES_AHEAD = 8
_WHOLE, _GAP = 2000, 32
"""Files up to which all of a folder is wanted; places that opens in order may be apart."""

Span = tuple[int, int]
"""Where a range begins and ends."""


class Pattern:
    """The reads of one open file, in order, from a place on, or none of both."""

    def __init__(self, size: int) -> None:
        """Begin; a file is `size` bytes long."""
        self._size = size
        self._window = 0
        self._end = 0
        """Where the reads that are in order came to."""
        self._asked = 0
        """What was said to be wanted up to now, in order."""
        self._last = self._stride = -1
        self._strides = 0

    def wanted(self, offset: int, size: int) -> list[Span]:
        """Take note of a read, and return what is wanted next and was not said before."""
        end = min(offset + size, self._size)
        if self._is_in_order(offset):
            self._end = max(self._end, end)
            self._strides = 0
            self._last = offset
            return self._in_order()
        self._window = 0
        found = self._by_stride(offset, end - offset)
        self._end, self._asked = end, end
        return found

    def _is_in_order(self, offset: int) -> bool:
        return self._end - _NEAR <= offset <= self._end + (_NEAR if self._window else 0)

    def _in_order(self) -> list[Span]:
        begin = max(self._asked, self._end)
        ahead = begin - self._end
        if self._window and ahead > self._window // 2:
            return []  # enough is under way
        self._window = min(max(_FIRST, self._window * 2), _MOST)
        until = min(self._end + self._window, self._size)
        if until <= begin:
            return []
        self._asked = until
        return [(begin, until)]

    def _by_stride(self, offset: int, length: int) -> list[Span]:
        stride = offset - self._last
        self._strides = self._strides + 1 if stride == self._stride and stride > 0 else 0
        self._last, self._stride = offset, stride
        if self._strides < _STRIDES:
            return []
        begins = (offset + stride * step for step in range(1, _STRIDES_AHEAD + 1))
        return [(begin, min(begin + length, self._size)) for begin in begins if begin < self._size]


class FolderPattern:
    """The small files of one folder that were opened: who opens some will most likely open the rest."""

    def __init__(self, names: list[str], usual: int = 0) -> None:
        """Begin; the names are in the order of the listing, and the files of the `usual` length or so."""
        self._names, self.usual = names, usual
        self._place = {name: place for place, name in enumerate(names)}
        self._opened = self._in_order = 0
        self._last = -_GAP
        self._said: set[int] = set()
        self._reach = 0

    def wanted(self, name: str, most: int) -> list[str]:
        """Take note of an open, and return at most so many names that are wanted next, and were not said before."""
        place = self._place.get(name)
        if place is None:
            return []
        self._opened += 1
        self._said.add(place)
        self._in_order = self._in_order + 1 if 0 < place - self._last <= _GAP else 0
        self._last = place
        if self._opened < 2:  # noqa: PLR2004 - one alone says nothing
            return []
        if len(self._names) > _WHOLE and not self._in_order:
            return []  # who opens some of very many may never open the rest
        found: list[int] = []
        count = len(self._names)
        begin = max(place + 1, self._reach if place < self._reach else 0)
        at = begin
        for _ in range(count):
            if len(found) >= most or len(self._said) >= count:
                break
            here = at % count
            if here not in self._said:
                self._said.add(here)
                found.append(here)
            at += 1
        self._reach = at
        return [self._names[one] for one in found]

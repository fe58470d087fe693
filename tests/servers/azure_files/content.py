"""The bytes of a file: a length, and the ranges that were written; the rest is zeros."""

from __future__ import annotations

import copy

_PAGE = 1 << 20
_ALIGNMENT = 512

Range = tuple[int, int]


class Content:
    """A sparse file; a terabyte that nobody wrote takes no memory."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._pages: dict[int, bytearray] = {}
        self._written: list[Range] = []  # in order, apart from each other; the end is not in it

    def copy(self) -> Content:
        """Return the same bytes for another file."""
        return copy.deepcopy(self)

    @property
    def ranges(self) -> list[Range]:
        """What was written, as pairs of the first byte and the one after the last."""
        return list(self._written)

    @property
    def used(self) -> int:
        """How many bytes were written."""
        return sum(end - start for start, end in self._written)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`."""
        parts = []
        while start < end:
            number, offset = divmod(start, _PAGE)
            count = min(end - start, _PAGE - offset)
            page = self._pages.get(number, b"")
            parts.append(bytes(page[offset : offset + count]).ljust(count, b"\0"))
            start += count
        return b"".join(parts)

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Put bytes at a place within the length."""
        self._put(start, memoryview(data))
        self._take_out(start, start + len(data))
        self._written = _joined(sorted([*self._written, (start, start + len(data))]))

    def clear(self, start: int, end: int) -> None:
        """Make bytes zero, and free those that fill whole units of 512."""
        for place in range(start, end, _PAGE):
            self._put(place, memoryview(bytes(min(_PAGE, end - place))), only_existing=True)
        first = -(-start // _ALIGNMENT) * _ALIGNMENT
        last = end if end == self.length else end // _ALIGNMENT * _ALIGNMENT
        if first < last:
            self._take_out(first, last)

    def resize(self, length: int) -> None:
        """Cut the end off, or add zeros."""
        if length < self.length:
            self.clear(length, self.length)
            self._take_out(length, self.length)
            last = -(-length // _PAGE)
            self._pages = {number: page for number, page in self._pages.items() if number < last}
        self.length = length

    def _put(self, start: int, data: memoryview, *, only_existing: bool = False) -> None:
        done = 0
        while done < len(data):
            number, offset = divmod(start + done, _PAGE)
            count = min(len(data) - done, _PAGE - offset)
            if number in self._pages or not only_existing:
                page = self._pages.setdefault(number, bytearray())
                page.extend(bytes(max(0, offset - len(page))))  # no longer than was written
                page[offset : offset + count] = data[done : done + count]
            done += count

    def _take_out(self, start: int, end: int) -> None:
        left: list[Range] = []
        for first, last in self._written:
            left += [(first, min(last, start)), (max(first, end), last)]
        self._written = [(first, last) for first, last in left if first < last]


def _joined(ranges: list[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

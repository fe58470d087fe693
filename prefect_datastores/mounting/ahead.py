"""What a reader will want next, told from what it read. Pure: nothing is fetched here."""

from __future__ import annotations

import array
import time
from collections.abc import Callable

_FIRST, _MOST = 2**21, 64 * 2**20
_NEAR = 4 * 2**20
"""Bytes by which the kernel's own read-ahead, which asks out of order, may be off."""
_STRIDES = 3
_STRIDES_AHEAD = 8
_WHOLE, _GAP = 2000, 32
"""Files up to which all of a folder is wanted; places that opens in order may be apart."""
_FOR_A_MISS, _FOR_A_HIT, _FOR_A_MISS_BYTES = 4, 32, 2**20
"""Files of a larger folder that are wanted more where one was opened at random: one that was not wanted before, one that was."""
_WORTH = 512 * 2**20
"""Bytes that could have come in each second of waiting: about what sixteen streams of the service bring."""

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

    @property
    def is_at_random(self) -> bool:
        """Whether the last read was where nobody could foretell."""
        return not (self._window or self._strides)

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


class Patience:
    """How long readers of one file waited for places that nobody could foretell, against how long all of it takes.

    Who waited as long as all would have taken gets all: at worst that is twice what the better way would be.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; a file is `size` bytes long."""
        self._seconds, self._waited, self._clock = size / _WORTH, 0.0, clock

    def began(self) -> float:
        """Return when a wait began: now."""
        return self._clock()

    def is_over(self, began: float) -> bool:
        """Take note that a wait is over; tell whether all of the file is worth fetching, and begin anew then."""
        self._waited += self._clock() - began
        if self._waited < self._seconds:
            return False
        self._waited = 0.0
        return True


class FolderPattern:
    """The small files of one folder that were opened: who opens some will most likely open the rest.

    Of a folder with very many, who opens them at random may want all, or hardly any: a few beside each are
    wanted, and more and more as those turn out to be the next ones.
    """

    def __init__(self, names: list[str], usual: int = 0) -> None:
        """Begin; the names are in the order of the listing, and the files of the `usual` length or so."""
        self._names, self.usual = names, usual
        self._place = {name: place for place, name in enumerate(names)}
        self._opened = self._in_order = self._credit = 0
        self._for_a_miss = max(1, min(_FOR_A_MISS, _FOR_A_MISS_BYTES // max(1, usual)))
        self._last = -_GAP
        # Of each place, one from which the next one that was not said is looked for.
        self._next = array.array("q", range(len(names) + 1))

    def wanted(self, name: str, most: int) -> list[str]:
        """Take note of an open, and return at most so many names that are wanted next, and were not said before."""
        place = self._place.get(name)
        if place is None:
            return []
        self._opened += 1
        was_said = self._unsaid(place) != place
        if not was_said:
            self._next[place] = place + 1
        self._in_order = self._in_order + 1 if 0 < place - self._last <= _GAP else 0
        self._last = place
        if self._opened < 2:  # noqa: PLR2004 - one alone says nothing
            return []
        if len(self._names) > _WHOLE and not self._in_order:
            self._credit += _FOR_A_HIT if was_said else self._for_a_miss
            most = min(most, self._credit)
            found = self._say(place + 1, most)
            self._credit -= len(found)
            return found
        return self._say(place + 1, most)

    def _say(self, begin: int, most: int) -> list[str]:
        """Say so many names that were not said, from one on, and round."""
        found: list[str] = []
        for start in (begin, 0):
            while len(found) < most and (place := self._unsaid(start)) < len(self._names):
                self._next[place] = place + 1
                found.append(self._names[place])
        return found

    def _unsaid(self, place: int) -> int:
        """Return the next one from a place on that was not said; the count of all where there is none."""
        found = place
        while self._next[found] != found:
            found = self._next[found]
        while self._next[place] != found:
            self._next[place], place = found, self._next[place]
        return found

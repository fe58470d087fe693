"""Long sequences of small values that do not grow with their length: on disk beyond a few thousand."""

from __future__ import annotations

import marshal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Generic, TypeVar, overload

Value = TypeVar("Value")

_IN_MEMORY = 10_000
_BLOCK = 500


class Spool(Sequence[Value], Generic[Value]):
    """Values in the order in which they were added; used by many threads at once.

    `pack` makes a value one that `marshal` knows (texts, numbers, bytes, tuples of them), and
    `unpack` makes it again. The file has no name, so that nothing of it is left by a kill.
    """

    def __init__(
        self, pack: Callable[[Value], Any], unpack: Callable[[Any], Value], most: int = _IN_MEMORY
    ) -> None:
        """Begin with nothing; `most` are kept in memory."""
        self._pack, self._unpack, self._most = pack, unpack, most
        self._first: list[Value] = []
        self._last: list[Value] = []
        self._blocks: list[tuple[int, int]] = []
        self._file: IO[bytes] | None = None
        self._lock = threading.RLock()

    def append(self, value: Value) -> None:
        """Add a value."""
        with self._lock:
            if len(self._first) < self._most:
                self._first.append(value)
                return
            self._last.append(value)
            if len(self._last) == _BLOCK:
                self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="prefect-datastores-")  # noqa: SIM115 - as long as the spool
        block = marshal.dumps([self._pack(value) for value in self._last])
        at = self._file.seek(0, 2)
        self._file.write(block)
        self._blocks.append((at, len(block)))
        self._last = []

    def _block(self, number: int) -> list[Value]:
        with self._lock:
            at, length = self._blocks[number]
            assert self._file is not None
            self._file.seek(at)
            block = self._file.read(length)
        return [self._unpack(packed) for packed in marshal.loads(block)]  # noqa: S302 - written by us, read by nobody else

    @property
    def is_short(self) -> bool:
        """Whether all values are in memory."""
        return not self._last and not self._blocks

    def __len__(self) -> int:
        with self._lock:
            return len(self._first) + _BLOCK * len(self._blocks) + len(self._last)

    def __iter__(self) -> Iterator[Value]:
        """Give all values that are there when the end is reached."""
        at = 0
        while chunk := self.after(at):
            yield from chunk
            at += len(chunk)

    def after(self, at: int) -> Sequence[Value]:
        """Return some of the values from index `at` on; none where there is none."""
        with self._lock:
            if at < len(self._first):
                return self._first[at:]
            number, rest = divmod(at - len(self._first), _BLOCK)
            if number < len(self._blocks):
                return self._block(number)[rest:]
            return self._last[rest:]

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        """Return one value, or several; those on disk are read for it."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.after(place)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the values themselves."""
        return (_made, (self._pack, self._unpack, self._most, list(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} values>"


def _made(
    pack: Callable[[Value], Any], unpack: Callable[[Any], Value], most: int, values: list[Value]
) -> Spool[Value]:
    made = Spool(pack, unpack, most)
    for value in values:
        made.append(value)
    return made

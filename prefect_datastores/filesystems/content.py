"""The content of files: slices of them, many at once, and whole files part by part."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

from prefect_datastores.errors import IntegrityError
from prefect_datastores.filesystems.account import OpenShare
from prefect_datastores.filesystems.folders import ShareFolders
from prefect_datastores.filesystems.lanes import AHEAD, PART, beside, parts_lane
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo

Target = tuple[OpenShare, ObjectName]
Range = tuple[Target, str, int, int]
"""Bytes of one version of a file: which file, its ETag, from where and to where."""


class ShareContent(ShareFolders):
    """What is read of a file is of one version."""

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return bytes of one version of a file; `start` and `end` are as those of a slice."""
        return bytes(self._contents([self._range(path, start, end, {})])[0])

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Return bytes of files, many ranges at once; those of one file are of one version."""
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        count = len(paths)
        starts = starts if isinstance(starts, list) else [starts] * count
        ends = ends if isinstance(ends, list) else [ends] * count
        if not len(starts) == len(ends) == count:
            raise ValueError("paths, starts and ends must be of one length")
        raises = on_error != "return"

        def look(path: str) -> Any:
            return _caught(lambda: self.file_info(path), raises=raises)

        different = list(dict.fromkeys(map(self._strip_protocol, paths)))
        infos = dict(zip(different, beside(parts_lane(), look, different), strict=True))

        def span(asked: tuple[str, int | None, int | None]) -> Any:
            return _caught(lambda: self._range(*asked, infos), raises=raises)

        spans = [span(asked) for asked in zip(paths, starts, ends, strict=True)]
        good = [one for one in spans if not isinstance(one, Exception)]
        found = iter(self._contents(good, raises=raises))
        return [one if isinstance(one, Exception) else next(found) for one in spans]

    def _range(self, path: str, start: int | None, end: int | None, infos: dict[str, Any]) -> Range:
        """Return what a slice of a file is; `infos` has what is known of files already."""
        path = self._strip_protocol(path)
        info = infos.get(path) or self.file_info(path)
        if isinstance(info, Exception):
            raise info
        first, last, _ = slice(start, end).indices(info["size"])
        return self.place(path), info["etag"], first, max(first, last)

    def content(self, target: Target, pin: str, start: int, end: int) -> bytes:
        """Return bytes of the version `pin` of a file.

        Raises:
            SourceChanged: it is another version by now.
        """
        return bytes(self._contents([(target, pin, start, end)])[0])

    def _contents(self, ranges: Sequence[Range], *, raises: bool = True) -> list[Any]:
        """Return the bytes of ranges, whose parts are asked for together."""
        # What BytesIO was filled with, it gives away without another copy.
        held = [io.BytesIO(bytes(end - start)) for _, _, start, end in ranges]
        views = [one.getbuffer() for one in held]
        parts = [
            (number, at) for number, view in enumerate(views) for at in range(0, len(view), PART)
        ]

        def read(part: tuple[int, int]) -> Exception | None:
            number, at = part
            (share, name), pin, start, _ = ranges[number]
            buffer = views[number][at : at + PART]
            found = _caught(
                lambda: share.store.read_into(name, start + at, buffer, pin=pin), raises=raises
            )
            buffer.release()
            return found if isinstance(found, Exception) else None

        try:
            outcomes = beside(parts_lane(), read, parts)
        finally:
            for view in views:
                view.release()
        results: list[Any] = [one.getvalue() for one in held]
        for (number, _), failed in zip(parts, outcomes, strict=True):
            if failed is not None:
                results[number] = failed
        return results

    def stream(self, target: Target, info: ObjectInfo) -> Iterator[bytearray]:
        """Give a version of a file part by part, a few ahead; at its end it was compared with its MD5, if there is one.

        Raises:
            SourceChanged: it is another version by now.
            IntegrityError: its MD5 is another one.
        """
        share, name = target
        running = hashlib.md5(usedforsecurity=False)
        asked: deque[Future[tuple[bytearray, bytes | None]]] = deque()
        stored: bytes | None = None
        starts = iter(range(0, info.size, PART))

        def read(at: int) -> tuple[bytearray, bytes | None]:
            buffer = bytearray(min(PART, info.size - at))
            told = share.store.read_into(name, at, memoryview(buffer), pin=info.etag)
            return buffer, told

        try:
            while True:
                while len(asked) <= AHEAD and (at := next(starts, None)) is not None:
                    asked.append(parts_lane().submit(read, at))
                if not asked:
                    break
                part, stored = asked.popleft().result()
                running.update(part)
                yield part
        finally:
            for one in asked:
                one.cancel()
            wait(asked)
        if stored not in {None, running.digest()}:
            raise IntegrityError(f"{share.plain.url}/{name} is not what its MD5 says.")


def _caught(work: Callable[[], Any], *, raises: bool) -> Any:
    """Return what `work` returns, or its error, unless that is to be raised."""
    try:
        return work()
    except Exception as error:
        if raises:
            raise
        return error

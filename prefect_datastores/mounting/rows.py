"""Work for a few threads: what somebody waits for goes before what may be wanted later."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Queue(Generic[Job]):
    """Jobs in two rows; used by many threads."""

    def __init__(self) -> None:
        """Begin empty."""
        self._waited_for: deque[Job] = deque()
        self._ahead: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job, *, ahead: bool = False) -> None:
        """Add a job."""
        with self._changed:
            (self._ahead if ahead else self._waited_for).append(job)
            self._changed.notify_all()  # some take only what is waited for

    def hurry(self, job: Job) -> None:
        """Have a job done now that was to be done ahead, unless somebody has begun with it."""
        with self._changed:
            try:
                self._ahead.remove(job)
            except ValueError:
                return
            self._waited_for.append(job)
            self._changed.notify_all()

    def take(self, *, wait: bool = True, only_waited_for: bool = False) -> Job | None:
        """Return the next job; None when there is none and nobody is to wait, or all is over."""
        with self._changed:
            while not self._closed:
                if self._waited_for:
                    return self._waited_for.popleft()
                if self._ahead and not only_waited_for:
                    return self._ahead.popleft()
                if not wait:
                    return None
                self._changed.wait()
        return None

    def close(self) -> None:
        """End it: what is in it is not done any more."""
        with self._changed:
            self._closed = True
            self._waited_for.clear()
            self._ahead.clear()
            self._changed.notify_all()


def start(name: str, count: int, work: Callable[[], None]) -> list[threading.Thread]:
    """Run something in so many threads."""
    threads = [
        threading.Thread(target=work, name=f"pds-mount-{name}", daemon=True) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads

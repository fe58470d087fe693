"""Work for a few threads: what somebody waits for goes before what may be wanted later."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class _Idle:
    """Threads that wait for a job; whoever calls holds the lock."""

    def __init__(self, lock: threading.Lock) -> None:
        self._changed, self._asleep = threading.Condition(lock), 0

    def wait(self) -> None:
        self._asleep += 1
        self._changed.wait()

    def wake(self) -> bool:
        """Wake one; tell whether there is one that nobody has woken yet."""
        if not self._asleep:
            return False
        self._asleep -= 1
        self._changed.notify()
        return True

    def wake_all(self) -> None:
        self._asleep = 0
        self._changed.notify_all()


class Queue(Generic[Job]):
    """Jobs in two rows; used by many threads."""

    def __init__(self) -> None:
        """Begin empty."""
        self._waited_for: deque[Job] = deque()
        self._ahead: deque[Job] = deque()
        self._lock = threading.Lock()
        # Of those who take only what is waited for, and of those who take all: each job wakes one.
        self._for_some, self._for_all = _Idle(self._lock), _Idle(self._lock)
        self._closed = False

    def put(self, job: Job, *, ahead: bool = False) -> None:
        """Add a job."""
        with self._lock:
            if ahead:
                self._ahead.append(job)
                self._for_all.wake()
            else:
                self._waited_for.append(job)
                self._wake_for_waited_for()

    def _wake_for_waited_for(self) -> None:
        if not self._for_some.wake():
            self._for_all.wake()

    def hurry(self, job: Job) -> None:
        """Have a job done now that was to be done ahead, unless somebody has begun with it."""
        with self._lock:
            try:
                self._ahead.remove(job)
            except ValueError:
                return
            self._waited_for.append(job)
            self._wake_for_waited_for()

    def take(self, *, wait: bool = True, only_waited_for: bool = False) -> Job | None:
        """Return the next job; None when there is none and nobody is to wait, or all is over."""
        idle = self._for_some if only_waited_for else self._for_all
        with self._lock:
            while not self._closed:
                if self._waited_for:
                    return self._waited_for.popleft()
                if self._ahead and not only_waited_for:
                    return self._ahead.popleft()
                if not wait:
                    return None
                idle.wait()
        return None

    def close(self) -> None:
        """End it: what is in it is not done any more."""
        with self._lock:
            self._closed = True
            self._waited_for.clear()
            self._ahead.clear()
            self._for_some.wake_all()
            self._for_all.wake_all()


def start(name: str, count: int, work: Callable[[], None]) -> list[threading.Thread]:
    """Run something in so many threads."""
    threads = [
        threading.Thread(target=work, name=f"pds-mount-{name}", daemon=True) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads

"""What is looked at before an object gets another name, and remembered where an answer to it was lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

from prefect_datastores.errors import (
    NameCollision,
    ObjectExists,
    PlaceTaken,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import ObjectInfo

_MOST = 1000
Known = TypeVar("Known")


class Remembered(Generic[Known]):
    """What is known of moves whose last answer was lost, by both names, so that asking again goes on with them.

    Of many, the oldest are forgotten: asking again for one of those may say that nothing is at the
    old name. It is kept by the process alone.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Known] = {}

    def of(self, key: tuple[str, str]) -> Known | None:
        """Return what is known of a move."""
        with self._lock:
            return self._known.get(key)

    def keep(self, key: tuple[str, str], known: Known) -> None:
        """Remember something of a move."""
        with self._lock:
            self._known.pop(key, None)
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = known

    def forget(self, key: tuple[str, str]) -> None:
        """Forget a move, whose end is known."""
        with self._lock:
            self._known.pop(key, None)


@contextmanager
def both(one: threading.Lock, other: threading.Lock) -> Iterator[None]:
    """Hold two locks, or the one that both are, always in one order, so that no two wait for each other."""
    with ExitStack() as held:
        for _, lock in sorted({id(lock): lock for lock in (one, other)}.items()):
            held.enter_context(lock)
        yield


def end_not_known(url: str, name: str, to: str) -> TransferError:
    """Return the error for a move whose answer was lost, where what is there now does not tell its end."""
    return TransferError(
        f"{url}/{name} is gone, and the answer to the try before this one was lost. What stands at {to!r} is not "
        "known to be it: the move may have been done and the place written to since, or another took it away. "
        "Look at both names; nothing was moved by this try."
    )


def stays_in_place(name: ObjectName, to: ObjectName, rules: NameRules) -> bool:
    """Tell whether an object that is to be moved has the name already.

    Raises:
        NameCollision: the names differ, and are one by the rules: what would give way is the object itself.
    """
    if name == to:
        return True
    if rules.takes_for_one(name, to):
        raise NameCollision(
            f"{str(name)!r} and {str(to)!r} are one name to the service, so the object was left as it is. Move it "
            "to a third name, and from there to the one that is wanted."
        )
    return False


def check_move(
    where: str,
    source: ObjectInfo,
    stands: ObjectInfo | None,
    *,
    pin: str | None,
    replaces: str | None,
    if_absent: bool,
) -> None:
    """Return when an object may be moved over what `stands` at a place; `where` that is, for people.

    Raises:
        SourceChanged, ObjectExists, PlaceTaken: as `ObjectStore.move` says.
    """
    if pin is not None and source.etag != pin:
        raise SourceChanged(f"{source.name!r} is another version than the one to move to {where}.")
    if stands is not None and stands.is_marker:
        raise PlaceTaken(f"A folder stands at {where}.")
    is_other = replaces is not None and (stands is None or stands.etag != replaces)
    if is_other or (if_absent and stands is not None):
        raise ObjectExists(f"{where} was written by somebody else meanwhile; it was left as it is.")

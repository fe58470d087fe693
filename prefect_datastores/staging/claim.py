"""The pointer of a place as one run knows it: what the run writes it over, and that nobody else did meanwhile."""

from __future__ import annotations

from prefect_datastores.errors import CheckpointOvertaken, DatastoreError, ObjectExists
from prefect_datastores.staging.aside import write_pointer
from prefect_datastores.staging.generations import Pointer
from prefect_datastores.staging.published import Standing, pointer_of
from prefect_datastores.stores.base import ObjectStore


class Claim:
    """The pointer of one place; used by one thread at a time."""

    def __init__(self, place: str) -> None:
        """Know nothing yet."""
        self._place = place
        self.standing: Standing | None = None
        """What was shown when this run looked, or wrote, last."""
        self._asked: list[Pointer] = []  # whose writes nobody answered

    @property
    def generation(self) -> str | None:
        """The generation that is shown; None for none."""
        return self.standing.pointer.generation if self.standing else None

    def url(self, store: ObjectStore) -> str:
        """Return the address of the place."""
        return f"{store.url}/{self._place}".rstrip("/")

    def is_shown(self, store: ObjectStore) -> bool:
        """Tell whether the place shows what this run knows."""
        now = pointer_of(store, self._place)
        return (now and now.pointer) == (self.standing and self.standing.pointer)

    def check(self, store: ObjectStore) -> Standing | None:
        """Return while the place shows what this run knows, or wrote without an answer: that is returned, to be taken.

        Raises:
            CheckpointOvertaken: it shows something else.
        """
        now = pointer_of(store, self._place)
        if now is not None and now.pointer in self._asked:
            return now
        if (now and now.pointer) != (self.standing and self.standing.pointer):
            raise self._overtaken(store, now)
        self.standing = now
        return None

    def take(self, now: Standing) -> None:
        """Take note that this run wrote what is shown."""
        self.standing = now
        self._asked.clear()

    def _overtaken(self, store: ObjectStore, now: Standing | None) -> CheckpointOvertaken:
        by = now.pointer.holder.name if now and now.pointer.holder else ""
        what = "removed the checkpoints" if now is None else f"stored {now.pointer.generation}"
        return CheckpointOvertaken(
            f"No checkpoint can be made at {self.url(store)} any more: {by or 'somebody else'} {what} there since "
            "this run began. What is there was left as it is. Give each run a path of its own, or end the other one.",
            holder=by,
        )

    def write(self, store: ObjectStore, pointer: Pointer) -> None:
        """Write the pointer over the one that this run knows.

        Raises:
            CheckpointOvertaken: another one is shown.
            DatastoreError: the service failed; whether it was written is found out by the next `check`.
        """
        standing = self.standing
        try:
            try:
                info = write_pointer(store, self._place, pointer, standing)
            except ObjectExists:
                now = pointer_of(store, self._place)
                if now is not None and now.pointer == pointer:  # an answer that was lost
                    self.take(now)
                    return
                # On a disk the version of a file changes when another name of it goes, and no byte does.
                if now is None or standing is None or now.pointer != standing.pointer:
                    raise
                info = write_pointer(store, self._place, pointer, now)
        except ObjectExists as error:
            raise self._overtaken(store, pointer_of(store, self._place)) from error
        except DatastoreError:
            self._asked.append(pointer)  # it may be done all the same
            now = pointer_of(store, self._place)
            if now is None or now.pointer != pointer:
                raise
            self.take(now)
            return
        self.take(Standing(pointer, info.etag, info.modified))

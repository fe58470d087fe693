"""What is looked at before an object gets another name, in every kind of store."""

from __future__ import annotations

from prefect_datastores.errors import NameCollision, ObjectExists, PlaceTaken, SourceChanged
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import ObjectInfo


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

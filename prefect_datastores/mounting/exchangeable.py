"""A store that can be opened by another credential while it is used."""

from __future__ import annotations

from collections.abc import Callable

from prefect_datastores.stores.base import ObjectStore, Pending
from prefect_datastores.stores.decorated import DecoratedStore, Result


class Exchangeable(DecoratedStore):
    """What is asked next goes to the store that was given last."""

    def exchange(self, store: ObjectStore) -> None:
        """Ask another store from now on; what is under way at the one before comes from there."""
        self._inner = store

    def _around(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        return request()

    def _ahead(
        self,
        what: str,
        begin: Callable[[], Pending[Result]],
        request: Callable[[], Result],
        *,
        size: int = 0,
    ) -> Pending[Result]:
        return begin()

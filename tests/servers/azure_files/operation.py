"""What an operation is: what it does, what it takes, and who may ask for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from servers.azure_files.errors import Refused
from servers.azure_files.request import Answer, Request
from servers.azure_files.tree import Account, File, Share

Level = Literal["service", "share", "object"]


@dataclass(frozen=True)
class Grant:
    """What the one who asks may do; `letters` as a shared access signature has them, or all."""

    letters: str | None = None

    def require(self, any_of: str) -> None:
        """Refuse one who has none of the rights."""
        if self.letters is not None and not set(any_of) & set(self.letters):
            raise Refused("AuthorizationPermissionMismatch")


@dataclass(frozen=True)
class Call:
    """A request that may be carried out, and where."""

    account: Account
    request: Request
    grant: Grant

    def now(self) -> int:
        """Return the moment of a change."""
        return self.account.clock.now()

    def share(self) -> Share:
        """Return the share, or its snapshot, that is read."""
        request = self.request
        return self.account.share(request.share, request.query.get("sharesnapshot", ""))

    def changed_share(self) -> Share:
        """Return the share that is changed, which a snapshot never is."""
        if "sharesnapshot" in self.request.query:
            raise Refused("InvalidQueryParameterValue", "sharesnapshot")
        return self.account.share(self.request.share)

    def leased(self, file: File, header: str = "x-ms-lease-id") -> None:
        """Refuse what the file's lease forbids: a change without its id."""
        given = self.request.headers.get(header, "").lower()
        check_lease(file, given, must_have=True)


def check_lease(file: File, given: str, *, must_have: bool) -> None:
    """Compare the lease id that was given with the lease that there is."""
    lease = file.lease
    if lease is None:
        if given:
            raise Refused("LeaseNotPresentWithFileOperation")
    elif lease.is_broken:
        if given:
            raise Refused("LeaseLost" if given == lease.id else "LeaseNotPresentWithFileOperation")
    elif given and given != lease.id:
        raise Refused("LeaseIdMismatchWithFileOperation")
    elif must_have and not given:
        raise Refused("LeaseIdMissing")


@dataclass(frozen=True)
class Operation:
    """One of the service's operations.

    `headers` and `query` are what it knows beside what every operation does; anything else is
    refused. `needs` names the rights of which one is enough; "" is for the account's owner alone.
    """

    run: Callable[[Call], Answer]
    level: Level
    needs: str
    headers: frozenset[str] = frozenset()
    query: frozenset[str] = frozenset()
    since: str = ""

"""What opens the shares of an account: options as people give them, and the connections made of them."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_datastores.errors import ConfigurationError, ObjectExists, ObjectNotFound, ServiceBusy
from prefect_datastores.names import account_name, container_name
from prefect_datastores.redaction import MASK, remember
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.connection_string import read_connection_string
from prefect_datastores.stores.decorated import Result
from prefect_datastores.stores.limit import Allowance, Rates, allowance_of
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.stores.shares import share_names

PUBLIC_CLOUD = "core.windows.net"
SECRETS = ("account_key", "sas_token", "connection_string", "credential")


class Options(dict[str, Any]):
    """Options by name; `repr` shows no secret among them."""

    def __repr__(self) -> str:
        """Show that there is a secret, and not which."""
        shown = {key: MASK if key in SECRETS and value else value for key, value in self.items()}
        return repr(shown)


@dataclass(frozen=True)
class Account:
    """A storage account's files, and what opens them."""

    url: str
    name: str | None
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    credential: Any = field(default=None, repr=False)
    allow_trailing_dots: bool = False
    rates: Rates = field(default_factory=Rates)

    def signs(self) -> dict[str, Any]:
        """Return what a store signs with; the machine's identity where nothing was given."""
        token = self.credential
        if _makes_one(token):
            token = _checked(token())
        if not (self.key or self.sas or token):
            from prefect_datastores.stores.identity import machine_identity  # noqa: PLC0415

            token = machine_identity()
        return {"account_key": self.key, "sas_token": self.sas, "token": token}

    def allowance(self) -> Allowance | None:
        """Return what requests have to wait for, which all file systems with these rates share."""
        return allowance_of(self.rates) if self.rates != Rates() else None


def _makes_one(credential: Any) -> bool:
    """Tell whether it is no credential, but what makes one, as a class or a `partial` does."""
    return isinstance(credential, type) or (
        callable(credential) and not hasattr(credential, "get_token")
    )


def _checked(credential: Any) -> Any:
    """Return a credential, where it is one that can be used here."""
    if not callable(getattr(credential, "get_token", None)):
        raise ConfigurationError(
            "The credential is refused: give an object with get_token, as azure.identity has them, or what "
            "makes one; a key or a SAS token has an option of its own."
        )
    if inspect.iscoroutinefunction(credential.get_token):
        raise ConfigurationError(
            "The credential is refused: it is one of azure.identity.aio; give the one of azure.identity."
        )
    return credential


def account_of(
    name: str | None,
    *,
    account_key: str | None,
    sas_token: str | None,
    credential: Any,
    connection_string: str | None,
    account_url: str | None,
    endpoint: str,
    allow_trailing_dots: bool = False,
    rates: Rates | None = None,
) -> Account:
    """Return the account that options name.

    Raises:
        ConfigurationError: they name none, or more than one way to sign in.
    """
    for secret in (account_key, sas_token, connection_string):
        remember(secret or "")
    given = [account_key, sas_token, credential, connection_string]
    if sum(bool(way) for way in given) > 1:
        raise ConfigurationError(
            "Give one way to sign in: account_key, sas_token, credential or connection_string."
        )
    if connection_string:
        said = read_connection_string(connection_string)
        name = name or said.account
        account_key, sas_token = said.account_key, said.sas_token
        account_url = account_url or said.endpoints.get("file")
        endpoint = said.suffix
    if credential and not _makes_one(credential):
        _checked(credential)
    if "://" in endpoint:
        account_url = account_url or endpoint
    if not account_url and not name:
        raise ConfigurationError(
            "Give the account: account_name, account_url or connection_string."
        )
    url = account_url or f"https://{account_name(name or '')}.file.{endpoint.strip('/')}"
    if any(sign in url for sign in "?#@"):
        raise ConfigurationError(
            "The address of the account is refused: give it without '?' or '@'."
        )
    return Account(
        url.rstrip("/"),
        name,
        account_key or None,
        sas_token or None,
        credential,
        allow_trailing_dots,
        rates or Rates(),
    )


class OpenShare:
    """One share: its store, and the same with patience, for what is tried again."""

    def __init__(self, account: Account, share: str, signs: Mapping[str, Any]) -> None:
        """Name the share; nobody is asked yet."""
        self.plain = ShareStore(
            account.url,
            share,
            account_name=account.name,
            allow_trailing_dots=account.allow_trailing_dots,
            **signs,
        )
        self._allowance = account.allowance()
        self.store: ObjectStore = patient(self.plain, allowance=self._allowance)
        self._policy = RetryPolicy()

    def ask(self, what: str, request: Callable[[], Result], *, size: int = 0) -> Result:
        """Return what a request returns that may be made any number of times; `size` bytes travel."""

        def once() -> Result:
            if self._allowance is not None:  # every try counts
                self._allowance.wait(1, size, self._policy.sleep)
            return request()

        return self._policy.call(what, once)

    def change(
        self,
        what: str,
        request: Callable[[], object],
        *,
        done: Callable[[], bool],
    ) -> None:
        """Make a change that can be made once; `done` tells whether one that was not answered was made."""
        lost = False

        def once() -> None:
            nonlocal lost
            try:
                request()
            except ServiceBusy:
                lost = True
                raise
            except (ObjectExists, ObjectNotFound):
                if not (lost and done()):
                    raise

        self.ask(what, once)

    def is_there(self, name: str, *, is_folder: bool) -> bool:
        """Tell whether a file, or a folder, has that name."""
        try:
            self.ask("look", lambda: self.plain.stat(name, is_folder=is_folder))
        except ObjectNotFound:
            return False
        return True


class Opened:
    """The connections of one process to an account; another process makes its own."""

    def __init__(self, account: Account) -> None:
        """Connect to nothing yet."""
        self.process = os.getpid()
        self._account, self._signs = account, account.signs()
        self._shares: dict[str, OpenShare] = {}

    def share(self, name: str) -> OpenShare:
        """Return a share; whether it exists shows at the first request.

        Raises:
            ConfigurationError: no share can have that name.
        """
        found = self._shares.get(name)
        if found is None:
            made = OpenShare(self._account, container_name(name), self._signs)
            found = self._shares.setdefault(name, made)
        return found

    def share_names(self) -> list[str]:
        """Return the names of all shares of the account."""
        if (allowance := self._account.allowance()) is not None:
            allowance.wait(1, 0, time.sleep)
        return share_names(self._account.url, self._account.name, **self._signs)

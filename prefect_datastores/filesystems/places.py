"""Where things are: what opens the shares of an account, and what paths mean in them."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Mapping
from typing import Any

from fsspec.dircache import DirCache
from fsspec.json import FilesystemJSONEncoder
from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from prefect_datastores.errors import ConfigurationError, UnsafeName
from prefect_datastores.filesystems.account import (
    PUBLIC_CLOUD,
    SECRETS,
    Opened,
    OpenShare,
    Options,
    account_of,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.limit import Rates


class SharePlaces(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What opens the shares of an account, and what paths mean in them."""

    protocol = ("azurefile", "azfile")
    root_marker = ""

    def __init__(
        self,
        account_name: str | None = None,
        *,
        account_key: str | None = None,
        sas_token: str | None = None,
        credential: Any = None,
        connection_string: str | None = None,
        account_url: str | None = None,
        endpoint: str = PUBLIC_CLOUD,
        share_name: str | None = None,
        allow_trailing_dots: bool = False,
        requests_per_second: float | None = None,
        megabytes_per_second: float | None = None,
        use_listings_cache: bool = True,
        listings_expiry_time: float | None = 5.0,
        max_paths: int | None = None,
    ) -> None:
        """Name the account; no request is made before the first use.

        Paths begin with the share's name; with `share_name`, they are relative to that share.
        With no way to sign in, the machine's identity is used. A credential is an object as
        azure.identity has them, or what makes one (a class, or a `functools.partial` of it), which
        can always be sent to another process. All file systems of a process with the same limits share them.

        Raises:
            ConfigurationError: no account is named, or more than one way to sign in; or a limit
                is not positive.
        """
        super().__init__(
            use_listings_cache=use_listings_cache,
            listings_expiry_time=listings_expiry_time,
            max_paths=max_paths,
        )
        self._account = account_of(
            account_name,
            account_key=account_key,
            sas_token=sas_token,
            credential=credential,
            connection_string=connection_string,
            account_url=account_url,
            endpoint=endpoint,
            allow_trailing_dots=allow_trailing_dots,
            rates=Rates(
                requests_per_second,
                None if megabytes_per_second is None else megabytes_per_second * 1e6,
            ),
        )
        self.share_name = share_name or ""
        self._connections: Opened | None = None
        self._changes = 0
        if self.share_name:
            self._strip_protocol = self._path_in_share  # type: ignore[method-assign]

    # -- what it is -----------------------------------------------------------------------------

    @property
    def storage_options(self) -> dict[str, Any]:
        """What it was made with; `repr` shows no secret of it."""
        return self._options

    @storage_options.setter
    def storage_options(self, options: Mapping[str, Any]) -> None:
        self._options = Options(options)

    @property
    def fsid(self) -> str:
        """What tells it from other file systems."""
        return f"azurefile_{self._account.url}/{self.share_name}".rstrip("/")

    def __repr__(self) -> str:
        """Tell where it is, and nothing of what opens it."""
        where = f"{self._account.url}/{self.share_name}".rstrip("/")
        return f"{type(self).__name__}({where!r})"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        """Return what another process makes the same from.

        Raises:
            ConfigurationError: its credential cannot be sent to one.
        """
        credential = self._account.credential
        try:
            pickle.dumps(credential)
        except Exception:  # noqa: BLE001 - each kind of object says it in its own way
            kind = type(credential).__name__
            raise ConfigurationError(
                f"{self!r} cannot be sent to another process: its credential, a {kind}, cannot be pickled. "
                f"Give what makes one instead, such as credential={kind} or functools.partial({kind}, ...), or "
                "none, where the machine's identity is enough."
            ) from None
        return super().__reduce__()

    def to_dict(self, *, include_password: bool = False) -> dict[str, Any]:
        """Return what it was made with, as `fsspec` has it; without the secrets, unless they are asked for.

        Raises:
            TypeError: the secrets are asked for, and one is an object that no text stands for.
        """
        # Left out first: an object that signs in could not be told at all.
        told = {
            key: self._options[key]
            for key in self._options
            if include_password or key not in SECRETS
        }
        encoder, cls = FilesystemJSONEncoder(), type(self)
        return {
            "cls": f"{cls.__module__}:{cls.__name__}",
            "protocol": self.protocol[0],
            "args": encoder.make_serializable(self.storage_args),
            **encoder.make_serializable(told),
        }

    def to_json(self, *, include_password: bool = False) -> str:
        """Return the same as text."""
        return str(super().to_json(include_password=include_password))

    # -- names ----------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        parts = super()._strip_protocol(path).split("/")
        return "/".join(part for part in parts if part not in {"", "."})

    def _path_in_share(self, path: Any) -> Any:
        """Return a path relative to the share, of one that may be an address of it."""
        if isinstance(path, list):
            return [self._path_in_share(one) for one in path]
        plain = str(type(self)._strip_protocol(path))  # noqa: SLF001 - its own
        if not stringify_path(path).startswith(tuple(f"{name}:" for name in self.protocol)):
            return plain
        share, _, name = plain.partition("/")
        if share != self.share_name:
            raise ConfigurationError(
                f"{path} is in another share than {self.share_name!r}, which is all that {self!r} has."
            )
        return name

    def _of_account(self) -> Any:
        """Return the same file system, with paths that begin with the share's name."""
        same = object.__new__(type(self))
        same.__dict__.update(self.__dict__ | {"_connections": self.opened})
        if self.share_name:
            del same.__dict__["_strip_protocol"]
            same.share_name, same.dircache = "", DirCache()
        return same

    def _in_account(self, path: Any) -> Any:
        """Return a path as it begins with the share's name; a slash at its end stays."""
        if isinstance(path, list):
            return [self._in_account(one) for one in path]
        text = stringify_path(path)
        if not self.share_name or not isinstance(text, str):
            return text
        name = self._path_in_share(text)
        return f"{self.share_name}/{name}" + ("/" if name and text.endswith("/") else "")

    def _in_share(self, path: str) -> str:
        """Return the path that `_in_account` made longer."""
        return self._strip_protocol(path.partition("/")[2]) if self.share_name else path

    def unstrip_protocol(self, name: str) -> str:
        """Return the address of a path."""
        path = self._strip_protocol(name)
        return f"{self.protocol[0]}://" + "/".join(filter(None, (self.share_name, path)))

    def place(self, path: str) -> tuple[OpenShare, ObjectName]:
        """Return the share, and the name in it, of a file or folder.

        Raises:
            IsADirectoryError: the path names a share.
            UnsafeName: the share cannot hold the name as it is.
        """
        share, name = self.share_of(path)
        if share is None or not name:
            raise os_error(errno.EISDIR, path)
        checked = ObjectName(name)
        rules = share.plain.name_rules()
        fault = next(filter(None, map(rules.fault, name.split("/"))), None)
        if fault:
            raise UnsafeName(f"The name {name!r} {fault}.")
        return share, checked

    def share_of(self, path: str) -> tuple[OpenShare | None, str]:
        """Return the share of a path, unless that is the account, and the name in it."""
        if self.share_name:
            return self.opened.share(self.share_name), path
        share, _, name = path.partition("/")
        return (self.opened.share(share) if share else None), name

    @property
    def opened(self) -> Opened:
        """The connections; a process that was forked makes its own."""
        found = self._connections
        if found is None or found.process != os.getpid():
            found = self._connections = Opened(self._account)
        return found


def os_error(code: int, path: str) -> OSError:
    """Return the error that a disk would give."""
    return OSError(code, os.strerror(code), path)

"""Every error this package raises, in one tree.

    DatastoreError
    ├── ConfigurationError (ValueError)           the call or the block is wrong; nothing was tried
    │   ├── DatastoreNotFound (LookupError)       no datastore is registered under that name
    │   ├── DatastoreExists                       one is, and `overwrite` was not given
    │   ├── WayUnavailable                        a compute cannot have that datastore in that way
    │   └── SnapshotTooLarge                      a source has more files or bytes than the limits
    ├── AccessError (PermissionError)             the service, or the disk, said no
    │   ├── AuthenticationFailed                  key, token or identity is not accepted
    │   ├── AccessDenied                          accepted, but without the right to do this
    │   │   └── FirewallDenied                    this machine's address or network is not let in
    │   └── CredentialExpired                     was accepted once; its time is over
    ├── EndpointUnreachable (ConnectionError)     no such host, or nobody answers there
    ├── ContainerNotFound (FileNotFoundError)     the container (or root folder) is missing
    ├── ObjectNotFound (FileNotFoundError)        the object is missing, or nothing matched
    │   └── FolderMissing                         the folder that something is to be in is missing
    ├── ObjectExists (FileExistsError)            it is there, and `overwrite="fail"`
    ├── UnsafeName (ValueError)                   a name that would leave its place
    ├── NameCollision (ValueError)                two names that would be one file
    ├── TransferError (OSError)
    │   ├── PlaceTaken                            a folder stands where a file would be, or the reverse
    │   ├── FolderNotEmpty                        something is in the folder that is to be removed
    │   ├── PartsRefused                          what stands there is replaced by a whole only
    │   ├── PartLost                              another process took the unfinished file away
    │   ├── SourceChanged                         it changed while it was read
    │   ├── IntegrityError                        length or digest is not the promised one
    │   ├── ServiceBusy                           the service kept failing, or asked to wait
    │   └── LocalDiskFull                         no room for what comes
    ├── TransferCancelled                         stopped on request, not by a fault
    ├── StageFailed                               carries the report of all objects
    ├── ScriptFailed                              the user's script ended with an error
    ├── CheckpointError
    │   ├── CheckpointOvertaken                   another run makes checkpoints at the same place
    │   └── CheckpointUnstored                    the last state could not be stored; it is kept here
    └── MountError
        └── MountUnavailable                      no mount can be had here

Messages say what failed, on which object, why, and what to do next. All of them pass through
`redaction.scrub`, so no message carries a secret.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prefect_datastores.redaction import scrub

if TYPE_CHECKING:
    from prefect_datastores.staging.report import TransferReport


class DatastoreError(Exception):
    """Base of all errors of this package; its text never carries a secret."""

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))

    def __str__(self) -> str:
        """Give the message (`OSError` subclasses would print a tuple or an errno)."""
        return str(self.args[0]) if self.args else ""


class ConfigurationError(DatastoreError, ValueError):
    """What was asked cannot work; nothing was tried."""


class DatastoreNotFound(ConfigurationError, LookupError):
    """No datastore is registered under the name."""


class DatastoreExists(ConfigurationError):
    """A datastore of that name is registered already."""


class WayUnavailable(ConfigurationError):
    """A compute cannot have a datastore of that kind in that way; the message names one that works."""


class SnapshotTooLarge(ConfigurationError):
    """A source directory has more than a snapshot takes; `largest` names files with their bytes."""

    def __init__(self, message: str, *, largest: tuple[tuple[str, int], ...] = ()) -> None:
        super().__init__(message)
        self.largest = largest

    def __reduce__(self) -> tuple[partial[SnapshotTooLarge], tuple[str]]:
        return partial(type(self), largest=self.largest), (str(self),)


class AccessError(DatastoreError, PermissionError):
    """The service or the file system refused."""


class AuthenticationFailed(AccessError):
    """The credential is not accepted."""


class AccessDenied(AccessError):
    """The credential is accepted but lacks the right."""


class FirewallDenied(AccessDenied):
    """The service does not let this machine's address or network in, whatever the credential."""


class CredentialExpired(AccessError):
    """The credential's time is over."""


class EndpointUnreachable(DatastoreError, ConnectionError):
    """The host's name does not resolve, or nobody answers there."""


class ContainerNotFound(DatastoreError, FileNotFoundError):
    """The container, or the root folder of a local datastore, does not exist."""


class ObjectNotFound(DatastoreError, FileNotFoundError):
    """The object does not exist, or nothing matched."""


class ObjectExists(DatastoreError, FileExistsError):
    """The destination exists and may not be replaced."""


class UnsafeName(DatastoreError, ValueError):
    """A name that would leave its place or cannot be represented."""


class NameCollision(DatastoreError, ValueError):
    """Two names that would become one file or one object."""


class TransferError(DatastoreError, OSError):
    """An object could not be moved whole."""


class FolderMissing(ObjectNotFound):
    """The folder in which something is to be does not exist."""


class PlaceTaken(TransferError):
    """A folder stands where a file is to be written, or a file where a folder is needed."""


class FolderNotEmpty(TransferError):
    """Something is in the folder that was to be removed; it was left as it is."""


class PartsRefused(TransferError):
    """The service takes no parts for the file that stands there; a whole one replaces it."""


class PartLost(TransferError):
    """The unfinished file was taken away while it was written; it is begun again."""


class SourceChanged(TransferError):
    """The source changed while it was read; nothing of it was published."""


class IntegrityError(TransferError):
    """Length or digest differs from what was promised; nothing of it was published."""


class ServiceBusy(TransferError):
    """The service failed in a way that may pass; raised to callers when retries are used up.

    `retry_after` is what the service asked for, in seconds, where it did; `throttled` tells that
    it answered, and has too much to do (429, 503), unlike a connection that broke.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, throttled: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after, self.throttled = retry_after, throttled


class LocalDiskFull(TransferError):
    """The disk has no room for what would be written."""


class TransferCancelled(DatastoreError):
    """The transfer was stopped on request."""


class StageFailed(DatastoreError):
    """At least one object failed; `report` has a row for each."""

    def __init__(self, message: str, report: TransferReport) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[StageFailed], tuple[str, TransferReport]]:
        return type(self), (str(self), self.report)


class ScriptFailed(DatastoreError):
    """The script ended with `exit_code`; `tail` holds the last lines of its stderr."""

    def __init__(self, message: str, *, exit_code: int, tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.tail = tail

    def __reduce__(self) -> tuple[partial[ScriptFailed], tuple[str]]:
        return partial(type(self), exit_code=self.exit_code, tail=self.tail), (str(self),)


class CheckpointError(DatastoreError):
    """The state of a run could not be kept."""

    def __init__(self, message: str, *, holder: str = "", folder: str = "") -> None:
        super().__init__(message)
        self.holder, self.folder = holder, folder

    def __reduce__(self) -> tuple[partial[CheckpointError], tuple[str]]:
        return partial(type(self), holder=self.holder, folder=self.folder), (str(self),)


class CheckpointOvertaken(CheckpointError):
    """Another run, the `holder`, stored a checkpoint at the same place; nothing of the two was mixed."""


class CheckpointUnstored(CheckpointError):
    """The last state of a run could not be stored; `folder` is where it is kept on this machine."""


class MountError(DatastoreError):
    """A mount failed."""


class MountUnavailable(MountError):
    """No mount can be had here; the message says why and what works instead."""

"""Which operation a request is, and what of it that operation knows; the rest is refused loudly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from servers.data_lake import conditions
from servers.data_lake.calls import Answer, Call, Scope, http_date
from servers.data_lake.namespace import Account, File, Filesystem, Node
from servers.data_lake.refusals import Refusal, unknown
from servers.data_lake.rights import ANYBODY, Rights
from servers.data_lake.signatures import rights_of, sas_parameters

_SELECTORS = ("restype", "comp", "resource", "action")
_COMMON_HEADERS = {
    *("x-ms-version", "x-ms-date", "x-ms-client-request-id", "x-ms-return-client-request-id"),
}
_COMMON_QUERY = {"timeout"}
_CONDITIONS = (*conditions.NAMES, *conditions.SOURCE_NAMES)
_RESOURCE_TYPES: Mapping[Scope, str] = {"account": "s", "filesystem": "c", "path": "o"}


@dataclass(frozen=True)
class Asked:
    """A request with all that its operation works on."""

    call: Call
    account: Account
    rights: Rights

    @property
    def filesystem(self) -> Filesystem:
        """The filesystem that was asked for; it exists."""
        return self.account.filesystems[self.call.filesystem]

    def find(self) -> Node | None:
        """Return what stands at the path."""
        return self.filesystem.namespace.find(self.call.path)


def version_of(node: Node | Filesystem) -> dict[str, str]:
    """Return the headers that tell the version of a node or filesystem."""
    return {"ETag": f'"{node.etag}"', "Last-Modified": http_date(node.modified)}


@dataclass(frozen=True)
class Operation:
    """One operation: how it is told from others, what it knows, and what it needs.

    `selects` are the parameters that name it, `marked_by` a header that does. `needs` are the
    permissions of a SAS of which one will do.
    """

    method: str
    scope: Scope
    run: Callable[[Asked], Answer]
    selects: Mapping[str, str] = field(default_factory=dict)
    marked_by: str = ""
    query: Sequence[str] = ()
    headers: Sequence[str] = ()
    keeps_metadata: bool = False
    has_body: bool = False
    needs: str = ""
    by_container_sas: bool = True
    by_token: bool = True
    makes_filesystem: bool = False
    is_public: bool = False

    def is_asked_by(self, call: Call) -> bool:
        """Tell whether a request is for this operation."""
        selected = {name: call.query[name] for name in _SELECTORS if name in call.query}
        return (call.method, call.scope, selected) == (
            self.method,
            self.scope,
            dict(self.selects),
        ) and (not self.marked_by or self.marked_by in call.headers)

    def check(self, call: Call) -> None:
        """Raise where the request has something that this operation does not know."""
        known = {*_COMMON_QUERY, *self.selects, *self.query, *sas_parameters(call.query)}
        for name in set(call.query) - known:
            raise unknown(f"the parameter {name} of {call.method} {dict(self.selects)}")
        headers = {*_COMMON_HEADERS, *self.headers, self.marked_by}
        for name, value in call.headers.items():
            is_ours = name.startswith("x-ms-") and not name.startswith("x-ms-meta-")
            is_ours = is_ours or name in _CONDITIONS
            if is_ours and name not in headers and value:
                raise unknown(f"the header {name} of {call.method} {dict(self.selects)}")
        if call.metadata and not self.keeps_metadata:
            raise unknown("metadata here")
        if call.body and not self.has_body:
            raise Refusal("ContentLengthMustBeZero")

    def answer(self, call: Call, account: Account, *, missing: str) -> Answer:
        """Carry a request out; `missing` is the code for a filesystem that does not exist."""
        is_blob_endpoint = missing == "ContainerNotFound"
        is_open = self.is_public and is_blob_endpoint and call.filesystem in account.public
        is_anonymous = is_open and not call.header("authorization") and "sig" not in call.query
        rights = ANYBODY if is_anonymous else rights_of(call, account)
        if not call.version:
            raise Refusal("MissingRequiredHeader", "x-ms-version")
        self.check(call)
        if rights.is_of_token and not self.by_token:
            raise Refusal("AuthorizationPermissionMismatch", "not by a token")
        kind = _RESOURCE_TYPES[call.scope]
        rights.require(self.needs, kind, by_container=self.by_container_sas)
        needs_filesystem = call.scope != "account" and not self.makes_filesystem
        with account.lock:
            if needs_filesystem and call.filesystem not in account.filesystems:
                raise Refusal(missing)
            return self.run(Asked(call, account, rights))


def answer_by(
    operations: Sequence[Operation], call: Call, account: Account, *, missing: str
) -> Answer:
    """Carry a request out by the operation that it is for."""
    for operation in operations:
        if operation.is_asked_by(call):
            return operation.answer(call, account, missing=missing)
    rights_of(call, account)
    raise unknown(f"{call.method} of a {call.scope} with {dict(call.query)}")


def file_at(asked: Asked, missing: str) -> File:
    """Return the file that was asked for; `missing` is the code for there being none."""
    node = asked.find()
    if node is None:
        raise Refusal(missing)
    if not isinstance(node, File):
        raise Refusal("ResourceTypeMismatch")
    return node

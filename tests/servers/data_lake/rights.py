"""What a credential allows."""

from dataclasses import dataclass

from servers.data_lake.refusals import Refusal


@dataclass(frozen=True)
class Rights:
    """Permissions of a SAS; `resource_types` of one for the account, `resource` of one for less."""

    permissions: str
    resource_types: str = ""
    resource: str = ""
    is_all: bool = False
    is_of_token: bool = False

    def require(self, any_of: str, resource_type: str, *, by_container: bool) -> None:
        """Raise unless one of the permissions is given for such a resource."""
        if self.is_all:
            return
        if self.resource and not by_container:
            raise Refusal("AuthorizationPermissionMismatch", "only a SAS for the account can")
        if self.resource == "b" and resource_type != "o":
            raise Refusal("AuthorizationPermissionMismatch")
        if self.resource_types and resource_type not in self.resource_types:
            raise Refusal("AuthorizationResourceTypeMismatch")
        if any_of and not set(any_of) & set(self.permissions):
            raise Refusal("AuthorizationPermissionMismatch", f"one of {any_of!r} is needed")

    def check_overwrite(self) -> None:
        """Raise where only what is new may be made."""
        if not self.is_all and not set("wm") & set(self.permissions):
            raise Refusal("UnauthorizedBlobOverwrite")


ALL = Rights("", is_all=True)
ANYBODY = Rights("rl", resource="c")
OF_TOKEN = Rights("", is_all=True, is_of_token=True)

"""What a path may be, and which paths are one."""

import re

from servers.data_lake.refusals import Refusal, unknown

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = 1024
_MOST_SEGMENTS = {True: 61, False: 255}


def path_of(decoded: str, *, hierarchical: bool) -> str:
    """Return the path that the service stores for the one that it was given.

    Measured on the service: control characters are refused, a dot at the end of a component is
    dropped, a hierarchical namespace drops empty components, and counts fewer of them. That all of
    it is refused by InvalidUri is a guess.
    """
    if _CONTROL.search(decoded):
        raise Refusal("InvalidUri", "a control character in the name")
    if len(decoded.encode("utf-16-le")) // 2 > _LONGEST:
        raise Refusal("InvalidUri", "a name of more than 1024 characters")
    if not decoded.strip("/") or (hierarchical and decoded.endswith("/")):
        raise unknown(f"a name that ends with a slash, or has nothing else: {decoded!r}")
    components = decoded.split("/")
    if hierarchical:
        components = [component for component in components if component]
    if any(component and not component.strip(".") for component in components):
        raise Refusal("InvalidUri", "a component of nothing but dots")
    if len(components) > _MOST_SEGMENTS[hierarchical]:
        raise Refusal("InvalidUri", f"{len(components)} components")
    return "/".join(component.rstrip(".") for component in components)


def check_container(name: str) -> None:
    """Raise unless a container may have the name."""
    if name.startswith("$"):
        raise unknown(f"the container {name}")
    if not _CONTAINER.fullmatch(name):
        raise Refusal("InvalidResourceName")

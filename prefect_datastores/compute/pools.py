"""Templates of work pools with a place for what the data of a run needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from prefect_datastores.errors import ConfigurationError

Template = dict[str, Any]

_VOLUMES = {
    "title": "Volumes",
    "description": "Volumes of the run: shares that are mounted by the compute itself. "
    "`prefect-datastores job-variables` makes them.",
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    },
}
_VOLUME_MOUNTS = {
    "title": "Volume mounts",
    "description": "Where each of the volumes is in the container.",
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "mountPath": {"type": "string"},
            "readOnly": {"type": "boolean"},
        },
        "required": ["name", "mountPath"],
        "additionalProperties": False,
    },
}
_SECURITY_CONTEXT = {
    "title": "Security context",
    "description": "Of the container; `privileged: true` lets it mount datastores.",
    "type": "object",
}

_CREATE_KWARGS = {
    "title": "Container configuration",
    "description": "More arguments with which docker-py creates the container.",
    "type": "object",
}


def extended_template(pool_type: str, template: Mapping[str, Any]) -> Template:
    """Return a pool's base job template with variables for volumes, and for privilege where there is any.

    `template` is the one that Prefect gives for the type of the pool, or one of your own that was made
    from it; all else in it stays. A template that has the variables already is returned as it is. Runs
    that set none of them get what they got before. A pool of Docker that was made by prefect-docker 0.7 has
    all that is needed; one that was made in Prefect's pages may lack `container_create_kwargs`.

    Raises:
        ConfigurationError: nothing is known of that type, the template has another form, or volumes of
            its own in the places of these.
    """
    if pool_type not in _PLACED:
        raise ConfigurationError(
            f"Pools of type {pool_type!r} take no other template; those that do: {', '.join(_PLACED)}."
        )
    variables, place = _PLACED[pool_type]
    made: Template = copy.deepcopy(dict(template))
    try:
        properties = made["variables"].setdefault("properties", {})
        for name, schema in variables.items():
            _put(properties, name, copy.deepcopy(schema))
        place(made["job_configuration"], properties)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"This is no base job template of a pool of type {pool_type!r}: {error!r}. Get one by "
            f"`prefect work-pool get-default-base-job-template --type {pool_type}`."
        ) from None
    return made


def _place_in_docker(configuration: Template, properties: Template) -> None:
    properties.setdefault("container_create_kwargs", copy.deepcopy(_CREATE_KWARGS))
    _put(configuration, "container_create_kwargs", "{{ container_create_kwargs }}")


def _place_in_kubernetes(configuration: Template, _: Template) -> None:
    pod = configuration["job_manifest"]["spec"]["template"]["spec"]
    _put(pod, "volumes", "{{ volumes }}")
    _put(pod["containers"][0], "volumeMounts", "{{ volume_mounts }}")
    _put(pod["containers"][0], "securityContext", "{{ security_context }}")


def _place_in_instance(configuration: Template, _: Template) -> None:
    properties = configuration["arm_template"]["resources"][0]["properties"]
    _put(properties, "volumes", "{{ volumes }}")
    _put(properties["containers"][0]["properties"], "volumeMounts", "{{ volume_mounts }}")


def _put(into: Template, key: str, value: Any) -> None:
    if into.get(key, value) != value:
        raise ConfigurationError(
            f"The template has {key!r} of its own, which would be lost: put what `prefect-datastores job-variables` "
            "prints beside it by hand."
        )
    into[key] = value


_PLACED: Mapping[str, tuple[Mapping[str, Any], Callable[[Template, Template], None]]] = {
    "docker": ({}, _place_in_docker),
    "kubernetes": (
        {
            "volumes": _VOLUMES,
            "volume_mounts": _VOLUME_MOUNTS,
            "security_context": _SECURITY_CONTEXT,
        },
        _place_in_kubernetes,
    ),
    "azure-container-instance": (
        {"volumes": _VOLUMES, "volume_mounts": _VOLUME_MOUNTS},
        _place_in_instance,
    ),
}

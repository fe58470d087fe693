"""What a work pool's jobs need for the data of a run: job variables, none with a secret."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from prefect_datastores.compute.check import check_reference
from prefect_datastores.compute.matrix import COMPUTES, Cell, Compute, find_compute
from prefect_datastores.datastores.azure_file import AzureFileDatastore
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.local import LocalDatastore
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.names import block_name
from prefect_datastores.references import DataReference

NATIVE_ROOT = PurePosixPath("/mnt/datastores")
"""Below it the compute mounts shares, each under its datastore's name."""

_SETTING = "PREFECT_INTEGRATIONS_DATASTORES_"
_STORAGE_ACCOUNTS = "Microsoft.Storage/storageAccounts"
_KEYS_API = "2023-01-01"


def job_variables(compute_target: Any, references: Iterable[DataReference]) -> dict[str, Any]:
    """Return the job variables by which a work pool's jobs can have the data of a run.

    Those of Docker are the default pool's own. Those of Kubernetes and Azure Container Instances need a
    pool whose template has a place for them: `pools.extended_template`. No value is a secret:

    * Docker: the device and the capability for mounts (https://docs.docker.com/reference/cli/docker/container/run/),
      folders of the worker's machine as volumes.
    * Kubernetes: a privileged container for mounts; shares by the Azure Files CSI driver, as inline volumes, with
      the account's key in a Kubernetes secret of the driver's usual name, `azure-storage-account-<account>-secret`
      (https://github.com/kubernetes-sigs/azurefile-csi-driver/blob/master/docs/driver-parameters.md).
    * Azure Container Instances: shares as volumes; Azure Resource Manager itself looks up the account's key, when
      it makes the container group, by the rights of the worker's identity
      (https://learn.microsoft.com/azure/azure-resource-manager/templates/template-functions-resource#listkeys).

    Raises:
        ConfigurationError: there is no such compute, jobs do not run there by a work pool, or a datastore
            is not registered, so that no job could find it.
        WayUnavailable: a reference cannot be had there; the message names a way that works.
        DatastoreNotFound: a datastore is not registered.
    """
    compute = find_compute(compute_target)
    if not compute.work_pool:
        raise ConfigurationError(
            f"{compute.title} takes no job variables: {compute.flows}, which no work pool does."
        )
    wanted = [
        (reference, _registered(reference), check_reference(compute, reference))
        for reference in references
    ]
    shares = [
        (reference, datastore)
        for reference, datastore, cell in wanted
        if _natively(reference, cell) and isinstance(datastore, AzureFileDatastore)
    ]
    fuse = any(
        "fuse" in cell.need and not _natively(reference, cell) for reference, _, cell in wanted
    )
    made: dict[str, Any] = {"env": _environment(compute, [reference for reference, _ in shares])}
    if compute.name == "docker":
        folders = [
            _bound(datastore, writable=reference.mode in {"upload", "checkpoint"})
            for reference, datastore, _ in wanted
            if isinstance(datastore, LocalDatastore)
        ]
        made |= {"volumes": _merged(folders)} if folders else {}
        made |= {"container_create_kwargs": _FUSE_OF_DOCKER} if fuse else {}
    elif compute.name in {"kubernetes", "azure-container-instance"}:
        made |= {"security_context": {"privileged": True}} if fuse else {}
        make = _csi_volume if compute.name == "kubernetes" else _instance_volume
        different = {datastore.name: datastore for _, datastore in shares}
        if different:
            made["volumes"] = [make(datastore) for datastore in different.values()]
            made["volume_mounts"] = [_volume_mount(name) for name in different]
    return made


def for_pool(
    pool_type: str,
    template: Mapping[str, Any],
    references: Iterable[DataReference],
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the job variables of a deployment to a pool: those for its data, and over them what was given.

    Mappings are merged, lists are joined, and elsewhere what was given stands. Of a type of pool that the
    matrix does not know, nothing is checked, and what was given is all.

    Args:
        pool_type: the type of the work pool.
        template: its base job template, as the server has it.
        references: all that a run stages.
        given: the job variables that somebody chose.

    Raises:
        ConfigurationError: the template has no place for one, which Prefect would leave out without a word.
        WayUnavailable, DatastoreNotFound: as `job_variables` says.
    """
    if pool_type not in {compute.work_pool for compute in COMPUTES if compute.work_pool}:
        return dict(given or {})
    made = job_variables(pool_type, references)
    known = template.get("variables", {}).get("properties", {})
    if missing := [name for name in made if name not in known]:
        raise ConfigurationError(
            f"The work pool has no place for {', '.join(map(repr, missing))}, which the data of the run needs: update "
            f"its base job template with what `prefect-datastores pool-template {pool_type}` makes of it."
        )
    return _over(made, dict(given or {}))


def _over(made: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    result = {**made, **given}
    for key in made.keys() & given.keys():
        ours, theirs = made[key], given[key]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            result[key] = _over(ours, theirs)
        elif isinstance(ours, list) and isinstance(theirs, list):
            result[key] = [*(item for item in ours if item not in theirs), *theirs]
    return result


_FUSE_OF_DOCKER = {
    "devices": ["/dev/fuse:/dev/fuse:rwm"],
    "cap_add": ["SYS_ADMIN"],
    # Docker's own profile of AppArmor forbids to mount, whatever the capabilities.
    "security_opt": ["apparmor=unconfined"],
}


def _registered(reference: DataReference) -> FileDatastore:
    if reference._unregistered is not None:  # noqa: SLF001 - values of one thing
        raise ConfigurationError(
            f"The datastore of {reference.uri!r} is not registered, so no job could find it: save it first."
        )
    return resolve(reference)


def _natively(reference: DataReference, cell: Cell) -> bool:
    return cell.native and reference.mode == "mount" and reference.consistency == "latest"


def _environment(compute: Compute, shares: list[DataReference]) -> dict[str, str]:
    places = {reference.datastore: str(NATIVE_ROOT / reference.datastore) for reference in shares}
    said = {f"{_SETTING}COMPUTE": compute.name}
    return said | ({f"{_SETTING}NATIVE_MOUNTS": json.dumps(places)} if places else {})


def _bound(datastore: LocalDatastore, *, writable: bool) -> tuple[str, bool]:
    if ":" in datastore.root:
        raise ConfigurationError(
            f"The folder of {datastore.name!r}, {datastore.root!r}, cannot be a volume of Docker, whose volumes have "
            "no ':' in a path."
        )
    return datastore.root, writable


def _merged(folders: list[tuple[str, bool]]) -> list[str]:
    """Return each folder once, for writing where anything is to be stored in it."""
    writable = {root for root, wanted in folders if wanted}
    return [f"{root}:{root}{'' if root in writable else ':ro'}" for root in dict(folders)]


def _csi_volume(share: AzureFileDatastore) -> dict[str, Any]:
    return {
        "name": block_name(share.name),
        "csi": {
            "driver": "file.csi.azure.com",
            "readOnly": True,
            "volumeAttributes": {
                "shareName": share.file_share_name,
                "secretName": f"azure-storage-account-{share.account_name}-secret",
            },
        },
    }


def _instance_volume(share: AzureFileDatastore) -> dict[str, Any]:
    scope = [share.subscription_id, share.resource_group] if share.subscription_id else []
    if share.resource_group and not scope:
        scope = [share.resource_group]
    parts = [part.replace("'", "''") for part in [*scope, _STORAGE_ACCOUNTS, share.account_name]]
    named = ", ".join(f"'{part}'" for part in parts)
    return {
        "name": block_name(share.name),
        "azureFile": {
            "shareName": share.file_share_name,
            "readOnly": True,
            "storageAccountName": share.account_name,
            "storageAccountKey": f"[listKeys(resourceId({named}), '{_KEYS_API}').keys[0].value]",
        },
    }


def _volume_mount(name: str) -> dict[str, Any]:
    return {"name": block_name(name), "mountPath": str(NATIVE_ROOT / name), "readOnly": True}

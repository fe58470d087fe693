"""Which computes can have which kind of datastore in which way: one table, as data.

The documents, `prefect-datastores matrix` and the checks of what is defined all read it. What stands
in it is of three qualities, and `Compute.known` says which: run by the tests, checked against the
schema of Prefect's work pool, or taken from documents alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from prefect_datastores.errors import ConfigurationError

Way = Literal["download", "mount", "upload", "direct", "checkpoint"]
Kind = Literal["AzureBlob", "AzureDataLakeGen2", "AzureFile", "Local"]
Support = Literal["yes", "needs", "native", "no"]
Need = Literal["", "fuse", "folder", "fuse and folder"]

WAYS: tuple[Way, ...] = get_args(Way)
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Compute:
    """One place where work runs."""

    name: str
    title: str
    work_pool: str
    """The type of Prefect's work pool; "" where there is none."""
    flows: str
    """How a flow comes to run there."""
    known: Literal["run by the tests", "checked against the pool's schema", "from documents"]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """Whether one way works for one kind on one compute, and what it takes.

    "needs" works once the compute is given something, "native" is mounted by the compute itself, and
    so shows what is there now (`consistency="latest"`) instead of what was there first.
    """

    support: Support
    how: str
    """What it takes, or why it does not work; a sentence, or nothing where there is nothing to say."""
    need: Need = ""
    """What the job variables have to give."""
    native: bool = False
    """Whether the compute itself mounts it, where what is there now is wanted."""


@dataclass(frozen=True)
class Retired:
    """A compute of Azure ML's first SDK that is not offered, and what takes its place."""

    name: str
    title: str
    status: str
    successor: str
    """The compute here that takes its place; "" where no compute does."""
    instead: str
    """What to do, as the end of a sentence."""


_MICROSOFT = "https://learn.microsoft.com/azure"
COMPUTES: tuple[Compute, ...] = (
    Compute(
        "local",
        "This process",
        "",
        "the process that calls it",
        "run by the tests",
    ),
    Compute(
        "process",
        "Process pool, on a virtual machine",
        "process",
        "a worker on that machine starts a process for each",
        "run by the tests",
        ("https://docs.prefect.io/v3/concepts/workers",),
    ),
    Compute(
        "docker",
        "Docker",
        "docker",
        "a worker beside a Docker daemon starts a container for each",
        "checked against the pool's schema",
        (
            "https://docs.docker.com/reference/cli/docker/container/run/",
            "https://docs.prefect.io/integrations/prefect-docker",
        ),
    ),
    Compute(
        "kubernetes",
        "Kubernetes",
        "kubernetes",
        "a worker makes a job for each",
        "checked against the pool's schema",
        (
            "https://github.com/kubernetes-sigs/azurefile-csi-driver",
            "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/",
            "https://docs.prefect.io/integrations/prefect-kubernetes",
        ),
    ),
    Compute(
        "azure-container-instance",
        "Azure Container Instances",
        "azure-container-instance",
        "a worker makes a container group for each",
        "checked against the pool's schema",
        (
            f"{_MICROSOFT}/container-instances/container-instances-volume-azure-files",
            f"{_MICROSOFT}/container-instances/container-instances-confidential-overview",
            "https://docs.prefect.io/integrations/prefect-azure",
        ),
    ),
    Compute(
        "databricks",
        "Databricks",
        "",
        "a flow elsewhere submits a job (prefect-databricks), whose code opens the data itself",
        "from documents",
        (
            f"{_MICROSOFT}/databricks/connect/storage/azure-storage",
            f"{_MICROSOFT}/databricks/security/secrets/",
        ),
    ),
    Compute(
        "azure-batch",
        "Azure Batch",
        "",
        "a process worker is started on the pool's nodes, by their start task",
        "from documents",
        (f"{_MICROSOFT}/batch/virtual-file-mount",),
    ),
    Compute(
        "spark",
        "Spark (where HDInsight was)",
        "",
        "a flow elsewhere submits an application, whose code opens the data itself",
        "from documents",
        ("https://hadoop.apache.org/docs/stable/hadoop-azure/abfs.html",),
    ),
)

RETIRED: tuple[Retired, ...] = (
    Retired(
        "hdinsight",
        "HDInsight",
        "has been no compute of Azure ML since its first SDK, and on AKS was retired on 31 January 2025",
        "spark",
        "use compute_target='spark', or 'databricks'",
    ),
    Retired(
        "batchai",
        "Azure Batch AI",
        "is retired",
        "kubernetes",
        "use compute_target='kubernetes', or 'azure-batch'",
    ),
    Retired(
        "amlcompute",
        "Azure ML Compute",
        "belongs to an Azure ML workspace, and there is none here",
        "kubernetes",
        "use compute_target='kubernetes', 'azure-container-instance', or 'process' on a virtual machine",
    ),
    Retired(
        "remote",
        "A virtual machine attached to a workspace",
        "is a work pool here",
        "process",
        "use compute_target='process', with a worker on that machine",
    ),
    Retired(
        "datafactory",
        "Azure Data Factory (DataTransferStep)",
        "has been no compute of Azure ML since its first SDK",
        "process",
        "download and upload in one flow, with compute_target='process'; Data Factory itself moves data without a flow",
    ),
    Retired(
        "adla",
        "Azure Data Lake Analytics",
        "was retired on 29 February 2024",
        "spark",
        "use compute_target='spark', or 'databricks'",
    ),
)
_ALSO: Mapping[str, str] = {  # spellings, by their letters and digits alone
    "aci": "azure-container-instance",
    "containerinstance": "azure-container-instance",
    "azurecontainerinstances": "azure-container-instance",
    "aks": "kubernetes",
    "k8s": "kubernetes",
    "batch": "azure-batch",
    "synapsespark": "spark",
    "azurebatchai": "batchai",
    "amlcluster": "amlcompute",
    "azuremlcompute": "amlcompute",
    "remotecompute": "remote",
    "virtualmachine": "remote",
    "vm": "remote",
    "dsvm": "remote",
    "azuredatafactory": "datafactory",
    "datatransfer": "datafactory",
    "datalakeanalytics": "adla",
    "azuredatalakeanalytics": "adla",
}

# -- the cells --------------------------------------------------------------------------------------

_YES = Cell("yes", "")
_DIRECT = Cell("yes", "By `datastore.filesystem()`, which knows fsspec.")
_FUSE = Cell(
    "needs", "Linux with `/dev/fuse`, and `fusermount3` where the worker is not root (`fuse3`)."
)
_FUSE_DOCKER = Cell(
    "needs",
    "The FUSE device and the capability SYS_ADMIN, by the job variables; the host has to be Linux.",
    need="fuse",
)
_FUSE_KUBERNETES = Cell(
    "needs", "A privileged container, by the job variables and the pool's template.", need="fuse"
)
_SHARE_KUBERNETES = Cell(
    "needs",
    'A privileged container; with `consistency="latest"` the Azure Files CSI driver mounts the share, without privilege.',
    need="fuse",
    native=True,
)
_SHARE_INSTANCE = Cell(
    "native",
    'Azure mounts the share with `consistency="latest"`; it takes the account\'s key.',
    native=True,
)
_NO_FUSE_INSTANCE = Cell(
    "no",
    "its containers get no device, and privilege only in the confidential tier, which Prefect's worker does not ask for",
)
_FUSE_BATCH = Cell(
    "needs",
    "Linux nodes with `fuse3`, by the pool's start task; Batch itself can mount containers and shares as well.",
)
_FOLDER = Cell("yes", "A folder of that machine.")
_FOLDER_DOCKER = Cell(
    "needs", "The folder of the worker's machine as a volume, by the job variables.", need="folder"
)
_FUSE_FOLDER_DOCKER = Cell(
    "needs",
    "The folder as a volume, the FUSE device and SYS_ADMIN, by the job variables.",
    need="fuse and folder",
)
_FOLDER_AWAY = Cell("no", "the folder is on another machine")
_ABFS = Cell(
    "yes", "By its `abfss://` URI and the keys of the configuration: `direct(reference, ...)`."
)
_DRIVER = Cell(
    "needs",
    "This package on the driver; what is staged is on its disk alone, executors do not see it.",
)
_NO_FUSE_SPARK = Cell("no", "executors are machines of their own, and none of them has a mount")
_NO_SHARE_SPARK = Cell("no", "Hadoop has no file system for Azure Files")

# In the order of WAYS: download, mount, upload, direct. Checkpoints take what an upload takes.
_HERE = (_YES, _FUSE, _YES, _DIRECT)
_MACHINE: Mapping[Kind, tuple[Cell, ...]] = {
    "AzureBlob": _HERE,
    "AzureDataLakeGen2": _HERE,
    "AzureFile": _HERE,
    "Local": (_FOLDER, _FUSE, _FOLDER, _FOLDER),
}
_HADOOP: Mapping[Kind, tuple[Cell, ...]] = {
    "AzureBlob": (_DRIVER, _NO_FUSE_SPARK, _DRIVER, _ABFS),
    "AzureDataLakeGen2": (_DRIVER, _NO_FUSE_SPARK, _DRIVER, _ABFS),
    "AzureFile": (_DRIVER, _NO_FUSE_SPARK, _DRIVER, _NO_SHARE_SPARK),
    "Local": (_FOLDER_AWAY,) * 4,
}
_ROWS: Mapping[str, Mapping[Kind, tuple[Cell, ...]]] = {
    "local": _MACHINE,
    "process": _MACHINE,
    "docker": {
        "AzureBlob": (_YES, _FUSE_DOCKER, _YES, _DIRECT),
        "AzureDataLakeGen2": (_YES, _FUSE_DOCKER, _YES, _DIRECT),
        "AzureFile": (_YES, _FUSE_DOCKER, _YES, _DIRECT),
        "Local": (_FOLDER_DOCKER, _FUSE_FOLDER_DOCKER, _FOLDER_DOCKER, _FOLDER_DOCKER),
    },
    "kubernetes": {
        "AzureBlob": (_YES, _FUSE_KUBERNETES, _YES, _DIRECT),
        "AzureDataLakeGen2": (_YES, _FUSE_KUBERNETES, _YES, _DIRECT),
        "AzureFile": (_YES, _SHARE_KUBERNETES, _YES, _DIRECT),
        "Local": (_FOLDER_AWAY,) * 4,
    },
    "azure-container-instance": {
        "AzureBlob": (_YES, _NO_FUSE_INSTANCE, _YES, _DIRECT),
        "AzureDataLakeGen2": (_YES, _NO_FUSE_INSTANCE, _YES, _DIRECT),
        "AzureFile": (_YES, _SHARE_INSTANCE, _YES, _DIRECT),
        "Local": (_FOLDER_AWAY,) * 4,
    },
    "databricks": _HADOOP,
    "azure-batch": {
        "AzureBlob": (_YES, _FUSE_BATCH, _YES, _DIRECT),
        "AzureDataLakeGen2": (_YES, _FUSE_BATCH, _YES, _DIRECT),
        "AzureFile": (_YES, _FUSE_BATCH, _YES, _DIRECT),
        "Local": (_FOLDER_AWAY,) * 4,
    },
    "spark": _HADOOP,
}

MATRIX: Mapping[tuple[str, Kind, Way], Cell] = MappingProxyType(
    {
        (compute, kind, way): cell
        for compute, kinds in _ROWS.items()
        for kind, cells in kinds.items()
        for way, cell in zip(WAYS, (*cells, cells[WAYS.index("upload")]), strict=True)
    }
)
"""Every compute, kind and way, and what is to be said of the three together."""


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())


_BY_NAME = {_plain(compute.name): compute for compute in COMPUTES}
_RETIRED_BY_NAME = {retired.name: retired for retired in RETIRED}


def find_compute(name: Any) -> Compute:
    """Return a compute by its name, the type of its work pool, or another usual spelling.

    Raises:
        ConfigurationError: there is none; of one that Azure ML's first SDK had, what takes its place.
    """
    plain = _plain(name) if isinstance(name, str) else ""
    plain = _plain(_ALSO.get(plain, plain))
    if retired := _RETIRED_BY_NAME.get(plain):
        raise ConfigurationError(
            f"compute_target={name!r} is not available: {retired.title} {retired.status}. Instead, {retired.instead}."
        )
    if plain not in _BY_NAME:
        raise ConfigurationError(
            f"compute_target={name!r} is not available; there is {', '.join(repr(one.name) for one in COMPUTES)}. "
            "'local' is the process that runs the flow; a machine or a cluster is chosen by the work pool of a "
            "deployment."
        )
    return _BY_NAME[plain]


def ways_that_work(compute: Compute, kind: Kind) -> tuple[Way, ...]:
    """Return the ways in which a compute can have a kind of datastore, best first."""
    return tuple(way for way in WAYS if MATRIX[compute.name, kind, way].support != "no")


def takes_everything(compute: Compute) -> bool:
    """Tell whether nothing can be refused there, so that no kind has to be looked up."""
    return all(
        MATRIX[compute.name, kind, way].support in {"yes", "needs"}
        for kind in KINDS
        for way in WAYS
    )

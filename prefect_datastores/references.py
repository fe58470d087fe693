"""References: which part of which datastore, and how it reaches a script. Values, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from prefect_datastores.errors import ConfigurationError, DatastoreError, NameCollision
from prefect_datastores.forms import in_order
from prefect_datastores.names import (
    datastore_name,
    default_reference_name,
    globs,
    join,
    normal_path,
    reference_name,
)
from prefect_datastores.staging.checkpoint import Resume
from prefect_datastores.staging.plan import Overwrite, overwrite_rule

Mode = Literal["mount", "download", "upload", "checkpoint"]
When = Literal["success", "always", "failure"]
Publish = Literal["each", "atomic"]
Consistency = Literal["pinned", "latest"]
Fallback = Literal["", "download", "direct"]


class DataReference(BaseModel):
    """A place in a datastore and the way it is staged: frozen, JSON-able, free of secrets.

    `str(reference)` is `$AZUREML_DATAREFERENCE_<name>`, the variable that holds its path when a
    script runs. The name is the datastore's at the root, else made from datastore and path, and
    is the same every time. `path()` and `as_*()` return copies.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", title="Data reference", json_schema_extra=in_order
    )

    datastore: str = Field(title="Datastore", description="The name of a registered datastore.")
    path_on_datastore: str = Field(
        "", title="Path", description="A file or folder in it; empty for all of it."
    )
    mode: Mode = Field("mount", title="Mode", description="How the data reaches the script.")
    data_reference_name: str = Field(
        "", title="Name", description="Part of the script's variable; empty for the usual name."
    )
    path_on_compute: str = Field(
        "",
        title="Path on compute",
        description="Where the data is in the script's working directory; empty for a place of its own.",
    )
    overwrite: Overwrite = Field(
        "if_changed", title="Overwrite", description="What happens to files that exist already."
    )
    include: tuple[str, ...] = Field(
        (), title="Include", description="Globs of names to take; none for all."
    )
    exclude: tuple[str, ...] = Field(
        (), title="Exclude", description="Globs of names to leave out."
    )
    allow_empty: bool = Field(
        False, title="Allow empty", description="Whether nothing at all is fine."
    )
    when: When = Field(
        "success", title="When", description="After which outcome an upload is made."
    )
    fallback: Fallback = Field(
        "", title="Fallback", description="What a mount becomes where no mount can be had."
    )
    consistency: Consistency = Field(
        "pinned",
        title="Consistency",
        description="Whether a mount shows what it showed first, or what is there now.",
    )
    read_only: bool = Field(
        True,
        title="Read only",
        description="Whether a mount can be read only, or written to as well.",
    )
    cache: bool = Field(
        True,
        title="Cache",
        description="Whether a download may come from, and stays in, the cache.",
    )

    publish: Publish = Field(
        "each",
        title="Publish",
        description="Whether uploaded files are seen one by one, or a folder all at once.",
    )
    keep_times: bool = Field(
        False,
        title="Keep times",
        description="Whether files and objects get the times of last change that the others have.",
    )
    keep_properties: bool = Field(
        False,
        title="Keep properties",
        description="Whether attributes and access control of objects are kept, beside their content.",
    )
    require_digest: bool = Field(
        False,
        title="Require digest",
        description="Whether a download fails what the service holds no MD5 of.",
    )
    every: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        title="Every",
        description="Seconds between two looks at a folder of which checkpoints are made.",
    )
    resume: Resume = Field(
        "unfinished",
        title="Resume",
        description="Whether a run goes on with checkpoints of one that came to a good end.",
    )

    # A datastore that is not registered travels with its references, inside this process only.
    _unregistered: Any = PrivateAttr(default=None)

    @field_validator("datastore")
    @classmethod
    def _datastore_name(cls, value: str) -> str:
        return datastore_name(value)

    @field_validator("path_on_datastore")
    @classmethod
    def _normal_path(cls, value: str) -> str:
        return str(normal_path(value))

    @field_validator("data_reference_name")
    @classmethod
    def _reference_name(cls, value: str) -> str:
        return reference_name(value) if value else ""

    @field_validator("path_on_compute")
    @classmethod
    def _path_on_compute(cls, value: str) -> str:
        # An absolute path is the caller's own choice of place; a relative one stays where it is.
        place = value.rstrip("/") if value.startswith("/") else str(normal_path(value))
        if value and not place:
            raise ConfigurationError(
                f"path_on_compute={value!r} is refused: name a file or folder; leave it out for a place of its own."
            )
        return place

    @field_validator("overwrite", mode="before")
    @classmethod
    def _overwrite(cls, value: Any) -> Overwrite:
        return overwrite_rule(value)

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _globs(cls, value: Any) -> Any:
        return globs(value) if isinstance(value, str) else value

    @property
    def name(self) -> str:
        """The reference's name: valid in an environment variable, the same every time."""
        return self.data_reference_name or default_reference_name(
            self.datastore, self.path_on_datastore
        )

    @property
    def variable(self) -> str:
        """The environment variable of Azure ML that holds the path for the script."""
        return f"AZUREML_DATAREFERENCE_{self.name}"

    def variables(self) -> tuple[str, str]:
        """Return both variables that hold the path for the script."""
        return self.variable, f"DATASTORE_{self.name.upper()}"

    def __str__(self) -> str:
        """Give what stands for the path in arguments: `$AZUREML_DATAREFERENCE_<name>`."""
        return f"${self.variable}"

    @property
    def uri(self) -> str:
        """The place as people write it: `name:path`."""
        return f"{self.datastore}:{self.path_on_datastore}"

    def path(self, path: str, data_reference_name: str | None = None) -> DataReference:
        """Return a reference to `path` below this place, with the same options."""
        return self._copy(
            path_on_datastore=join(self.path_on_datastore, normal_path(path)),
            data_reference_name=data_reference_name or "",
        )

    def as_download(
        self,
        path_on_compute: str | None = None,
        overwrite: bool | str = "if_changed",
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        allow_empty: bool = False,
        cache: bool = True,
        keep_times: bool = False,
        keep_properties: bool = False,
        require_digest: bool = False,
    ) -> DataReference:
        """Return the reference as data that is downloaded before the script runs.

        Args:
            path_on_compute: where, relative to the script's working directory, or absolute.
            overwrite: what happens to files there: "fail", "skip", "replace" or "if_changed".
            include: globs of names to take, below the path; none takes all.
            exclude: globs of names to leave out.
            allow_empty: accept that nothing matches.
            cache: take what this machine has of an earlier download, and keep this one for later.
            keep_times: give files the times at which their objects were last changed.
            keep_properties: keep attributes and access control of each object with its file; an upload
                with `keep_properties` gives them to an object again. Of file shares, and of data lakes
                with a hierarchical namespace.
            require_digest: fail what the service holds no MD5 of, instead of checking its length alone.
        """
        return self._copy(
            mode="download",
            keep_times=keep_times,
            keep_properties=keep_properties,
            require_digest=require_digest,
            cache=cache,
            path_on_compute=path_on_compute or "",
            overwrite=overwrite,
            include=globs(include),
            exclude=globs(exclude),
            allow_empty=allow_empty,
        )

    def as_mount(
        self,
        *,
        fallback: Fallback | None = None,
        consistency: Consistency = "pinned",
        read_only: bool = True,
        cache: bool = True,
        allow_empty: bool = False,
    ) -> DataReference:
        """Return the reference as data that is mounted while the script runs.

        Nobody who has a file open sees two versions of it, whatever happens to the object.

        Args:
            fallback: what gives the same paths where no mount can be had: "download", or "direct" for a
                folder of this machine (`LocalDatastore`), which is given as it lies, without a copy: what is
                there now is seen, and who writes there writes to the datastore.
            consistency: "pinned" shows a folder as it was seen first, and a file that was changed
                since fails with ESTALE; "latest" shows, within a second, what is there now.
            read_only: False lets the script write: a file is stored whole when it is closed, over
                the version that was opened, and nothing has to be there before. It shows what it
                showed first, and has no fallback, as nobody would store what is written then.
            cache: take what this machine has of an earlier mount, and keep this one for later.
            allow_empty: accept that nothing is there.

        Raises:
            ConfigurationError: a mount that is written to is to have a fallback, or to be "latest".
        """
        if not read_only and (fallback or consistency == "latest"):
            raise ConfigurationError(
                f"{self.uri} cannot be mounted with read_only=False and "
                + (f"fallback={fallback!r}" if fallback else 'consistency="latest"')
                + ": leave one of the two out."
            )
        return self._copy(
            mode="mount",
            read_only=read_only,
            path_on_compute="",
            fallback=fallback or "",
            consistency=consistency,
            cache=cache,
            allow_empty=allow_empty,
        )

    def as_upload(
        self,
        path_on_compute: str | None = None,
        overwrite: bool | str = "if_changed",
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        allow_empty: bool = False,
        when: When = "success",
        publish: Publish = "each",
        keep_times: bool = False,
        keep_properties: bool = False,
    ) -> DataReference:
        """Return the reference as data that is uploaded after the script ran.

        Args:
            path_on_compute: the file or folder to upload, relative to the script's working
                directory, or absolute. None gives the script a folder of its own by variable.
            overwrite: what happens to objects there: "fail", "skip", "replace" or "if_changed".
            include: globs of names to take.
            exclude: globs of names to leave out.
            allow_empty: accept that there is nothing to upload.
            when: after "success", after "failure", or "always".
            publish: "each" file is seen when it is stored, or "atomic": a folder has all of the new
                content at once and nothing else, or what it had. A single file is seen at once anyway.
            keep_times: give objects the times at which their files were last changed; of file shares
                and local folders.
            keep_properties: give objects the attributes and access control that a download kept with
                their files; where there are none, those of the objects that they replace.
        """
        return self._copy(
            mode="upload",
            path_on_compute=path_on_compute or "",
            overwrite=overwrite,
            include=globs(include),
            exclude=globs(exclude),
            allow_empty=allow_empty,
            when=when,
            publish=publish,
            keep_times=keep_times,
            keep_properties=keep_properties,
        )

    def as_checkpoint(
        self,
        path_on_compute: str | None = None,
        *,
        every: float = 60.0,
        resume: Resume = "unfinished",
        exclude: str | Iterable[str] = (),
    ) -> DataReference:
        """Return the reference as a folder of which checkpoints are made while the script runs.

        Before the script the newest one is in the folder, whole; after it a last one is made, whatever its
        outcome. Each is of one moment, and readers of the place see it all at once.

        Args:
            path_on_compute: the folder, relative to the script's working directory, or absolute. None gives
                the script a folder of its own by variable.
            every: the seconds between two looks at the folder; what changed is stored.
            resume: "unfinished" begins with an empty folder where the run before came to a good end,
                "always" goes on all the same.
            exclude: globs of names that are no part of a checkpoint, beside `*.tmp` and `.~*`.

        Raises:
            ConfigurationError: `every` is no time, or `resume` none of the two.
        """
        return self._copy(
            mode="checkpoint",
            path_on_compute=path_on_compute or "",
            every=every,
            resume=resume,
            exclude=globs(exclude),
        )

    def __getstate__(self) -> dict[Any, Any]:
        """Leave a datastore that is not registered, and its secret, out of pickles."""
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {"_unregistered": None}}

    def _copy(self, **changes: Any) -> DataReference:
        copy = checked_reference({**self.model_dump(), **changes})
        copy._unregistered = self._unregistered  # noqa: SLF001 - a copy of the same class
        return copy


def checked_reference(values: dict[str, Any]) -> DataReference:
    """Make a reference; what is refused is said by this package's errors, not by pydantic's.

    Raises:
        UnsafeName: a path has a `..`, or a component that no store may see.
        ConfigurationError: a name or an option is refused.
    """
    try:
        return DataReference.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, DatastoreError):
            raise cause from None
        option = fault["loc"][0]
        raise ConfigurationError(
            f"{option}={fault['input']!r} is refused: {fault['msg']}."
        ) from None


def check_references(references: list[DataReference]) -> None:
    """Return when the references can stand side by side in one run.

    Raises:
        NameCollision: two have one name, and so one variable.
        ConfigurationError: two are to be written to one place, or have their checkpoints at one.
    """
    _check_checkpoints([item for item in references if item.mode == "checkpoint"])
    names: dict[str, DataReference] = {}
    places: dict[str, DataReference] = {}
    for reference in references:
        other = names.setdefault(reference.name.upper(), reference)
        if other is not reference and other != reference:
            raise NameCollision(
                f"Two references share the name {reference.name!r}: {_shown(other)} and {_shown(reference)}. Give one "
                "a name of its own: datastore.path(..., data_reference_name='...')."
            )
        if reference.path_on_compute and reference.mode != "upload":
            for place, other in places.items():
                if other != reference and _overlap(place, reference.path_on_compute):
                    raise ConfigurationError(
                        f"{_shown(other)} and {_shown(reference)} would lie in one another: at {place!r} and "
                        f"{reference.path_on_compute!r}."
                    )
            other = places.setdefault(reference.path_on_compute, reference)
            if other != reference:
                raise ConfigurationError(
                    f"{_shown(other)} and {_shown(reference)} would both be at {reference.path_on_compute!r}."
                )


def _check_checkpoints(references: list[DataReference]) -> None:
    for number, one in enumerate(references):
        for other in references[:number]:
            places = (one.path_on_datastore, other.path_on_datastore)
            if one.datastore == other.datastore and (
                "" in places or places[0] == places[1] or _overlap(*places)
            ):
                raise ConfigurationError(
                    f"{_shown(other)} and {_shown(one)} would have their checkpoints in one another; give each a folder "
                    "of its own."
                )


def _overlap(one: str, other: str) -> bool:
    return one != other and (one.startswith(f"{other}/") or other.startswith(f"{one}/"))


def _shown(reference: DataReference) -> str:
    return f"{reference.uri!r} as {reference.mode}"

"""The common parameters of all kinds of work: a folder, files, pools."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from surveyor.errors import InputError
from surveyor.models.choice import load_model
from surveyor.models.record import RECORD
from surveyor.parameters import Parameters
from surveyor.parameters.files import files_named
from surveyor.pools.choice import Pools
from surveyor.storage.buckets import Bucket, StorageName, StoreAddress

OutputDirectory = Annotated[
    Path,
    Field(
        title="Output directory",
        description="Folder of the results; the same call on the same folder continues where it stopped.",
    ),
]

LabelsField = Annotated[
    StoreAddress | None,
    Field(
        title="Label store",
        description="Folder of the label store, or a bucket such as s3://bucket/labels; by default `labels` beside the "
        "folder of the work.",
    ),
]
StorageField = Annotated[
    StorageName | None,
    Field(
        title="Storage",
        description="Block with the endpoint and credentials of the bucket of the label store, such as s3/minio; by "
        "default those in the environment of each process.",
    ),
]


class WorkParameters(Parameters):
    """Base of the parameters of work that has a folder of its own.

    Attributes:
        FOLDER: field that names this folder.
        FOLDERS: fields that name other folders; all other paths name files.
    """

    FOLDER: ClassVar[str] = "output_directory"
    FOLDERS: ClassVar[tuple[str, ...]] = ()

    @property
    def folder(self) -> Path:
        """The folder of the work."""
        folder: Path = getattr(self, self.FOLDER)
        return folder.absolute()

    @model_validator(mode="after")
    def _check_storage(self) -> "WorkParameters":
        block, store = self.storage_block, getattr(self, "labels", None)
        if block is None:
            return self
        if not isinstance(store, str):
            raise ValueError(f"storage: found {block}, expected a bucket in labels, such as s3://bucket/labels")
        if block.partition("/")[0] != (service := Bucket.at(store).service):
            raise ValueError(f"storage: found {block}, expected a block of kind {service} for {store}")
        return self

    @property
    def label_store(self) -> Path | str:
        """Folder or bucket of the label store, of work that labels."""
        labels: Path | str | None = getattr(self, "labels", None)
        return self.folder.parent / "labels" if labels is None else labels

    @property
    def storage_block(self) -> str | None:
        """Name of the block with the access to the bucket of the label store."""
        name: str | None = getattr(self, "storage", None)
        return name

    @property
    def keeps_labels(self) -> bool:
        """True for work that labels."""
        return "labels" in type(self).model_fields

    @property
    def written_folders(self) -> dict[str, Path]:
        """The folders that are written to, by the field that names them."""
        store = self.label_store
        stores = {"labels": store} if self.keeps_labels and isinstance(store, Path) else {}
        return {self.FOLDER: self.folder, **stores}

    @property
    def pool_of_stages(self) -> Pools:
        """The pools of the stages, all of which are the named pool."""
        name: str = getattr(self, "pool")  # noqa: B009 (a field of most kinds)
        return Pools(sampling=name, labelling=name, training=name)

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the path of the field."""
        return files_named(self, folders=(self.FOLDER, *self.FOLDERS))

    def recorded_files(self) -> dict[str, Path]:
        """Return the files whose contents define the work, by the path of the field."""
        return self.input_files()


def files_of_model(field: str, folder: Path) -> dict[str, Path]:
    """Return the files that stand for the folder of a saved model.

    Raises:
        InputError: it has no weights.
    """
    weights = load_model(folder).weights
    if weights is None or not weights.is_file():
        raise InputError(f"{field}: {folder} has no weights; give a folder that surveyor saved a model to")
    return {field: weights, f"{field}.record": folder / RECORD}

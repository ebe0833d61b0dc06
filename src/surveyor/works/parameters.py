"""What the parameters of all kinds of work have in common: a folder, files, pools."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from surveyor.errors import InputError
from surveyor.models.choice import load_model
from surveyor.models.record import RECORD
from surveyor.parameter_files import files_named
from surveyor.parameters import Parameters
from surveyor.pools.choice import Pools

OutputDirectory = Annotated[
    Path,
    Field(
        title="Output directory",
        description="Folder of the results; the same call on the same folder continues where it stopped.",
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

    @property
    def label_store(self) -> Path:
        """Folder of the label store, of work that labels."""
        labels: Path | None = getattr(self, "labels", None)
        return self.folder.parent / "labels" if labels is None else labels

    @property
    def written_folders(self) -> dict[str, Path]:
        """The folders that are written to, by the field that names them."""
        stores = {"labels": self.label_store} if "labels" in type(self).model_fields else {}
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
        """Return the files whose contents make the work what it is, by the path of the field."""
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

"""The parameters of a labelling as one value, and the file in which a user writes them."""

from pathlib import Path

from pydantic import Field

from surveyor.parameter_files import files_named, load_parameters
from surveyor.parameters import Parameters
from surveyor.pools.choice import EXPECTED, LOCAL, PoolName
from surveyor.reference.choice import Codes, ReferenceParameters


class LabellingParameters(Parameters):
    """All parameters of a labelling; its fields are the parameters of the flow `label_dataset`."""

    structures: Path = Field(
        title="Structures (file)",
        description="extxyz file, or any other format that ASE reads; labels in the file are ignored.",
    )
    output_directory: Path = Field(
        title="Output directory",
        description="Folder of the results; the same call on the same folder continues where it stopped.",
    )
    reference: ReferenceParameters = Field(title="Reference", description="The level of theory that labels structures.")
    pool: PoolName = Field(LOCAL, title="Pool", description=f"Pool that runs the reference: {EXPECTED}.")
    codes: Codes = Field(Codes(), title="Codes", description="Command and limits of reference programs at this site.")
    labels: Path | None = Field(
        None,
        title="Label store",
        description="Folder of the label store; by default `labels` beside the output directory.",
    )
    chunk_size: int | None = Field(
        None,
        ge=1,
        le=10_000,
        title="Structures per task",
        description="Number of structures that a task labels in sequence; by default 1 if each label runs a "
        "program, and otherwise up to 25.",
    )

    @property
    def label_store(self) -> Path:
        """Folder of the label store."""
        return self.output_directory.absolute().parent / "labels" if self.labels is None else self.labels

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the path of the field."""
        return files_named(self, folders=("output_directory", "labels", "codes.cp2k.data_directory"))


def load_labelling(path: Path) -> LabellingParameters:
    """Read a file of parameters (YAML); paths in it are relative to the folder it is in.

    Raises:
        InputError: the file is missing or is no YAML, or a field is wrong; then with each field, what was found and
            what is expected.
    """
    return load_parameters(LabellingParameters, path, "parameter file", "structures, output_directory and reference")

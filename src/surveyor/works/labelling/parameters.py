"""The parameters of a labelling as one value."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from surveyor.pools.choice import EXPECTED, LOCAL, PoolName
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.works.parameters import LabelsField, OutputDirectory, StorageField, WorkParameters


class LabellingParameters(WorkParameters):
    """All parameters of a labelling; its fields are the parameters of the flow `label_dataset`."""

    FOLDERS: ClassVar = ("labels", "codes.cp2k.data_directory")

    structures: Path = Field(
        title="Structures (file)",
        description="extxyz file, or any other format that ASE reads; labels in the file are ignored.",
    )
    output_directory: OutputDirectory
    reference: ReferenceParameters = Field(title="Reference", description="The level of theory that labels structures.")
    pool: PoolName = Field(LOCAL, title="Pool", description=f"Pool that runs the reference: {EXPECTED}.")
    codes: Codes = Field(Codes(), title="Codes", description="Command and limits of reference programs at this site.")
    labels: LabelsField = None
    storage: StorageField = None
    chunk_size: int | None = Field(
        None,
        ge=1,
        le=10_000,
        title="Structures per task",
        description="Number of structures that a task labels in sequence; by default 1 if each label runs a "
        "program, and otherwise up to 25.",
    )

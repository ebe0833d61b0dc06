"""The parameters of a campaign as one value."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from surveyor.learning.parameters import Bootstrap, Learning
from surveyor.models.choice import ModelParameters
from surveyor.parameters import Parameters
from surveyor.pools.choice import Pools
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.sampling.conditions import Walkers
from surveyor.selection import features_for
from surveyor.works.parameters import LabelsField, StorageField, WorkParameters


class WandB(Parameters):
    """Display of the campaign on Weights & Biases; needs the extra `wandb`."""

    project: str = Field("surveyor", min_length=1, title="Project", description="Project on Weights & Biases.")
    group: str | None = Field(
        None,
        title="Group",
        description="Group of the runs; by default the name of the run directory. One group can hold several "
        "campaigns.",
    )
    mode: Literal["online", "offline"] = Field(
        "offline",
        title="Mode",
        description="online sends data at once and needs an API key; offline writes them into the run directory, for "
        "`wandb sync`.",
    )


class Origin(Parameters):
    """The generation of another campaign from which a new one begins."""

    run_directory: Path = Field(title="Run directory", description="Folder of the other campaign.")
    generation: int = Field(
        ge=0, title="Generation", description="Number of one of its complete generations; 0 is the bootstrap."
    )


class CampaignParameters(WorkParameters):
    """All parameters of a campaign; its fields are the parameters of the flow `online_learning`."""

    FOLDER: ClassVar = "run_directory"
    FOLDERS: ClassVar = ("labels", "begin_from.run_directory", "codes.cp2k.data_directory")

    run_directory: Path = Field(
        title="Run directory", description="Folder of the campaign; the same call on the same folder continues it."
    )
    walkers: list[Walkers] = Field(
        min_length=1, title="Walkers", description="Groups of walkers, each with its own conditions."
    )
    reference: ReferenceParameters = Field(title="Reference", description="The level of theory that labels structures.")
    model: ModelParameters = Field(title="Model", description="The potential to train.")
    bootstrap: Bootstrap = Field(Bootstrap(), title="Bootstrap", description="Data of the first model.")
    learning: Learning = Field(
        Learning(), title="Learning", description="Generations, budget, targets, and decisions of the campaign."
    )
    pools: Pools = Field(Pools(), title="Pools", description="Pools that run sampling, labelling and training.")
    codes: Codes = Field(Codes(), title="Codes", description="Command and limits of reference programs at this site.")
    labels: LabelsField = None
    storage: StorageField = None
    begin_from: Origin | None = Field(
        None, title="Begin from", description="Take data, model and walkers from a generation of another campaign."
    )
    wandb: WandB | None = Field(None, title="Weights & Biases", description="Also report to Weights & Biases.")

    @property
    def features_for(self) -> str:
        """The setting that needs the features of the model; empty if none does."""
        return features_for("learning.select", [self.learning.select])

    @property
    def pool_of_stages(self) -> Pools:
        """The pool of each stage."""
        return self.pools

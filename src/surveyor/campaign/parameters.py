"""The parameters of a campaign as one value."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from surveyor.learning import Bootstrap, Learning
from surveyor.models.choice import ModelParameters
from surveyor.parameters import Parameters
from surveyor.pools.choice import Pools
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.sampling.conditions import Walkers
from surveyor.works.parameters import WorkParameters


class WandB(Parameters):
    """Where Weights & Biases shows the campaign; needs the extra `wandb`."""

    project: str = Field("surveyor", min_length=1, title="Project", description="Project on Weights & Biases.")
    group: str | None = Field(None, title="Group", description="Group of the run, to show several campaigns together.")
    mode: Literal["online", "offline"] = Field(
        "offline", title="Mode", description="offline: written beside the campaign, to be sent later by `wandb sync`."
    )


class Origin(Parameters):
    """The generation of another campaign from which a new one begins."""

    run_directory: Path = Field(title="Run directory", description="Folder of the other campaign.")
    generation: int = Field(
        ge=0, title="Generation", description="Number of a complete generation of it; 0 is its bootstrap."
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
    model: ModelParameters = Field(title="Model", description="The potential that is trained.")
    bootstrap: Bootstrap = Field(Bootstrap(), title="Bootstrap", description="From what the first model is trained.")
    learning: Learning = Field(Learning(), title="Learning", description="How the campaign learns, and when it ends.")
    pools: Pools = Field(Pools(), title="Pools", description="Where sampling, labelling and training run.")
    codes: Codes = Field(Codes(), title="Codes", description="How reference programs are run at this site.")
    labels: Path | None = Field(
        None,
        title="Label store",
        description="Folder of the label store; by default `labels` beside the run directory.",
    )
    begin_from: Origin | None = Field(
        None, title="Begin from", description="Take data, model and walkers from a generation of another campaign."
    )
    wandb: WandB | None = Field(None, title="Weights & Biases", description="Report there, too.")

    @property
    def pool_of_stages(self) -> Pools:
        """Where each stage runs."""
        return self.pools

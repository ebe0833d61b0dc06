"""The parameters of a campaign as one value, and the file in which a user writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surveyor.learning import Bootstrap, Learning
from surveyor.models.choice import ModelParameters
from surveyor.parameter_files import files_named, load_parameters, parse_parameters
from surveyor.parameters import Parameters
from surveyor.pools.choice import Pools
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.sampling.conditions import Walkers


class WandB(Parameters):
    """Where Weights & Biases shows the campaign; needs the extra `wandb`."""

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


class CampaignParameters(Parameters):
    """All parameters of a campaign; its fields are the parameters of the flow `online_learning`."""

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
    labels: Path | None = Field(
        None,
        title="Label store",
        description="Folder of the label store; by default `labels` beside the run directory.",
    )
    begin_from: Origin | None = Field(
        None, title="Begin from", description="Take data, model and walkers from a generation of another campaign."
    )
    wandb: WandB | None = Field(None, title="Weights & Biases", description="Also report to Weights & Biases.")

    @property
    def label_store(self) -> Path:
        """Folder of the label store."""
        return self.run_directory.absolute().parent / "labels" if self.labels is None else self.labels

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the path of the field."""
        others = ("run_directory", "labels", "begin_from.run_directory", "codes.cp2k.data_directory")
        return files_named(self, folders=others)


def load_campaign(path: Path) -> CampaignParameters:
    """Read a campaign file (YAML); paths in it are relative to the folder it is in.

    Raises:
        InputError: the file is missing or is no YAML, or a field is wrong; then with each field, what was found and
            what is expected.
    """
    return load_parameters(CampaignParameters, path, "campaign file", "walkers, reference and model")


def parse_campaign(content: Mapping[str, Any], name: str) -> CampaignParameters:  # Any: what YAML holds
    """Return the parameters in a mapping.

    Args:
        content: fields and values.
        name: what to call it in messages.

    Raises:
        InputError: a field is wrong.
    """
    return parse_parameters(CampaignParameters, content, name)

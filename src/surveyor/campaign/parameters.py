"""The parameters of a campaign as one value, and the file in which a user writes them."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from surveyor.errors import InputError
from surveyor.learning import Bootstrap, Learning
from surveyor.models.choice import ModelParameters
from surveyor.parameters import Parameters
from surveyor.pools.choice import Pools
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.sampling.walkers import Walkers


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


class CampaignParameters(Parameters):
    """All parameters of a campaign; its fields are the parameters of the flow `online_learning`."""

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
    def label_store(self) -> Path:
        """Folder of the label store."""
        return self.run_directory.absolute().parent / "labels" if self.labels is None else self.labels

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the dotted name of the field."""
        others = ("run_directory", "labels", "begin_from.run_directory", "codes.cp2k.data_directory")
        values = flat(self.model_dump(mode="python"))
        return {name: value for name, value in values.items() if isinstance(value, Path) and name not in others}


def load_campaign(path: Path) -> CampaignParameters:
    """Read a campaign file (YAML); paths in it are relative to the folder it is in.

    Raises:
        InputError: the file is missing or is no YAML, or a field is wrong; then with each field, what was found and
            what is expected.
    """
    if not path.is_file():
        raise InputError(f"campaign file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected fields such as walkers, reference and model")
    return absolute_paths(parse_campaign(content, str(path)), path.absolute().parent)


def parse_campaign(content: Mapping[str, Any], name: str) -> CampaignParameters:  # Any: what YAML holds
    """Return the parameters in a mapping.

    Args:
        content: fields and values.
        name: what to call it in messages.

    Raises:
        InputError: a field is wrong.
    """
    try:
        return CampaignParameters.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_complaint(each)}" for each in error.errors()]
        raise InputError("\n".join([f"{name} has {len(lines)} wrong field(s):", *lines])) from error


def _complaint(error: ErrorDetails) -> str:
    """Return the dotted name of a field, what is wrong with it, what was found, and which fields there are."""
    *parents, name = error["loc"] or ("",)
    complaint = f"{'.'.join(map(str, error['loc']))}: {error['msg']} (found {shown(error['input'])})"
    if error["type"] != "extra_forbidden":
        return complaint
    known = _fields_of(CampaignParameters, parents)
    guesses = get_close_matches(str(name), known, n=1)
    advice = f"did you mean {guesses[0]}?" if guesses else f"leave it out; there are {', '.join(known)}"
    return f"{complaint}; {advice}"


def _fields_of(kind: type[BaseModel], names: Sequence[int | str]) -> list[str]:
    """Return the fields of the model that is reached from another by names of fields and indices of lists."""
    for name in names:
        if isinstance(name, str):
            kind = _model_in(kind.model_fields[name].annotation) or kind
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:  # Any: a type, such as list[Walkers] or WandB | None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for each in get_args(annotation) if (model := _model_in(each))), None)


def shown(value: Any) -> str:  # Any: what the user wrote
    """Return a value as a message shows it, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def absolute_paths(parameters: CampaignParameters, folder: Path) -> CampaignParameters:
    """Return the parameters with every relative path taken as relative to a folder."""
    return with_paths(parameters, lambda path: (folder / path.expanduser()).resolve())


def with_paths(parameters: CampaignParameters, change: Callable[[Path], Path]) -> CampaignParameters:
    """Return the parameters with every path changed."""

    def changed(value: Any) -> Any:  # Any: whatever parameters hold
        if isinstance(value, Path):
            return change(value)
        if isinstance(value, dict):
            return {name: changed(each) for name, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list | tuple) else value

    return CampaignParameters.model_validate(changed(parameters.model_dump(mode="python")))


def flat(value: Any, name: str = "") -> dict[str, Any]:  # Any: whatever parameters hold
    """Return nested values by the dotted names of their fields."""
    if isinstance(value, Mapping) and value:
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list | tuple) and value:
        items = list(enumerate(value))
    else:
        return {name: value}
    values: dict[str, Any] = {}
    for key, each in items:
        values |= flat(each, f"{name}.{key}" if name else str(key))
    return values

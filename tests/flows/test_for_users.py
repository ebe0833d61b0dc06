"""What the flows share that users start."""

from typing import Any

import pytest
from prefect import Flow

from surveyor.campaign import CampaignParameters
from surveyor.exploration import ExplorationParameters
from surveyor.flows.label_dataset import label_dataset
from surveyor.flows.online_learning import online_learning
from surveyor.flows.sample_walkers import sample_walkers
from surveyor.flows.train_model import train_model
from surveyor.labelling import LabellingParameters
from surveyor.parameters import Parameters
from surveyor.training import TrainingParameters

FLOWS = [
    (online_learning, CampaignParameters),
    (label_dataset, LabellingParameters),
    (train_model, TrainingParameters),
    (sample_walkers, ExplorationParameters),
]


@pytest.mark.parametrize(("flow", "kind"), FLOWS)
def test_fields_of_a_form_have_the_titles_of_the_parameters(flow: Flow[..., Any], kind: type[Parameters]) -> None:
    schema = flow.parameters

    def title(field: dict[str, Any]) -> str:
        return field["title"] if "title" in field else schema.definitions[field["$ref"].rpartition("/")[2]]["title"]

    shown = {name: title(field) for name, field in schema.properties.items()}
    assert shown == {name: field.title for name, field in kind.model_fields.items()}


def test_fields_of_a_form_have_the_bounds_of_the_parameters() -> None:
    assert label_dataset.parameters.properties["chunk_size"]["anyOf"][0]["minimum"] == 1
    assert online_learning.parameters.properties["walkers"]["minItems"] == 1

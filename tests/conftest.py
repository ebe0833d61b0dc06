import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.cluster import Icosahedron

from surveyor.campaign import CampaignParameters, installed_versions
from surveyor.dataset import KEY, Dataset, DataSets, with_label
from surveyor.evaluation import evaluate_dataset, load_predictions
from surveyor.files import write_json
from surveyor.labels import LabelFailure, LabelStore, label_key, save_theory
from surveyor.learning import decide_membership, structure_error
from surveyor.metrics import errors_of
from surveyor.models.pair import PairModel, PairParameters
from surveyor.outcomes import Outcome, describe, move_on
from surveyor.potentials import Potential
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import label_structure
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Walker, make_walkers

N_GENERATIONS = 3

# What a marker needs, and how to get it.
REQUIREMENTS = {
    "mace": (lambda: find_spec("mace"), 'mace-torch: pip install "surveyor[mace]"'),
    "xtb": (lambda: find_spec("tblite"), 'tblite: pip install "surveyor[xtb]"'),
    "wandb": (lambda: find_spec("wandb"), 'wandb: pip install "surveyor[wandb]"'),
    "cp2k": (lambda: shutil.which("cp2k.psmp"), "CP2K: apt-get install cp2k openmpi-bin"),
    "browser": (lambda: shutil.which("chromedriver"), "Chromium: apt-get install chromium chromium-driver"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, (is_there, remedy) in REQUIREMENTS.items():
        if item.get_closest_marker(name) and not is_there():
            # In CI a skip would hide a missing installation step.
            report = pytest.fail if os.environ.get("SURVEYOR_TEST_EVERYTHING") else pytest.skip
            report(f"needs {remedy}")


class SmallCampaign:
    """A campaign in plain Python: copper clusters and bulk copper, EMT, the pair model, four walkers at 600 K.

    In each generation the label of the first walker's structure fails.
    """

    def __init__(self, folder: Path) -> None:
        ase.io.write(folder / "starts.extxyz", [Icosahedron("Cu", 2), bulk("Cu", cubic=True) * (2, 1, 1)])
        walkers = {
            "start": folder / "starts.extxyz",
            "n_walkers": 4,
            "temperature_K": 600,
            "timestep_fs": 4,
            "n_steps": 40,
        }
        learning = {"n_generations": N_GENERATIONS, "reset_forces_meV_per_A": 60, "discard_forces_meV_per_A": 5000}
        self.parameters = CampaignParameters.model_validate(
            {
                "run_directory": folder / "copper & <sons>",
                "walkers": [walkers],
                "reference": {"emt": {}},
                "model": {"pair": {}},
                "learning": learning | {"discard_energy_meV_per_atom": 5000},
            }
        )
        self.reference, self.directory = EMTReference(), RunDirectory(self.parameters.run_directory)
        self.theory = self.reference.resolve()
        self.store = LabelStore.in_folder(folder / "labels")

    def run(self) -> RunDirectory:
        """Run the whole campaign."""
        self._begin()
        walkers = make_walkers(self.parameters.walkers, self.parameters.learning.seed)
        generator = np.random.default_rng(0)
        starts = [
            perturb(walker.start, amplitude_A=0.1, amplitude_strain=0.05, generator=generator) for walker in walkers * 5
        ]
        outcomes = [Outcome(f"g000-{i:03d}", None, self._label(atoms)) for i, atoms in enumerate(starts)]
        generation = self._learn(0, outcomes, DataSets(), walkers, None)
        for number in range(1, N_GENERATIONS + 1):
            generation = self._learn(number, self._sample(generation), generation.data, generation.walkers, generation)
        self._compare(generation)
        self.directory.events.append("campaign_complete", reason="all generations are complete")
        return self.directory

    def _begin(self) -> None:
        directory = self.directory
        parameters = self.parameters.model_dump(mode="json")
        write_json(directory.parameters, {"schema_version": 1, "parameters": parameters, "files": {}})
        run = {"begin": "2026-01-01T12:00:00+0000", "host": "node1", "python": "3.11", "versions": installed_versions()}
        write_json(directory.provenance, {"schema_version": 1, "runs": [run]})
        save_theory(directory.theory, self.theory)
        write_json(directory.atomic_energies, {"schema_version": 1, "energies_eV": {"Cu": 3.51}})
        directory.events.append("campaign_begins")

    def _label(self, atoms: Atoms, *, fails: bool = False) -> Atoms:
        key = label_key(atoms, self.theory)
        outcome = label_structure(atoms, self.reference, self.theory, self.store, self.directory.scratch)
        return with_label(atoms, key, LabelFailure("scf_not_converged", "did not converge") if fails else outcome)

    def _sample(self, generation: Generation) -> list[Outcome]:
        number, potential = generation.number + 1, generation.model.deploy()
        samples = self.directory.generation(number).samples
        names = [f"g{number:03d}-w{walker.index:03d}-0" for walker in generation.walkers]
        outcomes = []
        for name, walker in zip(names, generation.walkers, strict=True):
            sample = propagate(walker, potential, directory=samples, name=name)
            labelled = None if sample.structure is None else self._label(sample.structure, fails=walker.index == 0)
            outcomes.append(Outcome(name, sample, labelled))
        return outcomes

    def _learn(
        self,
        number: int,
        outcomes: Sequence[Outcome],
        data: DataSets,
        walkers: tuple[Walker, ...],
        former: Generation | None,
    ) -> Generation:
        learning, directory = self.parameters.learning, self.directory.generation(number)
        structures = Dataset(each.structure for each in outcomes if each.structure is not None).ordered_by_key()
        labelled = structures.labelled()
        predictions = former.model.deploy().evaluate(labelled) if former else []
        errors = {
            str(atoms.info[KEY]): structure_error(atoms, each)
            for atoms, each in zip(labelled, predictions, strict=False)
        }
        data = data + decide_membership(structures, errors, data, learning)
        data.save(directory.path)
        model = PairModel(PairParameters(n_basis=8)).initialize(data.train, atomic_energies=None, seed=0)
        model, history = model.train(data.train, data.valid, directory.training)
        model.save(directory.model)
        details = describe(outcomes, structures, errors, [asdict(epoch) for epoch in history], learning)
        times = {"sampling": 1.5, "labelling": 2.0 + number, "evaluation": 0.5, "training": 3.0}
        return self.directory.complete_generation(
            Generation(
                number=number,
                data=data,
                walkers=move_on(walkers, outcomes, errors, learning),
                model=model,
                before_training=errors_of(labelled, predictions) if former else errors_of([], []),
                errors={name: self._errors(number, name, model.deploy()) for name in ("train", "valid", "test")},
                details={**details, "wall_time_s": times},
            )
        )

    def _errors(self, number: int, name: str, potential: Potential) -> object:
        directory = self.directory.generation(number)
        file = evaluate_dataset(potential, directory.set_file(name), directory.predictions(name))
        structures = Dataset.load(directory.set_file(name))
        return errors_of(structures, load_predictions(file, structures))

    def _compare(self, last: Generation) -> None:
        test, errors = last.data.test, {}
        for number in range(last.number + 1):
            model = PairModel(
                PairParameters(n_basis=8),
                last.model.atomic_energies,
                weights=self.directory.generation(number).model / "pair.npz",
            )
            errors[str(number)] = errors_of(test, model.deploy().evaluate(test)).to_dict()
        record = {"schema_version": 1, "test_set": "0" * 64, "n_structures": len(test), "errors": errors}
        write_json(self.directory.comparison, record)


@pytest.fixture(scope="session")
def finished_campaign(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A complete campaign, made once and not to be changed."""
    return SmallCampaign(tmp_path_factory.mktemp("campaign")).run()


@pytest.fixture
def campaign_on_disk(finished_campaign: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of a complete campaign, which a test may change."""
    return RunDirectory(Path(shutil.copytree(finished_campaign.path, tmp_path / finished_campaign.path.name)))

"""A campaign in plain Python, small and whole, for tests of what is read from a run directory."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.cluster import Icosahedron

from surveyor.dataset import Dataset, DataSets, with_label
from surveyor.dataset.evaluation import evaluate_dataset, load_predictions
from surveyor.dataset.metrics import Errors, errors_of, structure_errors
from surveyor.events.kinds import CampaignBegins, CampaignComplete
from surveyor.files import write_json
from surveyor.labels import LabelFailure, LabelStore, label_key, save_theory
from surveyor.learning.decisions import decide_membership
from surveyor.learning.examination import examine
from surveyor.learning.labelled_samples import LabelledSample, describe, move_on
from surveyor.models.choice import make_model
from surveyor.models.model import Model
from surveyor.potentials import Potential, Prediction
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Walker, make_walkers
from surveyor.works.campaign import CampaignParameters
from surveyor.works.provenance import installed_versions

ATOMIC_ENERGIES = {"Cu": 3.51}  # eV, EMT
WALL_TIMES_S = {"sampling": 1.5, "labelling": 2.0, "evaluation": 0.5, "training": 3.0}


class SmallCampaign:
    """Copper by EMT: a cluster and the bulk, the pair model, four walkers, three generations.

    In each of them the label of the first walker's structure fails. The name of the run directory needs escaping.

    Args:
        folder: an empty one; the run directory is made in it.
    """

    def __init__(self, folder: Path) -> None:
        starts = folder / "starts.extxyz"
        ase.io.write(starts, [Icosahedron("Cu", 2), bulk("Cu", cubic=True) * (2, 1, 1)])
        walkers = {"start": starts, "n_walkers": 4, "temperature_K": 600, "timestep_fs": 4, "n_steps": 40}
        learning = {
            "n_generations": 3,
            "reset_energy_meV_per_atom": 5000,
            "reset_forces_meV_per_A": 300,
            "discard_energy_meV_per_atom": 5000,
            "discard_forces_meV_per_A": 5000,
        }
        self.parameters = CampaignParameters.model_validate(
            {
                "run_directory": folder / "copper & <sons>",
                "walkers": [walkers],
                "reference": {"emt": {}},
                "model": {"pair": {"n_basis": 8}},
                "learning": learning,
            }
        )
        self.reference, self.directory = EMTReference(), RunDirectory(self.parameters.run_directory)
        self.theory, self.store = self.reference.resolve(), LabelStore.in_folder(folder / "labels")

    def run(self) -> RunDirectory:
        """Run the whole campaign."""
        self._begin()
        walkers = make_walkers(self.parameters.walkers, self.parameters.learning.seed)
        generation = self._learn(0, self._perturbed(walkers), walkers, None)
        for number in range(1, self.parameters.learning.n_generations + 1):
            generation = self._learn(number, self._sampled(generation), generation.walkers, generation)
        self._compare(generation)
        self.directory.events.append(CampaignComplete(reason="all 3 generations are complete"))
        return self.directory

    def _begin(self) -> None:
        directory = self.directory
        parameters = self.parameters.model_dump(mode="json")
        write_json(directory.parameters, {"schema_version": 1, "parameters": parameters, "files": {}})
        run = {"begin": "2026-01-01T12:00:00+0000", "host": "node1", "python": "3.11", "versions": installed_versions()}
        write_json(directory.provenance, {"schema_version": 1, "runs": [run]})
        save_theory(directory.theory, self.theory)
        write_json(directory.atomic_energies, {"schema_version": 1, "energies_eV": ATOMIC_ENERGIES})
        directory.events.append(CampaignBegins())

    def _perturbed(self, walkers: Sequence[Walker]) -> list[LabelledSample]:
        generator = np.random.default_rng(0)
        starts = [
            perturb(walker.start, amplitude_A=0.1, amplitude_strain=0.05, generator=generator)
            for walker in [*walkers] * 5
        ]
        return [LabelledSample(f"g000-{index:03d}", None, self._label(atoms)) for index, atoms in enumerate(starts)]

    def _sampled(self, generation: Generation) -> list[LabelledSample]:
        number, potential = generation.number + 1, generation.model.deploy()
        folder, samples = self.directory.generation(number).samples, []
        for walker in generation.walkers:
            name = f"g{number:03d}-w{walker.index:03d}-0"
            sample = propagate(walker, potential, directory=folder, name=name)
            assert sample.structure is not None
            samples.append(LabelledSample(name, sample, self._label(sample.structure, fails=walker.index == 0)))
        return samples

    def _label(self, atoms: Atoms, *, fails: bool = False) -> Atoms:
        key = label_key(atoms, self.theory)
        outcome = label_structure(atoms, Labeller(self.reference, self.theory, self.store, self.directory.scratch))
        return with_label(atoms, key, LabelFailure("scf_not_converged", "did not converge") if fails else outcome)

    def _learn(
        self, number: int, samples: list[LabelledSample], walkers: tuple[Walker, ...], former: Generation | None
    ) -> Generation:
        learning, directory = self.parameters.learning, self.directory.generation(number)
        structures = Dataset(each.structure for each in samples if each.structure is not None).ordered_by_key()
        before, predictions = self._before_training(structures.labelled(), former)
        errors = structure_errors(structures.labelled(), predictions) if former else {}
        old = former.data if former else DataSets()
        data = old + decide_membership(structures, errors, old, learning)
        data.save(directory.path)
        model: Model = make_model(self.parameters.model)
        model = model.initialize(data.train, atomic_energies=ATOMIC_ENERGIES, seed=0)
        model, history = model.train(data.train, data.valid, directory.training)
        model.save(directory.model)
        details = describe(samples, structures, errors, [asdict(epoch) for epoch in history], learning)
        if former:
            by_key = dict(zip(structures.labelled().keys(), predictions, strict=True))
            details |= examine(structures, data, by_key, samples, self.parameters.walkers)
        moved = move_on(walkers, samples, errors, learning)
        self.directory.save_walkers(number, moved)
        return self.directory.complete_generation(
            Generation(
                number=number,
                data=data,
                walkers=moved,
                model=model,
                before_training=before,
                errors={name: self._evaluate(number, name, model.deploy()) for name in ("train", "valid", "test")},
                details={**details, "wall_time_s": WALL_TIMES_S},
            )
        )

    def _before_training(self, labelled: Dataset, former: Generation | None) -> tuple[Errors, list[Prediction]]:
        if former is None:
            return Errors(), []
        predictions = former.model.deploy().evaluate(labelled)
        return errors_of(labelled, predictions), predictions

    def _evaluate(self, number: int, name: str, potential: Potential) -> Errors:
        directory = self.directory.generation(number)
        file = evaluate_dataset(potential, directory.set_file(name), directory.predictions(name))
        structures = Dataset.load(directory.set_file(name))
        return errors_of(structures, load_predictions(file, structures))

    def _compare(self, last: Generation) -> None:
        walkers = make_walkers(self.parameters.walkers, self.parameters.learning.seed)
        test, errors = last.data.test, {}
        for number in range(last.number + 1):
            potential = self.directory.load_generation(number, walkers).model.deploy()
            errors[str(number)] = errors_of(test, potential.evaluate(test)).to_dict()
        record = {"schema_version": 1, "test_set": "0" * 64, "n_structures": len(test), "errors": errors}
        write_json(self.directory.comparison, record)

"""The selectors on real, small models: what they choose, and what their choice must not depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from metals import labelled, metals

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.models.choice import CommitteeParameters, MemberParameters, ModelParameters, make_model
from surveyor.models.committee import CommitteeModel, CommitteePotential
from surveyor.models.mace import MACEModel, MACEPotential
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.pair import PairModel, PairParameters, PairPotential
from surveyor.potentials import Prediction
from surveyor.selection import SELECTORS, Chosen, check_selector, choose, informative, selection
from surveyor.testing.calculators import CalculatorPotential

needs_mace = pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
PAIR = PairParameters(n_basis=4)
TINY = MACEParameters(
    r_max_A=4.0,
    num_channels=4,
    max_L=1,
    correlation=2,
    max_num_epochs=6,
    batch_size=4,
    lr=0.03,
    device="cpu",
    options={"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
)
ENERGIES = {"Cu": -0.01, "Au": -0.02}


def copper(n_structures: int, seed: int) -> Dataset:
    """Perturbed crystals of copper."""
    generator = np.random.default_rng(seed)
    structures = [bulk("Cu", cubic=True) for _ in range(n_structures)]
    for atoms in structures:
        atoms.positions += generator.normal(0, 0.1, atoms.positions.shape)
    return Dataset(labelled(atoms, 1000 * seed + number) for number, atoms in enumerate(structures))


def named(structures: Dataset) -> dict[str, Atoms]:
    return {f"g001-w{index:03d}-0": atoms for index, atoms in enumerate(structures)}


def gold_in(atoms: Atoms) -> Atoms:
    other = atoms.copy()
    other.symbols[0] = "Au"
    return other


@pytest.fixture(scope="module")
def candidates() -> dict[str, Atoms]:
    return named(metals(30, seed=2))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairPotential:
    train, valid = metals(12, seed=0), metals(6, seed=1)
    model = PairModel(PAIR).initialize(train, atomic_energies=None, seed=0)
    model, _ = model.train(train, valid, tmp_path_factory.mktemp("pair"))
    model.compute_posterior(train, valid)
    return model.deploy()


@pytest.fixture(scope="module")
def mace(tmp_path_factory: pytest.TempPathFactory) -> MACEPotential:
    """A network that knows gold, but has learned from copper alone."""
    train, valid = copper(12, seed=1), copper(4, seed=2)
    model = MACEModel(TINY).initialize(train, atomic_energies=ENERGIES, seed=0)
    model, _ = model.train(train, valid, tmp_path_factory.mktemp("mace"))
    model.compute_posterior(train, valid)
    return model.deploy()


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> CommitteePotential:
    train, valid = copper(12, seed=1), copper(4, seed=2)
    parameters = CommitteeParameters(n_members=2, member=MemberParameters(mace=TINY))
    model = make_model(ModelParameters(committee=parameters)).initialize(train, atomic_energies=ENERGIES, seed=0)
    assert isinstance(model, CommitteeModel)
    return model.train(train, valid, tmp_path_factory.mktemp("committee"))[0].deploy()


def names_of(found: tuple[Chosen, ...]) -> list[str]:
    return [each.name for each in found]


def test_walkers_brings_ends_in_the_order_of_names_and_frames_after_them() -> None:
    names = ["g002-w001-0", "g002-w000-0-step-20", "g002-w000-1", "g002-w000-0"]
    structures = {name: Atoms("H") for name in names}
    found = choose("walkers", None, structures, [], 9, seed=0)
    assert found == tuple(map(Chosen, ["g002-w000-0", "g002-w000-1", "g002-w001-0", "g002-w000-0-step-20"]))
    assert choose("walkers", None, structures, [], 2, seed=5) == found[:2]


def test_random_draws_uniformly_and_by_seed_alone() -> None:
    structures = {f"g001-w{index:03d}-0": Atoms("H") for index in range(10)}
    drawn = [names_of(choose("random", None, structures, [], 3, seed=seed)) for seed in range(2000)]
    assert choose("random", None, structures, [], 3, seed=7) == tuple(map(Chosen, drawn[7]))
    for place in range(3):
        counts = [sum(each[place] == name for each in drawn) for name in structures]
        assert 150 < min(counts) <= max(counts) < 250  # 200 expected; 50 are 3.7 standard deviations
    without = {name: atoms for name, atoms in structures.items() if name != drawn[0][1]}
    assert names_of(choose("random", None, without, [], 2, seed=0)) == [drawn[0][0], drawn[0][2]]


@pytest.mark.parametrize("selector", SELECTORS)
def test_nothing_is_chosen_from_nothing(selector: str) -> None:
    assert choose(selector, None, {}, [], 3, seed=0) == ()
    assert choose(selector, None, {"g001-w000-0": Atoms("H")}, [], 0, seed=0) == ()


def test_a_selector_of_another_name_is_refused() -> None:
    expected = "select: found 'variance', expected one of walkers, random, informative, committee, farthest"
    with pytest.raises(InputError, match=expected):
        choose("variance", None, {}, [], 1, seed=0)
    with pytest.raises(InputError, match=expected):
        check_selector("variance", ModelParameters(pair=PAIR))


@pytest.mark.parametrize("selector", ["informative", "farthest"])
class TestOfSingleModels:
    """Properties that both selectors with a single model share, on the pair model."""

    def test_all_are_chosen_if_there_are_no_more(
        self, selector: str, pair: PairPotential, candidates: Mapping[str, Atoms]
    ) -> None:
        few = dict([*candidates.items()][:3])
        assert {*names_of(choose(selector, pair, few, [], 5, seed=0))} == {*few}

    def test_the_choice_does_not_depend_on_the_order_of_candidates(
        self, selector: str, pair: PairPotential, candidates: Mapping[str, Atoms]
    ) -> None:
        found = choose(selector, pair, candidates, [], 5, seed=0)
        backwards = dict(reversed([*candidates.items()]))
        assert choose(selector, pair, backwards, [], 5, seed=0) == found
        assert len({*found}) == 5

    def test_fewer_are_the_first_ones_of_more(
        self, selector: str, pair: PairPotential, candidates: Mapping[str, Atoms], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(informative, "SHORTLIST", 100)
        assert (
            choose(selector, pair, candidates, [], 3, seed=0) == choose(selector, pair, candidates, [], 9, seed=0)[:3]
        )

    def test_copies_tie_and_the_first_name_wins(
        self, selector: str, pair: PairPotential, candidates: Mapping[str, Atoms]
    ) -> None:
        (best, *_) = choose(selector, pair, candidates, [], 1, seed=0)
        for other in ("a", "z"):
            copies = {**candidates, other: candidates[best.name].copy()}
            (found,) = choose(selector, pair, copies, [], 1, seed=0)
            assert found == Chosen(min(other, best.name), best.score)

    def test_scores_do_not_depend_on_place_orientation_or_order_of_atoms(
        self, selector: str, pair: PairPotential, candidates: Mapping[str, Atoms]
    ) -> None:
        found = choose(selector, pair, candidates, [], 6, seed=0)
        for change in (moved, turned, renumbered):
            other = choose(selector, pair, {name: change(atoms) for name, atoms in candidates.items()}, [], 6, seed=0)
            assert names_of(other) == names_of(found)
            assert [each.score for each in other] == pytest.approx([each.score for each in found], abs=2e-6)

    def test_what_is_requested_is_not_asked_for_again(
        self, selector: str, pair: PairPotential, candidates: Mapping[str, Atoms]
    ) -> None:
        first, *_ = choose(selector, pair, candidates, [], 1, seed=0)
        again = choose(selector, pair, candidates, [candidates[first.name]], 30, seed=0)
        assert again[0].name != first.name
        score = next(each.score for each in again if each.name == first.name)
        assert score is not None
        assert first.score is not None
        assert score < 0.5 * first.score


def moved(atoms: Atoms) -> Atoms:
    other = atoms.copy()
    other.positions += (0.7, -1.3, 2.1)
    return other


def turned(atoms: Atoms) -> Atoms:
    other = atoms.copy()
    other.rotate(40, (1, 2, 3), rotate_cell=True)
    return other


def renumbered(atoms: Atoms) -> Atoms:
    return atoms[np.random.default_rng(0).permutation(len(atoms))]


def dense_scores(potential: PairPotential, structures: list[Atoms], requested: list[Atoms]) -> list[float]:
    """Root mean variance of energy per atom and forces, from the saved covariance and explicit inversion."""
    posterior = potential.posterior
    assert posterior is not None

    def rows(atoms: Atoms) -> np.ndarray:
        features, gradients = potential.features([atoms])[0], potential.feature_gradients([atoms])[0]
        energy = features.sum(axis=0) / len(atoms) / posterior.energy_rmse
        return np.vstack([energy, -gradients.reshape(3 * len(atoms), -1) / posterior.forces_rmse])

    precision = np.linalg.inv(posterior.whitening @ posterior.whitening.T)
    covariance = np.linalg.inv(precision + sum((rows(each).T @ rows(each) for each in requested), start=0.0))
    return [float(np.sqrt(np.trace(rows(a) @ covariance @ rows(a).T) / (1 + 3 * len(a)))) for a in structures]


def test_informative_takes_the_largest_posterior_variance(
    pair: PairPotential, candidates: Mapping[str, Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informative, "SHORTLIST", 100)
    names, requested = [*candidates], [candidates["g001-w004-0"], candidates["g001-w008-0"]]
    found = choose("informative", pair, candidates, requested, 4, seed=0)
    for turn, each in enumerate(found):
        known = [*requested, *(candidates[name] for name in names_of(found[:turn]))]
        scores = dict(zip(names, dense_scores(pair, [*candidates.values()], known), strict=True))
        left = {name: score for name, score in scores.items() if name not in names_of(found[:turn])}
        assert each.name == max(left, key=lambda name: left[name])
        assert each.score == pytest.approx(left[each.name], rel=1e-4)


def test_the_shortlist_of_informative_holds_the_atoms_that_are_farthest(
    pair: PairPotential, candidates: Mapping[str, Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_train = pair.posterior
    assert of_train is not None
    precision = np.linalg.inv(of_train.atoms_whitening @ of_train.atoms_whitening.T)

    def farthest_given(requested: list[Atoms]) -> list[str]:
        """The eight candidates with the farthest atoms, by a dense matrix."""
        moments = sum((each.T @ each for each in pair.features(requested)), start=0.0)
        covariance = np.linalg.inv(precision + moments)
        far = {
            name: np.sqrt(np.einsum("ai,ij,aj->a", own, covariance, own).max())
            for name, own in zip(candidates, pair.features([*candidates.values()]), strict=True)
        }
        return sorted(sorted(far, key=lambda name: -far[name])[:8])

    evaluated: list[list[Atoms]] = []
    original = informative.rows_of

    def seeing(potential: Any, posterior: Any, structures: Any) -> Any:
        evaluated.append([*structures])
        return original(potential, posterior, structures)

    monkeypatch.setattr(informative, "rows_of", seeing)
    requested = [candidates[name] for name in farthest_given([])[:4]]
    choose("informative", pair, candidates, requested, 2, seed=0)
    shortlist = farthest_given(requested)
    assert shortlist != farthest_given([])
    assert evaluated == [[*(candidates[name] for name in shortlist), *requested]]


@pytest.mark.parametrize("n_requested", [0, 1, 3])
def test_a_committee_chooses_the_farthest_points_of_its_shortlist(
    pair: PairPotential, candidates: Mapping[str, Atoms], n_requested: int
) -> None:
    noise = np.random.default_rng(0).normal(size=pair.coefficients.shape)
    together = CommitteePotential((pair, replace(pair, coefficients=pair.coefficients + 0.1 * noise)))
    structures = [*candidates.values()]
    largest = {
        name: float(each.uncertainty.max())
        for name, each in zip(candidates, together.evaluate(structures), strict=True)
        if each.uncertainty is not None
    }
    means = {name: pair.features([atoms])[0].mean(axis=0) for name, atoms in candidates.items()}
    shortlist = sorted(largest, key=lambda name: -largest[name])[:12]
    # Requested structures are like those that would be chosen without them.
    requested = names_of(choose("committee", together, candidates, [], 3, seed=0))[:n_requested]
    expected, known = [], [means[name] for name in requested]
    for _ in range(3):
        left = {
            name: min((np.linalg.norm(means[name] - each) for each in known), default=np.inf)
            for name in shortlist
            if name not in expected
        }
        expected.append(max(left, key=lambda name: left[name]))
        known.append(means[expected[-1]])
    found = choose("committee", together, candidates, [candidates[name] for name in requested], 3, seed=0)
    assert names_of(found) == expected
    assert [each.score for each in found] == [round(largest[name], 6) for name in expected]


def test_rows_are_computed_once_as_long_as_they_are_asked_for(
    pair: PairPotential, candidates: Mapping[str, Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    informative._kept.cache_clear()
    computed: list[int] = []
    original = informative.gradients_of

    def counting(potential: Any, structures: Any) -> Any:
        computed.append(len(structures))
        return original(potential, structures)

    monkeypatch.setattr(informative, "gradients_of", counting)
    posterior, structures = pair.posterior, [*candidates.values()]
    assert posterior is not None
    first = informative.rows_of(pair, posterior, structures[:5])
    second = informative.rows_of(pair, posterior, [*structures[2:6], structures[2]])
    informative.rows_of(pair, posterior, structures[:1])
    assert computed == [5, 1, 1]
    np.testing.assert_array_equal(second[0][0], first[2][0])
    np.testing.assert_array_equal(second[4][0], first[2][0])


def test_of_too_many_candidates_some_are_drawn(
    pair: PairPotential, candidates: Mapping[str, Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "N_CANDIDATES", 6)
    drawn = names_of(choose("random", None, candidates, [], 6, seed=3))
    found = choose("informative", pair, candidates, [], 30, seed=3)
    assert {*names_of(found[:6])} == {*drawn}
    assert all(each.score is None for each in found[6:])
    assert {*names_of(found)} == {*candidates}


@dataclass(frozen=True)
class Stating:
    """A pair potential that states a given uncertainty of the forces."""

    potential: PairPotential
    of_size: Mapping[int, float]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.potential, name)

    def evaluate(self, structures: Any) -> list[Prediction]:
        return [
            replace(each, uncertainty=np.full(len(atoms), self.of_size[int(1e4 * atoms.positions[0, 0])]))
            for atoms, each in zip(structures, self.potential.evaluate(structures), strict=True)
        ]


def test_structures_that_would_be_discarded_come_last(pair: PairPotential, candidates: Mapping[str, Atoms]) -> None:
    order = names_of(choose("informative", pair, candidates, [], 30, seed=0))
    # An uncertainty of 0.1 sqrt(3) eV/Å for the force on each atom is an error of 100 meV/Å for each component.
    errors = dict.fromkeys(candidates, 0.1) | {
        order[0]: np.nan,
        order[1]: 0.9,
        order[2]: 0.8,
        order[5]: 0.501,
        order[6]: 0.499,
    }
    of_size = {int(1e4 * candidates[name].positions[0, 0]): error * 3**0.5 for name, error in errors.items()}
    assert len(of_size) == 30
    potential: Any = Stating(pair, of_size)
    found = choose("informative", potential, candidates, [], 30, seed=0, max_error_meV_per_A=500.0)
    assert names_of(found)[-4:] == [order[5], order[2], order[1], order[0]]
    assert [each.score for each in found[-4:]] == [None] * 4
    assert all(each.score is not None for each in found[:-4])
    few = choose("informative", potential, candidates, [], 3, seed=0, max_error_meV_per_A=500.0)
    assert not {*names_of(few)} & {*names_of(found)[-4:]}
    only = {name: candidates[name] for name in order[:2]}
    assert names_of(choose("informative", potential, only, [], 1, seed=0, max_error_meV_per_A=500.0)) == [order[1]]


def test_a_model_that_states_no_uncertainty_excludes_nothing(
    pair: PairPotential, candidates: Mapping[str, Atoms]
) -> None:
    found = choose("informative", pair, candidates, [], 5, seed=0, max_error_meV_per_A=0.001)
    assert found == choose("informative", pair, candidates, [], 5, seed=0)


class TestRefusals:
    """Selectors and potentials that do not fit."""

    def test_without_a_model(self, candidates: Mapping[str, Atoms]) -> None:
        for selector in ("informative", "committee", "farthest"):
            with pytest.raises(InputError, match=f"select: {selector} found no model, expected the newest one"):
                choose(selector, None, candidates, [], 1, seed=0)

    def test_without_a_posterior(self, pair: PairPotential, candidates: Mapping[str, Atoms]) -> None:
        older = replace(pair, posterior_file=None)
        with pytest.raises(InputError, match=r"found a model without posterior\.npz, expected .*; train it with"):
            choose("informative", older, candidates, [], 1, seed=0)
        assert len(choose("farthest", older, candidates, [*candidates.values()][:3], 2, seed=0)) == 2

    def test_without_features(self, candidates: Mapping[str, Atoms]) -> None:
        emt = CalculatorPotential("ase.calculators.emt.EMT")
        with pytest.raises(InputError, match="found a model without posterior"):
            choose("informative", emt, candidates, [], 1, seed=0)
        with pytest.raises(InputError, match=r"found a potential without features, .*; choose walkers"):
            choose("farthest", emt, candidates, [], 1, seed=0)
        with pytest.raises(InputError, match="found a potential without features"):
            choose("committee", CommitteePotential((emt, emt)), candidates, [], 1, seed=0)

    def test_a_single_model_is_no_committee(self, pair: PairPotential, candidates: Mapping[str, Atoms]) -> None:
        with pytest.raises(InputError, match=r"found a single model, expected a committee; .* choose informative"):
            choose("committee", pair, candidates, [], 1, seed=0)


SINGLE = (ModelParameters(pair=PAIR), ModelParameters(mace=TINY), ModelParameters(nequip=NequIPParameters()))
TOGETHER = ModelParameters(committee=CommitteeParameters(member=MemberParameters(mace=TINY)))


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_is_checked_against_the_parameters_of_the_model(selector: str) -> None:
    for parameters in SINGLE:
        if selector == "committee":
            with pytest.raises(
                InputError, match=r"found a single model, expected a committee, .*; give model\.committee"
            ):
                check_selector(selector, parameters)
        else:
            check_selector(selector, parameters)
    if selector in ("informative", "farthest"):
        with pytest.raises(InputError, match="found a committee, expected a single model; choose committee"):
            check_selector(selector, TOGETHER)
    else:
        check_selector(selector, TOGETHER)


@pytest.mark.mace
@needs_mace
class TestMACE:
    """Selectors on real networks."""

    def test_a_new_element_is_the_most_informative(self, mace: MACEPotential) -> None:
        structures = named(copper(8, seed=3))
        structures["g001-w005-0"] = gold_in(structures["g001-w005-0"])
        best, second, *_ = choose("informative", mace, structures, [], 3, seed=0)
        assert best.name == "g001-w005-0"
        assert best.score is not None
        assert second.score is not None
        assert best.score > 10 * second.score
        requested = [gold_in(copper(1, seed=4)[0])]
        again = choose("informative", mace, structures, requested, 8, seed=0)
        known = next(each.score for each in again if each.name == best.name)
        assert known is not None
        assert known < 0.5 * best.score

    def test_a_new_environment_is_the_most_informative(self, mace: MACEPotential) -> None:
        structures = named(copper(8, seed=3))
        structures["g001-w006-0"] = bulk("Cu", "bcc", a=2.6, cubic=True)
        structures["g001-w006-0"].rattle(0.1, seed=1)  # in a crystal at rest, symmetry leaves only the energy to learn
        assert choose("informative", mace, structures, [], 1, seed=0)[0].name == "g001-w006-0"
        assert choose("farthest", mace, structures, [], 1, seed=0)[0].name == "g001-w006-0"

    def test_scores_do_not_depend_on_place_orientation_or_order_of_atoms(self, mace: MACEPotential) -> None:
        structures = named(metals(9, seed=2))
        found = choose("informative", mace, structures, [], 2, seed=0)
        for change in (moved, turned, renumbered):
            other = choose(
                "informative", mace, {name: change(atoms) for name, atoms in structures.items()}, [], 2, seed=0
            )
            assert names_of(other) == names_of(found)
            assert [each.score for each in other] == pytest.approx([each.score for each in found], rel=1e-6)

    def test_a_committee_takes_where_it_disagrees(self, committee: CommitteePotential) -> None:
        structures = named(copper(8, seed=3))
        structures["g001-w005-0"] = gold_in(structures["g001-w005-0"])
        largest = {
            name: float(each.uncertainty.max())
            for name, each in zip(structures, committee.evaluate([*structures.values()]), strict=True)
            if each.uncertainty is not None
        }
        found = choose("committee", committee, structures, [], 2, seed=0)
        assert found[0] == Chosen(max(largest, key=lambda name: largest[name]), round(max(largest.values()), 6))
        assert {*names_of(found)} <= {*sorted(largest, key=lambda name: -largest[name])[:8]}
        assert [each.score for each in found] == [round(largest[each.name], 6) for each in found]

    def test_a_committee_spreads_over_its_shortlist(self, committee: CommitteePotential) -> None:
        gold = [gold_in(atoms) for atoms in copper(3, seed=3)]
        structures = named(Dataset([*gold, *copper(1, seed=5)]))
        assert names_of(choose("committee", committee, structures, [], 2, seed=0))[1] == "g001-w003-0"
        # Against a requested structure of copper, those with gold are farther.
        first, *_ = choose("committee", committee, structures, copper(1, seed=6), 1, seed=0)
        assert first.name in ("g001-w000-0", "g001-w001-0", "g001-w002-0")
        backwards = dict(reversed([*structures.items()]))
        assert choose("committee", committee, backwards, [], 4, seed=0) == choose(
            "committee", committee, structures, [], 4, seed=0
        )

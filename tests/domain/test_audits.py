import numpy as np
import pytest
from ase.build import bulk, molecule

from surveyor.dataset import KEY, Dataset, DataSets, with_label
from surveyor.dataset.metrics import StructureError
from surveyor.labels import Label, LabelFailure
from surveyor.learning.audits import Audit, Examined, audited, shortest_distances_A
from surveyor.learning.decisions import decide_membership
from surveyor.learning.examination import examine, group_of
from surveyor.learning.labelled_samples import LabelledSample
from surveyor.learning.parameters import Learning
from surveyor.potentials import Prediction
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.walkers import Rejection, Sample, Walker, WalkerState

HALF = Learning(valid_fraction=0.25, test_fraction=0.25)
GOOD, BAD = StructureError(0.0, 0.0), StructureError(0.0, 1e4)


def water(number, shift=0.0):
    atoms = molecule("H2O")
    atoms.positions[0, 2] += shift
    return with_label(atoms, f"v1:{number:02d}", Label(0.0, np.zeros((3, 3))))


def joined(structures, bad=()):
    errors = {key: BAD if key in bad else GOOD for key in structures.keys()}  # noqa: SIM118
    return decide_membership(structures, errors, DataSets(), HALF)


def test_audits_are_what_joins_validation_and_test_set():
    structures = Dataset(water(number) for number in range(8))
    data = joined(structures)
    assert audited(structures, data).keys() == (data.valid + data.test).keys()
    assert len(data.train) == 4


def test_what_is_discarded_among_them_is_an_audit_too():
    structures = Dataset(water(number) for number in range(8))
    data = joined(structures, bad=("v1:01", "v1:07"))
    assert audited(structures, data).keys() == ("v1:00", "v1:01", "v1:02", "v1:03", "v1:04")
    assert data.discarded.keys() == ("v1:01", "v1:07")  # the second is behind the first of the training set


def test_the_share_of_discarded_audits_is_that_of_all_structures():
    generator, found, asked = np.random.default_rng(0), [], []
    for _ in range(300):
        structures = Dataset(water(number) for number in range(30))
        bad = [key for key in structures.keys() if generator.random() < 0.2]  # noqa: SIM118
        audits = audited(structures, joined(structures, bad)).keys()
        found.append(len({*audits} & {*bad}))
        asked.append(0.2 * len(audits))
    assert sum(found) == pytest.approx(sum(asked), rel=0.1)


def test_where_everything_is_discarded_everything_is_an_audit():
    structures = Dataset(water(number) for number in range(3))
    assert len(audited(structures, joined(structures, structures.keys()))) == 3


def test_a_failed_label_is_no_audit():
    failed = with_label(molecule("H2O"), "v1:00", LabelFailure("timeout", "took too long"))
    structures = Dataset([failed, *(water(number) for number in range(1, 9))])
    assert set(audited(structures, joined(structures)).keys()).isdisjoint(structures.failed().keys())


def test_shortest_distances_are_those_of_each_pair_of_elements():
    copper = bulk("Cu", cubic=True, a=3.6)
    assert shortest_distances_A(copper) == {"Cu-Cu": pytest.approx(3.6 / 2**0.5, abs=1e-3)}
    found = shortest_distances_A(molecule("H2O"))
    assert found == {"H-H": pytest.approx(1.527, abs=2e-3), "H-O": pytest.approx(0.969, abs=2e-3)}


def test_walkers_are_numbered_through_all_groups():
    groups = [Walkers(start="a.xyz", n_walkers=2), Walkers(start="b.xyz", n_walkers=3)]
    assert [group_of(index, groups) for index in range(5)] == [0, 0, 1, 1, 1]


@pytest.fixture
def examined():
    """Check the record of a generation: a walker that was stopped, with a frame; another with an NPT cell."""
    groups = [
        Walkers(start="a.xyz", n_walkers=1, temperature_K=300, final_temperature_K=500, ramp_steps=100),
        Walkers(start="b.xyz", n_walkers=1, method="npt"),
    ]
    state = WalkerState(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3)), "", n_steps=50)
    stop = Rejection("force", 3, 50.0, 40.0)
    first = Sample(Walker(0, molecule("H2O"), groups[0], 0, state), molecule("H2O"), rejections=(stop,))
    copper = with_label(bulk("Cu", cubic=True, a=3.6), "v1:02", Label(0.0, np.zeros((4, 3)), np.zeros(6)))
    second = Sample(Walker(1, copper, groups[1], 1, state), copper)
    samples = [
        LabelledSample("g001-w000-0", first, water(0)),
        LabelledSample("g001-w000-0-step-20", None, water(1, 0.1)),
        LabelledSample("g001-w001-0", second, copper),
    ]
    structures = Dataset(each.structure for each in samples)
    forces = np.zeros((3, 3))
    forces[0] = [0.0, 0.3, 0.4]
    predictions = {
        "v1:00": Prediction(0.3, forces, uncertainty=np.array([0.2, 0.1, 0.1])),
        "v1:01": Prediction(0.0, np.full((3, 3), np.nan)),
        "v1:02": Prediction(0.0, np.zeros((4, 3)), np.zeros(6)),
    }
    data = DataSets(valid=structures[:1], test=structures[1:2], discarded=structures[2:])
    return examine(structures, data, predictions, samples, groups)


def test_an_audit_has_its_errors_and_circumstances(examined):
    audit = Audit.from_json(examined["audits"][0])
    assert (audit.key, audit.group, audit.is_stopped, audit.is_discarded) == ("v1:00", 0, True, False)
    assert audit.energy == pytest.approx(100)
    assert audit.forces == pytest.approx(500 / 3)
    assert audit.forces_by_element == pytest.approx({"H": 0.0, "O": 500 / 3**0.5})
    assert audit.ratio == pytest.approx(500 / 200)
    assert (audit.n_atoms, audit.formula, audit.n_components) == ({"H": 2, "O": 1}, "H2O", 9)
    assert (audit.temperature_K, audit.volume_A3) == (400.0, None)  # half way up the ramp


def test_a_frame_belongs_to_the_walker_of_its_sample(examined):
    audit = Audit.from_json(examined["audits"][1])
    assert (audit.group, audit.is_stopped) == (0, True)
    assert (audit.forces, audit.largest_error) == (None, None)  # not finite
    assert audit.exceeds(None, 1e9)


def test_a_moving_cell_has_its_volume(examined):
    audit = Audit.from_json(examined["audits"][2])
    assert (audit.group, audit.volume_A3) == (1, pytest.approx(3.6**3 / 4))
    assert audit.exceeds(1e9, 1e9)  # discarded


def test_too_few_structures_have_no_band(examined):
    assert examined["before_training_95"] == {}


def test_manifests_of_before_hold_no_audits():
    examined = Examined.from_manifest({"number": 2, "details": {"walkers": [{"index": 0}]}})
    assert (examined.audits, len(examined.samples)) == ((), 1)


def test_limits_that_are_not_given_are_not_exceeded():
    assert not Audit("v1:00", energy=1e9, forces=1e9).exceeds(None, None)
    assert Audit("v1:00", energy=3.0, forces=1.0).exceeds(2.0, None)
    assert not Audit("v1:00", energy=3.0, forces=1.0).exceeds(None, 2.0)


def test_keys_are_those_of_labels():
    assert water(3).info[KEY] == "v1:03"

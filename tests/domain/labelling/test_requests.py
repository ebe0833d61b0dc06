import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from labelling_inputs import bad_structures, copper

from surveyor.dataset import ENERGY, FAILURE, FORCES, with_label
from surveyor.labels import Label, LevelOfTheory, label_key
from surveyor.reference.ase import ASEParameters, ASEReference, EMTReference
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_input import read_input
from surveyor.reference.reference import Reference
from surveyor.works.labelling import make_requests
from surveyor.works.labelling.requests import CHEAP_CHUNK, default_chunk_size

THEORY = EMTReference().resolve()


def test_equal_structures_share_a_key() -> None:
    one, other = copper(2)
    requests = make_requests([one, other, one.copy()], THEORY)
    assert requests.keys[0] == requests.keys[2] == label_key(one, THEORY)
    assert list(requests.by_key) == [requests.keys[0], requests.keys[1]]


@pytest.mark.parametrize("complaint", bad_structures())
def test_a_structure_that_cannot_be_labelled_is_refused_and_stops_no_other(complaint: str) -> None:
    good = copper(2)
    requests = make_requests([good[0], bad_structures()[complaint], good[1]], THEORY)
    assert [key is None for key in requests.keys] == [False, True, False]
    failure = requests.refused[1]
    assert complaint in failure.message
    assert failure.reason == ("geometry" if complaint == "overlap" else "invalid_input")


def test_labels_that_structures_carry_are_left_behind() -> None:
    (atoms,) = copper(1)
    labelled = with_label(atoms, "v1:0", Label(1.0, np.ones((4, 3)), np.ones(6)))
    labelled.info |= {"source": "a paper", FAILURE: "crash"}
    labelled.calc = SinglePointCalculator(labelled, energy=-1.0)
    (bare,) = make_requests([labelled], THEORY).structures
    assert bare.calc is None
    assert FORCES not in bare.arrays
    assert dict(bare.info) == {"source": "a paper"}
    assert ENERGY in labelled.info  # what was given stays as it was


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_hold_each_key_once_and_in_order(size: int) -> None:
    structures = copper(5)
    requests = make_requests([*structures, structures[0]], THEORY)
    chunks = requests.chunks(size)
    assert [key for chunk in chunks for key in chunk.structures] == list(requests.by_key)
    assert {len(chunk) for chunk in chunks[:-1]} <= {size}
    assert len({chunk.name for chunk in chunks}) == len(chunks)
    alone = [each for chunk in chunks for each in chunk.of_one()]
    assert [len(each) for each in alone] == [1] * 5
    assert len({each.name for each in alone}) == 5


def test_chunks_are_the_same_in_another_run_so_that_it_can_join_them() -> None:
    first, second = (make_requests(copper(5), THEORY).chunks(2) for _ in range(2))
    assert [chunk.digest for chunk in first] == [chunk.digest for chunk in second]
    assert len({chunk.digest for chunk in first}) == 3


def test_cheap_labels_share_a_task_and_those_of_programs_do_not() -> None:
    kinds = "&KIND H\n BASIS_SET a\n POTENTIAL b\n&END KIND"
    text = f"&FORCE_EVAL\n&DFT\n&END DFT\n&SUBSYS\n{kinds}\n&END SUBSYS\n&END FORCE_EVAL"
    program = CP2KReference(read_input(text))
    assert default_chunk_size(program, 10_000) == 1
    assert default_chunk_size(EMTReference(), 10_000) == CHEAP_CHUNK
    assert default_chunk_size(EMTReference(), 3) == 1  # a few are better spread over the workers


def test_an_empty_structure_is_refused() -> None:
    assert "no atoms" in make_requests([Atoms()], THEORY).refused[0].message


TOY = LevelOfTheory("toy", {})
SLAB = Atoms("H2", [[0, 0, 2], [0, 0, 2.75]], cell=[4, 4, 12], pbc=[True, True, False])
OXYGEN = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], cell=[6, 6, 6], pbc=True, info={"multiplicity": 3})
CHARGED = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]], info={"charge": 2})
CP2K = CP2KReference(
    read_input("&FORCE_EVAL\n&DFT\n&END\n&SUBSYS\n&KIND H\n BASIS_SET SZV-GTH\n POTENTIAL GTH-PBE\n&END\n&END\n&END\n")
)


@pytest.mark.parametrize(
    ("atoms", "reference", "theory", "message"),
    [
        (
            CHARGED,
            EMTReference(),
            EMTReference().resolve(),
            "^structure 0: EMT treats neutral structures only; .* charge 2",
        ),
        (OXYGEN, CP2K, TOY, "structure 0: SUBSYS of the CP2K input has no KIND O; there are H"),
        (SLAB, CP2K, TOY, r"structure 0: .* periodic in no or three directions; found pbc \[True, True, False\]"),
        (SLAB, ASEReference(ASEParameters(calculator="vasp")), TOY, r"vasp takes structures periodic in 3 directions"),
        (SLAB, None, replace(TOY, n_periodic=(0, 3)), r"toy treats structures periodic in 0 or 3 directions; found"),
        (Atoms("H2", info={"multiplicity": 5}, positions=[[0, 0, 0], [0, 0, 0.8]]), None, TOY, "unpaired electrons"),
    ],
)
def test_structures_are_refused_for_their_own_reason_before_a_label_is_requested(
    atoms: Atoms, reference: Reference | None, theory: LevelOfTheory, message: str
) -> None:
    requests = make_requests([atoms], theory, reference)
    assert requests.keys == [None]
    assert requests.refused[0].reason == "invalid_input"
    assert re.search(message, requests.refused[0].message)

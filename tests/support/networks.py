"""What holds for the networks of all engines: checks that their tests share."""

import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.models import batches
from surveyor.models.history import reported_epochs
from surveyor.models.model import Model
from surveyor.potentials import Potential, evaluate_one_by_one

TRAINING = """
import pickle, sys
from pathlib import Path
model, train, valid = pickle.loads(Path(sys.argv[1]).read_bytes())
model.train(train, valid, Path(sys.argv[2]))
"""


def check_batches(potential: Potential, valid: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that structures which go through the network together do not feel each other."""
    far = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 9.0]])
    mixed = [far, *valid[:3], Atoms("Cu"), *valid[3:], Atoms("Au", cell=[9, 9, 9], pbc=[True, True, False])]
    alone = evaluate_one_by_one(potential, mixed)
    for n_atoms in (1, 7, 10_000):
        monkeypatch.setitem(batches.ATOMS_AT_ONCE, "cpu", n_atoms)
        for one, other in zip(potential.evaluate(mixed), alone, strict=True):
            assert one.energy == pytest.approx(other.energy, abs=1e-9)
            np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-9)
            assert (one.stress is None) == (other.stress is None)
            if one.stress is not None:
                np.testing.assert_allclose(one.stress, other.stress, rtol=0, atol=1e-9)
    assert potential.evaluate([]) == []


def check_killed_three_times(
    model: Model,
    sets: tuple[Dataset, Dataset],
    folder: Path,
    *,
    last_kill: int,
    after_kill: Callable[[Path], object] = lambda _directory: None,
) -> None:
    """Check that a training which was killed at three random epochs is the one that was not disturbed, bit for bit.

    Args:
        model: initialized.
        sets: for training and validation.
        folder: an empty one.
        last_kill: the last epoch at which it may be killed, some before its end.
        after_kill: is called with the directory of the training after each kill.
    """
    undisturbed, history = model.train(*sets, folder / "undisturbed")
    directory, call = folder / "killed", folder / "call.pickle"
    call.write_bytes(pickle.dumps((model, *sets)))
    for n_reported in sorted(random.Random(0).sample(range(3, last_kill), 3)):
        process = subprocess.Popen([sys.executable, "-c", TRAINING, str(call), str(directory)])
        while len(reported_epochs(directory)) < n_reported:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the training ended with {process.wait(0.01)}")
        process.kill()
        process.wait()
        after_kill(directory)
    resumed, same_history = model.train(*sets, directory)

    assert same_history == history
    times = Counter(epoch.number for epoch in reported_epochs(directory))
    assert max(times.values()) <= 2
    assert list(times.values()).count(2) <= 3  # at most the last one, each time
    valid = sets[1]
    for one, other in zip(resumed.deploy().evaluate(valid), undisturbed.deploy().evaluate(valid), strict=True):
        assert one.energy == other.energy
        assert np.array_equal(one.forces, other.forces)

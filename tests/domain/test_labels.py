import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from dict_storage import DictStorage
from processes import PATIENCE_S

from surveyor import files
from surveyor.errors import InputError, LabelClaimed, StorageFailed
from surveyor.labels import (
    POLICIES,
    REASONS,
    Label,
    LabelFailure,
    LabelRequest,
    LabelStore,
    LevelOfTheory,
    former_keys,
    label_key,
    load_theory,
    save_theory,
)
from surveyor.labels.claims import Claimant
from surveyor.reference.ase import EMTReference
from surveyor.storage import MARK, FolderStorage
from surveyor.structures import canonical
from surveyor.testing.storage import check_storage

THEORY = LevelOfTheory("toy", {"program": "toy", "cutoff": 5.0, "basis": {"H": "a", "O": "b"}})
WATER = molecule("H2O")
KEY = label_key(WATER, THEORY)
BEGUN = Path(__file__).parents[1] / "begun" / "labels" / "labels"
FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads


def label(seed: int = 0, *, stress: bool = False) -> Label:
    random = np.random.default_rng(seed)
    return Label(
        energy=float(random.normal() * 1e4),
        forces=random.normal(size=(3, 3)) * 10.0 ** random.integers(-20, 3, size=(3, 3)),
        stress=random.normal(size=6) if stress else None,
        provenance={"host": "node1", "wall_time_s": 0.1 + 0.2},
    )


@pytest.fixture
def store(tmp_path):
    return LabelStore.in_folder(tmp_path / "labels")


def test_a_key_is_versioned_and_hexadecimal():
    version, digest = KEY.split(":")
    assert version == "v1"
    assert len(digest) == 64
    int(digest, 16)


@pytest.mark.parametrize("info", [{"charge": 0}, {"multiplicity": 1}, {"charge": 0, "multiplicity": 1}, {"name": "w"}])
def test_an_explicit_default_gives_the_key_of_an_absent_one(info):
    explicit = WATER.copy()
    explicit.info.update(info)
    assert label_key(explicit, THEORY) == KEY


@pytest.mark.parametrize("info", [{"charge": 1}, {"multiplicity": 3}])
def test_other_electrons_are_another_label(info):
    other = WATER.copy()
    other.info.update(info)
    assert label_key(other, THEORY) != KEY


def test_what_the_input_states_counts_as_what_the_structure_states():
    stating = replace(THEORY, charge=-1, multiplicity=2)
    anion = WATER.copy()
    anion.info.update(charge=-1, multiplicity=2)
    assert label_key(WATER, stating) == label_key(anion, stating) == label_key(anion, THEORY) != KEY


@pytest.mark.parametrize("info", [{"charge": 1}, {"multiplicity": 3}])
def test_a_structure_that_contradicts_the_input_is_refused(info):
    atoms = WATER.copy()
    atoms.info.update(info)
    with pytest.raises(InputError, match=r"the structure has .* the input of toy says .*; remove one of them"):
        label_key(atoms, replace(THEORY, charge=0, multiplicity=1))


def test_a_method_that_knows_no_charges_says_so():
    neutral = replace(THEORY, charge=0, multiplicity=1, is_neutral=True)
    atoms = WATER.copy()
    atoms.info["charge"] = 1
    with pytest.raises(InputError, match="toy treats neutral structures only; the structure has charge 1"):
        label_key(atoms, neutral)
    atoms.info = {"multiplicity": 3}
    with pytest.raises(InputError, match="the structure has multiplicity 3, the input of toy says 1; remove one"):
        label_key(atoms, neutral)


def test_a_level_of_theory_is_the_same_under_the_digest_of_a_former_version():
    renamed = replace(THEORY, content={**THEORY.content, "cutoff": "5.0"}, former=(THEORY.digest,))
    other = replace(THEORY, content={**THEORY.content, "cutoff": 6.0})
    for theory, is_same in ((THEORY, True), (renamed, True), (other, False)):
        assert theory.is_same_as(renamed) is is_same
        assert renamed.is_same_as(theory) is is_same


def test_former_keys_are_those_of_former_digests():
    renamed = replace(THEORY, content={**THEORY.content, "cutoff": "5.0"})
    renamed = replace(renamed, former=(THEORY.digest, renamed.digest))
    assert former_keys(WATER, renamed) == (KEY,)
    assert former_keys(WATER, THEORY) == ()


def test_labels_that_an_earlier_surveyor_has_stored_are_found_under_their_keys():
    theory, records = EMTReference().resolve(), [json.loads(path.read_text()) for path in BEGUN.rglob("*.json")]
    assert len(records) > 10
    for record in records:
        identity = record["structure"]
        lengths = {name: np.array(identity[name]) * 1e-8 for name in ("positions", "cell")}
        assert label_key(Atoms(identity["numbers"], pbc=identity["pbc"], **lengths), theory) == record["key"]


def test_what_is_labelled_is_in_canonical_coordinates_and_states_its_electrons():
    shifted = WATER.copy()
    shifted.positions += 3e-9
    request = LabelRequest.of(shifted, replace(THEORY, multiplicity=3))
    assert request.key == label_key(shifted, replace(THEORY, multiplicity=3))
    assert (request.structure.positions == canonical(WATER).positions).all()
    assert request.structure.info == {"charge": 0, "multiplicity": 3}


def test_what_is_no_number_names_no_level_of_theory():
    with pytest.raises(ValueError, match="JSON compliant"):
        label_key(WATER, replace(THEORY, content={**THEORY.content, "cutoff": float("nan")}))


def test_kinds_matter_only_where_the_reference_distinguishes_them():
    kinds = WATER.copy()
    kinds.set_array("kinds", np.array(["O1", "H", "H"]))
    assert label_key(kinds, THEORY) == KEY
    distinguishing = replace(THEORY, distinguishes_kinds=True)
    assert label_key(kinds, distinguishing) != label_key(WATER, distinguishing)


def test_the_order_of_the_content_does_not_matter_and_its_values_do():
    reordered = replace(THEORY, content={"basis": {"O": "b", "H": "a"}, "cutoff": 5.0, "program": "toy"})
    assert label_key(WATER, reordered) == KEY
    assert label_key(WATER, replace(THEORY, content={**THEORY.content, "cutoff": 5.1})) != KEY
    assert label_key(WATER, replace(THEORY, name="what people call it")) == KEY


def test_a_level_of_theory_keeps_its_digest_through_a_file(tmp_path):
    theory = replace(THEORY, charge=1, elements=("H", "O"), content={**THEORY.content, "pair": (1, 2.5)})
    save_theory(tmp_path / "theory.json", theory)
    loaded = load_theory(tmp_path / "theory.json")
    assert loaded.digest == theory.digest
    assert (loaded.charge, loaded.elements) == (1, ("H", "O"))


@pytest.mark.parametrize(
    "theory",
    [
        THEORY,
        LevelOfTheory(
            "all",
            {"program": "any"},
            charge=-1,
            multiplicity=2,
            distinguishes_kinds=True,
            elements=("H", "O"),
            n_periodic=(0, 3),
            is_neutral=True,
            former=("ab", "cd"),
            unusable={"He": "no basis set"},
        ),
    ],
)
def test_a_level_of_theory_comes_back_from_its_file(tmp_path, theory):
    save_theory(tmp_path / "theory.json", theory)
    loaded = load_theory(tmp_path / "theory.json")
    assert loaded == theory
    assert (loaded.former, loaded.unusable) == (theory.former, theory.unusable)  # which equality ignores


def test_a_level_of_theory_of_an_earlier_surveyor_can_be_read(tmp_path):
    path = tmp_path / "theory.json"
    save_theory(path, THEORY)
    record = json.loads(path.read_text())
    for later in ("n_periodic", "is_neutral", "former", "unusable"):
        del record[later]
    path.write_text(json.dumps(record))
    loaded = load_theory(path)
    assert loaded == THEORY
    assert (loaded.former, loaded.unusable) == ((), {})


@pytest.mark.parametrize("stress", [True, False])
def test_a_label_comes_back_bit_for_bit(store, stress):
    for seed in range(20):
        atoms = WATER.copy()
        atoms.positions += seed
        put, key = label(seed, stress=stress), label_key(atoms, THEORY)
        assert store.put(key, atoms, THEORY, put)
        got = store.get(key)
        assert got.energy == put.energy
        assert got.forces.shape == put.forces.shape
        assert got.forces.tobytes() == put.forces.tobytes()
        assert (got.stress is None) == (put.stress is None)
        assert put.stress is None or got.stress.tobytes() == put.stress.tobytes()
        assert got.provenance == put.provenance


@pytest.mark.parametrize(
    "wrong",
    [
        {"energy": float("nan")},
        {"forces": np.full((3, 3), np.inf)},
        {"forces": np.zeros((2, 3))},
        {"stress": np.zeros((3, 3))},
        {"stress": np.full(6, np.nan)},
    ],
)
def test_an_incomplete_label_is_not_kept(store, wrong):
    with pytest.raises(ValueError, match="not complete"):
        store.put(KEY, WATER, THEORY, replace(label(), **wrong))
    assert store.get(KEY) is None


def test_what_json_does_not_know_gets_into_no_record(store):
    with pytest.raises(ValueError, match="JSON compliant"):
        store.put(KEY, WATER, THEORY, replace(label(), provenance={"wall_time_s": float("nan")}))
    assert store.get(KEY) is None


def test_whole_numbers_come_back_as_real_ones(store):
    store.put(KEY, WATER, THEORY, replace(label(), forces=np.eye(3, dtype=int), stress=np.arange(6)))
    got = store.get(KEY)
    assert got.forces.dtype == got.stress.dtype == float
    np.testing.assert_array_equal(got.forces, np.eye(3))


def test_the_first_label_stays(store):
    assert store.put(KEY, WATER, THEORY, label(1))
    assert not store.put(KEY, WATER, THEORY, label(2))
    assert store.get(KEY).energy == label(1).energy


def _put(folder: Path, seed: int, barrier, wins) -> None:
    store = LabelStore.in_folder(folder)
    for number in range(30):
        atoms = WATER.copy()
        atoms.positions += number
        barrier.wait()
        wins.put((number, store.put(label_key(atoms, THEORY), atoms, THEORY, label(seed))))


def test_of_two_processes_that_put_one_key_at_once_one_wins(tmp_path):
    barrier, wins = FORK.Barrier(2), FORK.Queue()
    processes = [FORK.Process(target=_put, args=(tmp_path, seed, barrier, wins)) for seed in (1, 2)]
    for process in processes:
        process.start()
    results = [wins.get(timeout=PATIENCE_S) for _ in range(60)]
    for process in processes:
        process.join()
    assert sorted(number for number, won in results if won) == list(range(30))
    assert len(list(LabelStore.in_folder(tmp_path).keys())) == 30


def _put_for_ever(folder: Path, size: int) -> None:
    storage = FolderStorage(folder)
    number = 0
    while True:
        storage.put_new(f"labels/{number:06d}", bytes([number % 256]) * size)
        number += 1


def test_a_reader_never_sees_half_a_record_whenever_the_writer_is_killed(tmp_path):
    size, seen = 300_000, 0
    for attempt in range(8):
        storage = FolderStorage(tmp_path / str(attempt))
        writer = FORK.Process(target=_put_for_ever, args=(storage.folder, size))
        writer.start()
        while storage.get(f"labels/{attempt:06d}") is None:  # a later moment each time
            assert writer.is_alive()
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        for name in storage.list("labels/"):
            assert len(set(storage.get(name))) == 1
            assert len(storage.get(name)) == size
            seen += 1
    assert seen >= 36  # 1 + 2 + ... + 8


@pytest.mark.parametrize("reason", REASONS)
def test_a_failure_is_final_after_the_attempts_of_its_reason(store, reason):
    attempts = POLICIES[reason].attempts
    for attempt in range(1, attempts + 1):
        assert store.outcome(KEY) is None
        failure = LabelFailure(reason, f"attempt {attempt}", output="/scratch/1", attempt=attempt)
        assert store.put_failure(KEY, WATER, THEORY, failure)
    assert store.outcome(KEY) == failure
    assert [each.attempt for each in store.failures(KEY)] == list(range(1, attempts + 1))


def test_a_label_stands_above_failures(store):
    store.put_failure(KEY, WATER, THEORY, LabelFailure("timeout", "too slow"))
    store.put(KEY, WATER, THEORY, label())
    assert isinstance(store.outcome(KEY), Label)
    assert len(store.failures(KEY)) == 1


@pytest.mark.parametrize(("reason", "limit"), [("timeout", 60.0), ("memory", 4.0)])
def test_a_failure_at_a_limit_is_final_until_the_limit_is_raised(store, reason, limit):
    for attempt in range(1, POLICIES[reason].attempts + 1):
        store.put_failure(KEY, WATER, THEORY, LabelFailure(reason, "limit", attempt=attempt, limit=limit))
    failure = store.outcome(KEY, {reason: limit})
    assert failure.limit == limit
    assert store.outcome(KEY) == store.outcome(KEY, {reason: limit / 2}) == failure
    assert store.outcome(KEY, {reason: 2 * limit}) is None
    assert store.outcome(KEY, {reason: None}) is None


def test_attempts_at_a_lower_limit_do_not_count(store):
    for attempt, limit in enumerate((2.0, 2.0, 4.0), start=1):
        store.put_failure(KEY, WATER, THEORY, LabelFailure("memory", "limit", attempt=attempt, limit=limit))
    assert store.outcome(KEY, {"memory": 4.0}) is None
    store.put_failure(KEY, WATER, THEORY, LabelFailure("memory", "limit", attempt=4, limit=4.0))
    assert isinstance(store.outcome(KEY, {"memory": 4.0}), LabelFailure)


def test_a_failure_without_a_limit_is_final_whatever_the_limit_is(store):
    store.put_failure(KEY, WATER, THEORY, LabelFailure("timeout", "too slow"))
    assert isinstance(store.outcome(KEY, {"timeout": 1e9}), LabelFailure)
    other = label_key(molecule("CH4"), THEORY)
    store.put_failure(other, molecule("CH4"), THEORY, LabelFailure("geometry", "too near", limit=1.0))
    assert isinstance(store.outcome(other, {"geometry": 2.0}), LabelFailure)


def test_a_failure_that_is_to_be_retried_is_not_final_and_stays_on_record(store):
    store.put_failure(KEY, WATER, THEORY, LabelFailure("geometry", "too near"))
    assert store.retry(KEY)
    assert not store.retry(KEY)
    assert store.outcome(KEY) is None
    store.put_failure(KEY, WATER, THEORY, LabelFailure("geometry", "still too near", attempt=2))
    assert store.outcome(KEY).message == "still too near"
    assert store.retry(KEY)
    assert store.outcome(KEY) is None
    assert len(store.failures(KEY)) == 2


def test_withdrawn_failures_do_not_count_as_attempts(store):
    assert POLICIES["memory"].attempts == 2
    for attempt in (1, 2, 3):
        store.put_failure(KEY, WATER, THEORY, LabelFailure("memory", "killed", attempt=attempt))
        if attempt == 1:
            assert store.retry(KEY)
        assert (store.outcome(KEY) is None) == (attempt < 3)


def test_a_retry_is_on_record(store, tmp_path):
    store.put_failure(KEY, WATER, THEORY, LabelFailure("geometry", "too near"))
    store.retry(KEY)
    (file,) = (tmp_path / "labels" / "retries").rglob("*.json")
    assert json.loads(file.read_text()) == {"schema_version": 1, "key": KEY, "attempt": 1}


def test_what_has_not_failed_is_not_retried(store):
    assert not store.retry(KEY)
    assert store.outcome(KEY) is None


def test_keys_of_failures_are_those_without_a_label(store):
    for name in ("CH4", "NH3"):
        atoms = molecule(name)
        for attempt in (1, 2):
            failure = LabelFailure("crash", "no", attempt=attempt)
            store.put_failure(label_key(atoms, THEORY), atoms, THEORY, failure)
    store.put_failure(KEY, WATER, THEORY, LabelFailure("crash", "no"))
    store.put(KEY, WATER, THEORY, label())
    assert list(store.failed_keys()) == sorted(label_key(molecule(name), THEORY) for name in ("CH4", "NH3"))


def test_a_failure_keeps_its_last_lines_and_its_limit(store):
    failure = LabelFailure("timeout", "too slow", last_lines="step 1\nstep 2", limit=60.0, provenance={"host": "a"})
    store.put_failure(KEY, WATER, THEORY, failure)
    assert store.failures(KEY) == (failure,)


def test_a_failure_that_an_earlier_surveyor_recorded_can_be_read(store, tmp_path):
    store.put_failure(KEY, WATER, THEORY, LabelFailure("timeout", "too slow"))
    (file,) = (tmp_path / "labels" / "failures").rglob("*.json")
    record = json.loads(file.read_text())
    del record["last_lines"], record["limit"]
    file.write_text(json.dumps(record))
    assert store.failures(KEY) == (LabelFailure("timeout", "too slow"),)


def test_an_attempt_is_recorded_once(store):
    assert store.put_failure(KEY, WATER, THEORY, LabelFailure("timeout", "first"))
    assert not store.put_failure(KEY, WATER, THEORY, LabelFailure("timeout", "second"))
    assert [failure.message for failure in store.failures(KEY)] == ["first"]


def test_a_record_of_a_newer_surveyor_is_refused(store, tmp_path):
    store.put(KEY, WATER, THEORY, label())
    (file,) = (path for path in (tmp_path / "labels").rglob("*.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2}))
    with pytest.raises(InputError, match="schema version 2, this surveyor reads up to 1; update surveyor"):
        store.get(KEY)


def test_records_are_sharded_by_key_and_say_what_they_are(store, tmp_path):
    store.put(KEY, WATER, THEORY, label())
    digest = KEY.partition(":")[2]
    record = json.loads((tmp_path / "labels" / "labels" / "v1" / digest[:2] / f"{digest}.json").read_text())
    assert record["key"] == KEY
    assert record["structure"]["numbers"] == [8, 1, 1]
    assert record["level_of_theory"] == {"name": "toy", "digest": THEORY.digest}


def test_a_record_has_the_kinds_that_its_key_depends_on(store, tmp_path):
    theory, atoms = replace(THEORY, distinguishes_kinds=True), WATER.copy()
    atoms.set_array("kinds", np.array(["Ow", "H", "H"]))
    store.put(label_key(atoms, theory), atoms, theory, label())
    (file,) = (tmp_path / "labels" / "labels").rglob("*.json")
    assert json.loads(file.read_text())["structure"]["kinds"] == ["Ow", "H", "H"]


def test_a_store_is_called_by_its_place(store, tmp_path):
    assert str(store) == str(tmp_path / "labels")


def test_a_label_is_claimed_on_behalf_of_somebody(store):
    mine, others = store.on_behalf_of(Claimant("mine")), store.on_behalf_of(Claimant("another's"))
    with mine.claimed(KEY):
        claim = store.claims.of(KEY)
        assert claim.work == "mine"
        with pytest.raises(LabelClaimed), others.claimed(KEY):
            pass
        with others.ignoring(frozenset({"of another"})).ignoring(frozenset({claim.token})).claimed(KEY):
            assert store.claims.of(KEY).work == "another's"


def test_who_ignores_a_silent_claim_goes_on_ignoring_those_before(store):
    ignoring = store.ignoring(frozenset({"a"})).ignoring(frozenset({"b"}))
    assert ignoring.claimant.dead == {"a", "b"}
    assert ignoring.storage is store.storage


def test_keys_are_those_of_labels(store):
    atoms = [WATER, bulk("Cu"), molecule("CH4")]
    for each in atoms:
        store.put(label_key(each, THEORY), each, THEORY, replace(label(), forces=np.zeros((len(each), 3))))
    failed = molecule("H2")
    store.put_failure(label_key(failed, THEORY), failed, THEORY, LabelFailure("timeout", "too slow"))
    assert sorted(store.keys()) == sorted(label_key(each, THEORY) for each in atoms)


def test_several_campaigns_share_a_store(tmp_path):
    first, second = LabelStore.in_folder(tmp_path), LabelStore.in_folder(tmp_path)
    first.put(KEY, WATER, THEORY, label(3))
    assert second.get(KEY).energy == label(3).energy


@pytest.mark.parametrize("kind", ["folder", "dict"])
def test_every_storage_keeps_the_promises_of_storage(tmp_path, kind):
    check_storage(FolderStorage(tmp_path / "new" / "folder") if kind == "folder" else DictStorage())


def test_the_store_works_on_any_storage():
    store = LabelStore(DictStorage())
    store.put(KEY, WATER, THEORY, label())
    assert list(store.keys()) == [KEY]
    assert store.outcome(KEY).energy == label().energy


def test_the_conformance_check_finds_a_storage_that_overwrites():
    class Overwriting(DictStorage):
        def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
            self.contents[name] = content
            return True

    with pytest.raises(AssertionError, match="a name that is taken"):
        check_storage(Overwriting())


class Away(DictStorage):
    """A storage whose file system is away when it is first asked for something, as often as is said."""

    def __init__(self, n_failures: int) -> None:
        super().__init__()
        self.n_failures = n_failures

    def __str__(self) -> str:
        return "the disk"

    def get(self, name: str) -> bytes | None:
        self._fail()
        return super().get(name)

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        self._fail()
        return super().put_new(name, content, durable=durable)

    def _fail(self) -> None:
        self.n_failures -= 1
        if self.n_failures >= 0:
            raise OSError(errno.ESTALE, "the disk is away")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(files, "RETRY_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_label_in_a_store_that_is_away_is_waited_for(caplog):
    store = LabelStore(Away(0))
    store.put(KEY, WATER, THEORY, label())
    store.storage.n_failures = 2
    assert store.get(KEY).energy == label().energy
    assert "the label store the disk cannot be read: [Errno 116] the disk is away. Until this is fixed" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_a_failure_is_kept_when_the_store_is_there_again(caplog):
    store = LabelStore(Away(2))
    assert store.put_failure(KEY, WATER, THEORY, LabelFailure("crash", "it broke"))
    assert [failure.message for failure in store.failures(KEY)] == ["it broke"]
    assert f"a failure of label {KEY[:11]} (crash) cannot be kept in the disk: [Errno 116]" in caplog.text


def test_a_store_that_stays_away_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", -1.0)
    with pytest.raises(StorageFailed, match=r"the disk cannot be read: .*Repair the disk, then give the same command"):
        LabelStore(Away(9)).get(KEY)
    with pytest.raises(
        StorageFailed, match=r"cannot be kept in the disk: .*Repair the disk, then give the same command"
    ):
        LabelStore(Away(9)).put_failure(KEY, WATER, THEORY, LabelFailure("crash", "it broke"))


def test_what_a_user_may_not_read_is_said_at_once():
    class Forbidden(DictStorage):
        def get(self, name: str) -> bytes | None:
            raise PermissionError(errno.EACCES, "not yours")

    with pytest.raises(PermissionError):
        LabelStore(Forbidden()).get(KEY)


def test_a_store_that_is_opened_gets_a_mark_and_knows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", -1.0)
    store = LabelStore.in_marked_folder(tmp_path / "labels")
    store.put(KEY, WATER, THEORY, label())
    assert LabelStore.in_marked_folder(tmp_path / "labels") == store
    (tmp_path / "labels" / MARK).write_text("another\n")
    with pytest.raises(StorageFailed, match="it is another one"):
        store.put_failure(KEY, WATER, THEORY, LabelFailure("crash", "it broke"))


def test_what_a_label_costs_does_not_grow_with_the_failures_of_others():
    class Counting(DictStorage):
        n_asked = 0

        def get(self, name: str) -> bytes | None:
            self.n_asked += 1
            return super().get(name)

        def list(self, prefix: str) -> Iterator[str]:
            raise AssertionError("a list takes the longer, the more there is")

    storage = Counting()
    store = LabelStore(storage)
    store.put_failure(KEY, WATER, THEORY, LabelFailure("timeout", "too slow"))
    for index in range(20):
        other = WATER.copy()
        other.positions[0, 0] += 0.01 * (index + 1)
        store.put_failure(label_key(other, THEORY), other, THEORY, LabelFailure("timeout", "too slow"))
    assert store.outcome(KEY).reason == "timeout"
    assert storage.n_asked <= 4  # the label, a failure, that there is no second one, and whether it is to be retried

"""Storage in buckets, against real services on loopback."""

import json
import logging
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ase.build import bulk
from object_stores import S3, SECRET, Azure, Fault, race
from pydantic import SecretStr, ValidationError

from surveyor import files
from surveyor.errors import InputError, LabelClaimed, StorageFailed
from surveyor.labels import Label, LabelStore, label_key
from surveyor.labels.claims import Claims
from surveyor.labels.look_ups import outcomes, reading_ahead
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.storage import MARK, FolderStorage
from surveyor.storage.buckets import AzureAccess, Bucket, GCSAccess, S3Access, client_of, store_address, without_secrets
from surveyor.storage.object_storage import N_RIVALS, ObjectStorage, prove, storage_at
from surveyor.testing.storage import check_storage
from surveyor.works.labelling import LABELLING, LabellingParameters

NOTHING_LISTENS = "http://127.0.0.1:9"
COPPER, REFERENCE = bulk("Cu"), EMTReference()
THEORY = REFERENCE.resolve()
KEY = label_key(COPPER, THEORY)


def is_put(method: str, path: str) -> bool:
    return method == "PUT"


def test_s3_keeps_the_promises_of_storage(s3: S3) -> None:
    check_storage(s3.storage())
    check_storage(s3.storage(prefix=""))


@pytest.mark.azurite
def test_azure_keeps_the_promises_of_storage(azure: Azure) -> None:
    storage = azure.storage()
    check_storage(storage)
    prove(storage)
    with pytest.raises(InputError, match="there is no such bucket"):
        prove(storage_at("az://missing/labels", azure.access))
    wrong = AzureAccess(account_name="devstoreaccount1", account_key="AAAA", endpoint=azure.url)
    with pytest.raises(InputError, match="refuses access"):
        prove(ObjectStorage(storage.bucket, wrong))


@pytest.mark.azurite
def test_claims_hold_on_azure(azure: Azure) -> None:
    claims = Claims(azure.storage())
    with claims.held(KEY), pytest.raises(LabelClaimed), claims.held(KEY):
        pass
    assert list(claims.storage.list("")) == []


def test_parts_of_a_bucket_are_storages_of_their_own(s3: S3) -> None:
    address = s3.new_bucket()
    one, other = (storage_at(f"{address}/{name}", s3.access) for name in ("a", "ab"))
    one.put_new("x", b"1")
    assert other.get("x") is None
    assert list(other.list("")) == []
    assert list(storage_at(address, s3.access).list("")) == ["a/x"]


def test_a_storage_arrives_at_workers_with_its_access(s3: S3) -> None:
    storage = s3.storage()
    storage.put_new("a", b"1")
    there = pickle.loads(pickle.dumps(storage))
    assert there == storage
    assert there.get("a") == b"1"


def test_credentials_come_from_the_environment_unless_they_are_given(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{s3.new_bucket()}/labels"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another account")
    client_of.cache_clear()
    prove(storage_at(address, s3.access))
    assert s3.tokens == set()
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    prove(storage_at(address))
    assert s3.tokens == {"of another account"}
    client_of.cache_clear()


# Creation whose answer is lost.


def test_a_record_whose_answer_is_lost_is_written_once_and_known_as_ones_own(s3: S3) -> None:
    storage, n_lost = s3.storage(), []

    def is_lost(method: str, path: str) -> bool:
        n_lost.append(path)
        return is_put(method, path) and len(n_lost) == 1

    with s3.failing(Fault(is_lost=is_lost)):
        assert storage.put_new("a", b"mine") is True
    assert storage.get("a") == b"mine"
    assert storage.put_new("a", b"mine") is False  # nothing was lost this time


def test_a_record_of_a_rival_is_not_taken_for_ones_own_when_the_answer_is_lost(s3: S3) -> None:
    storage = s3.storage()
    storage.put_new("a", b"theirs")
    requests = []

    def is_lost(method: str, path: str) -> bool:
        requests.append(method)
        return is_put(method, path) and len(requests) == 1

    with s3.failing(Fault(is_lost=is_lost)):
        assert storage.put_new("a", b"mine") is False
    assert storage.get("a") == b"theirs"


def test_of_rivals_whose_answers_get_lost_one_wins(s3: S3) -> None:
    storage, lost = s3.storage(), set()

    def is_lost(method: str, path: str) -> bool:
        first = is_put(method, path) and len(lost) < N_RIVALS
        lost.add(len(lost))
        return first

    with s3.failing(Fault(is_lost=is_lost)):
        won = race(N_RIVALS, lambda number: storage.put_new("a", b"%d" % number))
    assert won.count(True) == 1
    assert storage.get("a") == b"%d" % won.index(True)


def test_a_renewal_that_comes_too_late_changes_nothing(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = s3.storage()
    storage.put_new("a", b"mine")
    read = ObjectStorage.get_version

    def overtaken(self: ObjectStorage, name: str) -> tuple[bytes, dict[str, str]] | None:
        found = read(self, name)
        storage.remove(name)
        storage.put_new(name, b"theirs")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "get_version", overtaken)
        assert storage.renew("a", b"mine", b"mine, again") is False
    assert storage.get("a") == b"theirs"


# What is said, and when.


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(removed=("HTTP_IF_NONE_MATCH",)), "of two writers of one object, both succeed"),
        (Fault(ignored=("HTTP_IF_NONE_MATCH",)), r"of 8 writers of one object at the same time, [2-8] succeed"),
        (Fault(ignored=("HTTP_IF_MATCH",)), r"of 8 writers that replace one object at the same time, [2-8] succeed"),
        (Fault(removed=("HTTP_IF_MATCH",)), "it replaces an object that others have changed"),
        (Fault(status="403 Forbidden", is_refused=is_put), "refuses access"),
        (Fault(status="501 Not Implemented", is_refused=is_put), "501 Not Implemented"),
    ],
)
def test_a_service_that_cannot_keep_labels_is_refused(s3: S3, fault: Fault, why: str) -> None:
    storage = s3.storage()
    with s3.failing(fault), pytest.raises(InputError, match=why) as caught:
        prove(storage)
    assert str(storage) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_proof_leaves_nothing(s3: S3) -> None:
    storage = s3.storage()
    prove(storage)
    assert list(storage.list("")) == []


def labelling(folder: Path, address: str) -> LabellingParameters:
    (folder / "copper.xyz").write_text("1\n\nCu 0 0 0\n")
    given = {"structures": folder / "copper.xyz", "output_directory": folder / "run", "reference": {"emt": {}}}
    return LabellingParameters.model_validate({**given, "labels": address})


def test_work_begins_only_with_a_bucket_that_keeps_labels(s3: S3, tmp_path: Path) -> None:
    missing = labelling(tmp_path, "s3://missing/labels")
    with (
        pytest.raises(InputError, match=r"^labels: s3://missing/labels cannot be used \(there is no such bucket\)"),
        LABELLING.open(missing, access=s3.access),
    ):
        pass
    away = s3.access.model_copy(update={"endpoint": NOTHING_LISTENS})
    with pytest.raises(InputError, match="at a service that answers from here"), LABELLING.open(missing, access=away):
        pass
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "parameters.json").exists()


def test_work_that_continues_wants_the_bucket_that_it_has_used(s3: S3, tmp_path: Path) -> None:
    parameters = labelling(tmp_path, f"{s3.new_bucket()}/labels")
    with LABELLING.open(parameters, access=s3.access) as work:
        storage = work.store.storage
    with LABELLING.open(parameters, access=s3.access) as work:
        assert work.store.storage == storage
    storage.remove(MARK)
    with (
        pytest.raises(InputError, match=r"which now holds none; .* Restore the access to its service"),
        LABELLING.open(parameters, access=s3.access),
    ):
        pass
    recorded = json.loads((tmp_path / "run" / "parameters.json").read_text())["parameters"]
    assert recorded["labels"] == str(storage)
    elsewhere = parameters.model_copy(update={"labels": f"{s3.new_bucket()}/moved"})
    with LABELLING.open(elsewhere, access=s3.access) as work:
        assert work.store.storage.mark not in ("", storage.mark)


def test_a_label_waits_for_a_service_that_is_away(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "RETRY_S", 0.01)
    store, away = LabelStore(s3.storage()), []

    def is_away(*_request: str) -> bool:
        away.append(1)
        return "Until this is fixed, the work waits" not in caplog.text

    labeller = Labeller(REFERENCE, THEORY, store, tmp_path / "scratch")
    with s3.failing(Fault(status="503 Service Unavailable", is_refused=is_away)):
        label = label_structure(COPPER, labeller)
    assert isinstance(label, Label)
    assert f"the label store {store} cannot be read" in caplog.text
    assert store.get(KEY).energy == label.energy
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    broken = LabelStore(storage_at("s3://gone/labels", s3.access))
    with pytest.raises(StorageFailed, match="there is no such bucket"):
        broken.get(KEY)


def test_a_refusal_is_said_at_once(s3: S3) -> None:
    store = LabelStore(s3.storage())
    with (
        s3.failing(Fault(status="403 Forbidden", is_refused=lambda *_: True)),
        pytest.raises(PermissionError, match="403 Forbidden"),
    ):
        store.get(KEY)


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['obstore'] = None\n"
        "from surveyor.labels import LabelStore\n"
        "from surveyor.errors import InputError\n"
        "try: LabelStore.at('s3://bucket/labels').get('v1:ab')\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 's3://bucket/labels needs obstore, which is not installed here; run: pip install "surveyor[storage]"' in (
        done.stdout
    )


# Addresses and access.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/labels/", "s3://bucket/labels"),
        ("gs://bucket/a/b", "gs://bucket/a/b"),
        ("az://container//labels", "az://container/labels"),
        ("labels", Path("labels")),
        (Path("/data/labels"), Path("/data/labels")),
    ],
)
def test_an_address_is_that_of_a_folder_or_a_bucket(given: str | Path, expected: str | Path) -> None:
    assert store_address(given) == expected


@pytest.mark.parametrize("given", ["gcs://bucket", "http://bucket/labels", "s3://", "s3://bucket/a?x=1", "", 3])
def test_an_address_of_neither_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"expected a folder, or a bucket such as s3://bucket/labels"):
        store_address(given)


def test_a_path_that_was_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="give the address of a bucket as a text"):
        LabelStore.at(Path("s3://bucket/labels"))


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    assert LabelStore.at(tmp_path) == LabelStore.in_folder(tmp_path) == LabelStore.at(str(tmp_path))
    assert isinstance(LabelStore.at(tmp_path).storage, FolderStorage)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"labels": "labels", "storage": "s3/minio"}, "storage: found s3/minio, expected a bucket in labels"),
        ({"labels": "gs://b", "storage": "s3/minio"}, "expected a block of kind gcs for gs://b"),
        ({"labels": "s3://b", "storage": "minio"}, "expected the kind and name of a block, such as s3/minio"),
        ({"labels": "http://b"}, "found 'http://b', expected a folder, or a bucket"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(fields: dict[str, str], why: str) -> None:
    least = {"structures": "a.xyz", "output_directory": "run", "reference": {"emt": {}}}
    with pytest.raises(ValidationError, match=why):
        LabellingParameters.model_validate(least | fields)


@pytest.mark.parametrize(
    ("access", "fields", "why"),
    [
        (S3Access, {"access_key_id": "me"}, "expected both access_key_id and secret_access_key, or neither"),
        (S3Access, {"session_token": "x"}, "expected access_key_id and secret_access_key, too"),
        (S3Access, {"endpoint": "minio:9000"}, "should match pattern"),
        (AzureAccess, {"account_name": "a", "account_key": "b", "sas_token": "c"}, "found both"),
        (AzureAccess, {"account_key": "b"}, "account_name: found none"),
    ],
)
def test_access_that_cannot_work_is_refused(access: type[S3Access], fields: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        access(**fields)


def test_secrets_are_in_no_message_and_no_representation(s3: S3) -> None:
    storage = ObjectStorage(Bucket.at("s3://bucket/labels"), s3.access)
    texts = [str(storage), repr(storage), s3.access.model_dump_json(), repr(LabelStore(storage))]
    assert [text for text in texts if SECRET in text] == []
    access = AzureAccess(account_name="a", sas_token="sv=1&sig=abc", endpoint=NOTHING_LISTENS)
    error = ValueError(f"GET http://host/a/b?sv=1&sig=abc failed, sv=1&sig=abc\n\nDebug source: {SECRET}")
    assert without_secrets(error, access) == "GET http://host/a/b?********** failed, **********"
    with pytest.raises(OSError, match="Error performing") as caught:
        storage_at("az://labels", access).get("x")
    assert "sig" not in str(caught.value)


def test_a_wrong_key_of_a_service_account_is_said_without_the_key() -> None:
    key = SecretStr(json.dumps({"private_key": "planted"}))
    with pytest.raises(InputError, match=r"^gs://bucket: .*; correct the access to it") as caught:
        prove(storage_at("gs://bucket", GCSAccess(service_account_key=key)))
    assert "planted" not in str(caught.value)


# Many look-ups.


def test_many_look_ups_give_what_one_gives(s3: S3) -> None:
    store = LabelStore(s3.storage())
    keys = [f"v1:{number:064x}" for number in range(300)]
    for key in keys[::3]:
        store.put(key, COPPER, THEORY, Label(float(int(key[3:], 16)), COPPER.positions))
    found = list(outcomes(store, keys))
    assert [key for key, _ in found] == keys
    assert [None if each is None else each.energy for _, each in found] == [
        None if number % 3 else float(number) for number in range(300)
    ]
    with reading_ahead(store, keys) as outcome_of:
        order = [keys[0], keys[1], keys[0], *keys[2:20]]
        assert [outcome_of(key) is None for key in order] == [int(key[3:], 16) % 3 > 0 for key in order]


def test_look_ups_go_side_by_side(s3: S3) -> None:
    store = LabelStore(s3.storage())
    at_once, most = [], []

    def count(*_request: str) -> bool:
        at_once.append(1)
        most.append(len(at_once))
        if len(at_once) > 8:
            released.set()
        released.wait(1)
        at_once.pop()
        return False

    released = threading.Event()
    with s3.failing(Fault(is_refused=count)):
        list(outcomes(store, [f"v1:{number:064x}" for number in range(20)]))
    assert max(most) > 8


def test_a_failure_among_many_look_ups_is_raised(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    store = LabelStore(s3.storage())
    with (
        s3.failing(Fault(status="403 Forbidden", is_refused=lambda *_: True)),
        pytest.raises(PermissionError),
    ):
        list(outcomes(store, [f"v1:{number:064x}" for number in range(300)]))

"""Copies of checkpoints in a bucket: whole ones alone are taken, older ones go, keys are named and never shown."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_server import Bucket, bucket
from tiny_model import spec, write_checkout

from infra.launch import _check_secrets
from pushtrain.copies.bucket import KEYS
from pushtrain.errors import SpecError
from pushtrain.redact import redact
from pushtrain.spec import TrainingSpec
from pushtrain.spec.file import load
from trainer.checkpoint import MARKER, mark_complete
from trainer.copies import Copies, elsewhere, fetch, forget
from trainer.copies.bucket import BucketCopies
from trainer.failures import CheckpointsRefused, CheckpointsUnreachable
from trainer.job import Inputs, Job

SECRET = "canary-secret-of-the-copies"
URL = "s3://copies/team/a"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket("copies", access_key="AKIDCOPIES", secret_key=SECRET) as served:
        for name, value in {
            "ACCESS_KEY_ID": "AKIDCOPIES",
            "SECRET_ACCESS_KEY": SECRET,
            "ENDPOINT_URL": served.url,
            "REGION": "auto",
        }.items():
            monkeypatch.setenv(f"{KEYS}{name}", value)
        yield served
        assert not served.refused or served.refused[0].endswith(("SignatureDoesNotMatch", "NoSuchBucket"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return job_in(tmp_path / "one")


def job_in(root: Path, url: str = URL) -> Job:
    root.mkdir()
    path = write_checkout(root, spec(publish={"repo": "demo/adapter", "checkpoints": url}))
    loaded = load(root / path, root)
    assert isinstance(loaded, TrainingSpec)
    inputs = Inputs(model_sha="a" * 40, data_version="sha256:b")
    return Job(
        spec=loaded, root=root, run_dir=root / "run", processes=1, run_id="r-1", commit=None, inputs=inputs,
        uploads=False,
    )  # fmt: skip


def written(job: Job, step: int, content: bytes = b"weights") -> Path:
    folder = job.checkpoints / f"checkpoint-{step}"
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter.bin").write_bytes(content + b"%d" % step)
    (folder / "deep" / "state.json").write_text("{}")
    (folder / "empty").touch()
    mark_complete(folder, job.recipe, is_final=False)
    return folder


def steps(store: Bucket) -> dict[int, bool]:
    """Step → whether its copy has a marker."""
    names = [key.removeprefix("team/a/r-1/checkpoint-").split("/", 1) for key in store.objects]
    return {int(step): [step, MARKER] in names for step, _ in names}


def test_a_copy_comes_back_byte_for_byte_and_is_gone_after_the_end(store: Bucket, job: Job, tmp_path: Path) -> None:
    folder = written(job, 20)
    place = elsewhere(job)
    assert place is not None and place.words == f"{URL}/r-1"
    place.put(folder)
    order = [key.rpartition("/")[2] for method, key in store.requests if method == "PUT"]
    assert order[-1] == MARKER and len(order) == 4, "the marker is written last"
    other = job_in(tmp_path / "two")
    fetch(other)
    came = other.checkpoints / "checkpoint-20"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 4 and all((came / name).read_bytes() == (folder / name).read_bytes() for name in files)
    assert [path.name for path in other.run_dir.iterdir()] == ["checkpoints"], "nothing else is left on the disk"
    assert not any("may-write" in key for key in store.objects)
    forget(job)
    assert store.objects == {}
    forget(job)


def test_of_a_copy_that_was_cut_off_nothing_is_taken(store: Bucket, job: Job, tmp_path: Path) -> None:
    place = BucketCopies(job)
    place.put(written(job, 20))
    place.put(written(job, 30))
    del store.objects[f"team/a/r-1/checkpoint-30/{MARKER}"]
    other = job_in(tmp_path / "two")
    fetch(other)
    assert [path.name for path in other.checkpoints.iterdir()] == ["checkpoint-20"]


@pytest.mark.parametrize("fault", ["other bytes", "cut", "gone", "no marker", "a path that leads out"])
def test_what_does_not_match_its_marker_is_passed_over_for_the_one_before(
    fault: str, store: Bucket, job: Job, tmp_path: Path
) -> None:
    place = BucketCopies(job)
    place.put(written(job, 20))
    place.put(written(job, 30))
    at = "team/a/r-1/checkpoint-30/"
    if fault == "other bytes":
        store.objects[f"{at}adapter.bin"] = b"x" * len(store.objects[f"{at}adapter.bin"])
    elif fault == "cut":
        store.objects[f"{at}adapter.bin"] = store.objects[f"{at}adapter.bin"][:-1]
    elif fault == "gone":
        del store.objects[f"{at}deep/state.json"]
    elif fault == "no marker":
        store.objects[f"{at}{MARKER}"] = b"{"
    else:
        marker = json.loads(store.objects[f"{at}{MARKER}"])
        marker["files"]["../../../stolen"] = {"size": 1, "sha256": "0"}
        store.objects[f"{at}{MARKER}"] = json.dumps(marker).encode()
        store.objects[f"{at}../../../stolen"] = b"x"
    other = job_in(tmp_path / "two")
    fetch(other)
    assert [path.name for path in other.checkpoints.iterdir()] == ["checkpoint-20"]
    assert not (tmp_path / "stolen").exists() and not list(tmp_path.rglob("stolen"))


def test_another_recipe_s_copies_are_left_alone(store: Bucket, job: Job, tmp_path: Path) -> None:
    BucketCopies(job).put(written(job, 20))
    other = replace(job_in(tmp_path / "two"), inputs=Inputs(model_sha="c" * 40, data_version="sha256:b"))
    fetch(other)
    assert not other.checkpoints.exists() and steps(store) == {20: True}


def test_the_last_two_whole_ones_stay_and_leftovers_go(store: Bucket, job: Job) -> None:
    place = BucketCopies(job)
    store.objects["team/a/r-1/checkpoint-5/adapter.bin"] = b"of a copy that was cut off"
    store.objects["team/a/r-10/checkpoint-5/adapter.bin"] = b"another run's"
    store.unfinished["u1"] = ("team/a/r-1/checkpoint-5/model.bin", {1: b"x"})
    for step in (10, 20, 30):
        place.put(written(job, step))
    assert store.objects.pop("team/a/r-10/checkpoint-5/adapter.bin") == b"another run's"
    assert steps(store) == {20: True, 30: True} and store.unfinished == {}
    gone = [key for method, key in store.requests if method == "DELETE" and "checkpoint-10/" in key]
    assert gone[0].endswith(MARKER), "the marker goes first"


def test_a_large_file_goes_and_comes_in_parts(
    store: Bucket, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.copies.bucket._PART_BYTES", 5)
    BucketCopies(job).put(written(job, 20, content=b"0123456789" * 3))
    assert any(method == "POST" for method, _ in store.requests)
    other = job_in(tmp_path / "two")
    fetch(other)
    assert (other.checkpoints / "checkpoint-20" / "adapter.bin").read_bytes() == b"0123456789" * 3 + b"20"


def test_keys_that_may_not_write_end_it_before_the_training(
    store: Bucket, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{KEYS}SECRET_ACCESS_KEY", f"{SECRET}-wrong")
    with pytest.raises(CheckpointsRefused, match=f"{KEYS}SECRET_ACCESS_KEY") as refused:
        fetch(job)
    assert "canary" not in f"{refused.value}{refused.value.hint}" and refused.value.exit_code == 2


def test_a_bucket_that_is_not_there_is_named(store: Bucket, tmp_path: Path) -> None:
    with pytest.raises(CheckpointsRefused, match="s3://elsewhere"):
        fetch(job_in(tmp_path / "two", url="s3://elsewhere"))


def test_a_copy_that_fails_costs_the_training_nothing(
    store: Bucket, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = Copies(job)

    def broken(*_: Any) -> None:
        raise CheckpointsUnreachable("no answer")

    monkeypatch.setattr(BucketCopies, "put", broken)
    copies.offer(written(job, 20))
    copies.close(60.0)
    assert "checkpoint-20 was not copied to s3://copies/team/a/r-1: no answer" in capsys.readouterr().out
    assert SECRET not in redact(f"key {SECRET}")


def test_without_its_keys_a_job_is_refused_before_anything_is_rented(job: Job) -> None:
    with pytest.raises(SpecError, match=f"publish.checkpoints: {KEYS}ACCESS_KEY_ID and {KEYS}SECRET_ACCESS_KEY"):
        _check_secrets(job.spec, {})
    _check_secrets(job.spec, {f"{KEYS}ACCESS_KEY_ID": "a", f"{KEYS}SECRET_ACCESS_KEY": "b"})
    assert f"{KEYS}SECRET_ACCESS_KEY" in job.spec.secrets and "volumes" in job.spec.extras
    assert job.spec.copies_to == f"in {URL}"


@pytest.mark.parametrize(
    "url", ["s3://k:s@b/x", "s3://bucket/../x", "s3://bucket/x?y=1", "gs://bucket/x", "https://bucket/x", "s3://B/x"]
)
def test_a_url_that_is_more_than_a_name_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="checkpoints"):
        TrainingSpec.model_validate(spec(publish={"repo": "demo/adapter", "checkpoints": url}))


def test_copies_go_to_one_place() -> None:
    both = {"repo": "demo/adapter", "checkpoints": URL, "hub_strategy": "checkpoint"}
    with pytest.raises(ValueError, match="copies go to one place"):
        TrainingSpec.model_validate(spec(publish=both))

"""Rows in a bucket: copied once under the hash of their bytes, with keys of the environment, refused in plain words."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3_server import bucket
from tiny_model import rows, spec, write_checkout

from pushtrain.spec import TrainingSpec
from pushtrain.spec.file import load
from trainer import preflight
from trainer.data import buckets, local_rows
from trainer.failures import DatasetError, DataUnreachable
from trainer.job import Inputs, Job

CONTENT = "".join(json.dumps(row) + "\n" for row in rows()).encode()
SECRET = "canary-secret-bucket-key"


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "volume" / "huggingface"))
    return tmp_path / "volume" / "pushtrain" / "objects"


@pytest.fixture
def stored() -> Any:
    """fsspec's own store in memory, with one object in it."""
    store = fsspec.filesystem("memory")
    store.pipe("/data/rows.jsonl", CONTENT)
    yield store
    store.rm("/data", recursive=True)


def job(root: Path, url: str, version: str) -> Job:
    loaded = load(root / write_checkout(root, spec(data={"source": url})), root)
    assert isinstance(loaded, TrainingSpec)
    inputs = Inputs(model_sha="a" * 40, data_version=version)
    return Job(
        spec=loaded, root=root, run_dir=root, processes=1, run_id="run", commit=None, inputs=inputs, uploads=False
    )


def test_an_object_is_copied_under_the_hash_of_its_bytes(stored: Any, volume: Path, tmp_path: Path) -> None:
    version = buckets.fetch("memory://data/rows.jsonl")
    kept = buckets.copy_of("memory://data/rows.jsonl", version)
    assert kept.read_bytes() == CONTENT
    assert [kept] == list(volume.iterdir())
    found = local_rows(job(tmp_path, "s3://data/rows.jsonl", version))
    assert found is not None and [row.record for row in found] == rows()
    assert found.shown == "s3://data/rows.jsonl"


def test_a_run_keeps_the_bytes_it_began_with(stored: Any, volume: Path) -> None:
    url, pins = "memory://data/rows.jsonl", dict[str, object]()
    version = preflight._pinned_object(pins, url)
    stored.pipe("/data/rows.jsonl", CONTENT[:-9])
    assert preflight._pinned_object(pins, url) == version  # the copy is there: nobody is asked
    buckets.copy_of(url, version).unlink()
    with pytest.raises(DatasetError, match="has changed since this run began"):
        preflight._pinned_object(pins, url)


def test_an_object_that_is_not_there_and_a_package_that_is_not_installed_are_named(monkeypatch: Any) -> None:
    with pytest.raises(DatasetError, match=r"memory://data/gone.jsonl is not there"):
        buckets.fetch("memory://data/gone.jsonl")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(DatasetError, match=r"s3fs, which reads s3://, is not installed") as refused:
        buckets.fetch("s3://data/rows.jsonl")
    assert "uv sync --extra s3" in str(refused.value.hint)


def test_what_breaks_on_the_way_is_tried_again_and_leaves_nothing(monkeypatch: Any, volume: Path) -> None:
    class Broken(fsspec.implementations.memory.MemoryFileSystem):  # type: ignore[name-defined,misc]
        def open(self, *_: Any, **__: Any) -> Any:
            raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(buckets, "_store", lambda _: Broken())
    slept: list[float] = []
    with pytest.raises(DataUnreachable, match="reset by peer"):
        buckets.fetch("memory://data/rows.jsonl", slept.append)
    assert slept == list(buckets.RETRY_DELAYS_S)
    assert not list(volume.iterdir())


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Any:
    s3fs = pytest.importorskip("s3fs", reason="s3:// needs the extra s3")
    s3fs.S3FileSystem.clear_instance_cache()
    with bucket("data", access_key="AKIDEXAMPLE", secret_key=SECRET) as served:
        served.objects["train/rows.jsonl"] = CONTENT
        for name, value in {
            "PUSHTRAIN_DATA_AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "PUSHTRAIN_DATA_AWS_SECRET_ACCESS_KEY": SECRET,
            "PUSHTRAIN_DATA_AWS_ENDPOINT_URL": served.url,
            "PUSHTRAIN_DATA_AWS_REGION": "auto",
            "AWS_ACCESS_KEY_ID": "of-the-state",
            "AWS_SECRET_ACCESS_KEY": "canary-secret-of-the-state",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield served
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_is_read_with_the_keys_of_the_environment(s3: Any, volume: Path) -> None:
    version = buckets.fetch("s3://data/train/rows.jsonl")
    assert buckets.copy_of("s3://data/train/rows.jsonl", version).read_bytes() == CONTENT
    assert not s3.refused


def test_on_a_machine_of_ones_own_the_usual_names_do(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL", "REGION"):
        value = os.environ[f"PUSHTRAIN_DATA_AWS_{name}"]
        monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.delenv(f"PUSHTRAIN_DATA_AWS_{name}")
    assert buckets.fetch("s3://data/train/rows.jsonl").startswith("sha256:")


def test_keys_that_may_not_read_are_said_without_the_key(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHTRAIN_DATA_AWS_SECRET_ACCESS_KEY", f"{SECRET}-wrong")
    with pytest.raises(DatasetError, match="may not be read") as refused:
        buckets.fetch("s3://data/train/rows.jsonl")
    assert "canary" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.parametrize(
    "url",
    [
        "s3://data/rows.txt",
        "s3://data/../rows.jsonl",
        "s3://key:secret@data/rows.jsonl",
        "s3://data/rows.jsonl?x=1",
        "S3://data/rows.jsonl",
        "gs://d/rows.jsonl",
        "https://data/rows.jsonl",
        "memory://data/rows.jsonl",
    ],
)
def test_a_url_that_is_more_than_a_name_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="source"):
        TrainingSpec.model_validate(spec(data={"source": url}))


def test_a_bucket_brings_its_keys_and_its_package_to_the_pod_and_is_no_pinned_input() -> None:
    made = TrainingSpec.model_validate(spec(data={"source": "s3://data/train/rows.parquet"}))
    assert made.extras == ("s3",)
    assert {"HF_TOKEN", "PUSHTRAIN_DATA_AWS_SECRET_ACCESS_KEY"} <= set(made.secrets)
    assert "AWS_SECRET_ACCESS_KEY" not in made.secrets
    assert any("data.source" in text for text in made.floating)
    with pytest.raises(ValueError, match="has split, which is for a dataset of the Hub"):
        TrainingSpec.model_validate(spec(data={"source": "gs://data/x.csv", "split": "test"}))

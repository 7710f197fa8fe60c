"""The demo's real input: data from the machine's own docstrings, and a small base model trained on the same text."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pushtrain.demo.world import PROJECT
from pushtrain.demo_data import build, corpus
from pushtrain.errors import PushtrainError
from pushtrain.ledger import RunRecord

BASE_REPO = "demo/stdlib-base"


def build_data(cache: Path) -> Path:
    """The JSONL file of questions and answers; the same bytes for one Python version."""
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "stdlib-qa.jsonl"
    build(target)
    return target


def build_model(cache: Path) -> Path:
    """The base model's folder, kept under the digest of its text and of its builder. Raises PushtrainError."""
    text = cache / "corpus.txt"
    text.write_text(corpus())
    builder = PROJECT / "trainer" / "demo_base.py"
    digest = hashlib.sha256(text.read_bytes() + builder.read_bytes()).hexdigest()[:12]
    target, half = cache / f"model-{digest}", cache / f"half-{digest}"
    if target.exists():
        return target
    done = subprocess.run(
        [sys.executable, "-m", "trainer.demo_base", "--data", str(text), "--out", str(half)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PushtrainError(
            "the base model could not be built: " + done.stderr.strip()[-400:],
            hint="the trainer extra must be installed: uv sync --all-extras",
            reason="NoBaseModel",
        )
    half.rename(target)
    return target


def publish(model: Path, env: Mapping[str, str]) -> str:
    """Put the base model on the simulator's Hub; returns its commit."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=env["HF_ENDPOINT"], token=env["HF_TOKEN"])
    api.create_repo(BASE_REPO, exist_ok=True, private=False)
    return str(api.upload_folder(repo_id=BASE_REPO, folder_path=model, commit_message="A small base model").oid)


def fetch_adapter(record: RunRecord, target: Path, env: Mapping[str, str]) -> Path:
    """Download the published adapter at the revision the ledger names, and check every file's sha256 against it.

    Raises PushtrainError when a file differs.
    """
    from huggingface_hub import snapshot_download

    adapter = (record.result or {})["adapter"]
    snapshot_download(
        adapter["repo"],
        revision=adapter["revision"],
        local_dir=target,
        endpoint=env["HF_ENDPOINT"],
        token=env["HF_TOKEN"],
    )
    for name, digest in adapter["files"].items():
        if hashlib.sha256((target / name).read_bytes()).hexdigest() != digest:
            raise PushtrainError(f"{name} on the Hub is not what the ledger records", reason="AdapterDiffers")
    return target

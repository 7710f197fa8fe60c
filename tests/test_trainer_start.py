"""What the trainer finds out before it imports torch: seconds of a pod, not minutes or a training for nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import ALICE, READER, STRANGER, Hub
from tiny_model import MODEL_ID, Bench, hub_with_model, rows

from trainer.failures import DiskFull

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_with_model(tmp_path_factory.mktemp("start")) as hub:
        yield hub


@pytest.fixture
def bench(hub: Hub, tmp_path: Path) -> Bench:
    return Bench(tmp_path, hub, tmp_path / "home")


def test_a_model_that_is_not_there_is_exit_2_and_names_it(bench: Bench) -> None:
    bench.write(model={"id": "demo/nowhere"})
    assert bench.run() == 2
    failure = bench.file("failure.json")
    assert failure["reason"] == "ModelNotFound"
    assert "demo/nowhere" in failure["message"]


def test_a_revision_that_is_not_there_is_exit_2_and_names_it(bench: Bench) -> None:
    bench.write(model={"id": MODEL_ID, "revision": "v9"})
    assert bench.run() == 2
    failure = bench.file("failure.json")
    assert failure["reason"] == "RevisionNotFound"
    assert failure["message"].startswith(f"model {MODEL_ID} at v9: the Hub has no such revision (a branch, a tag or")


def test_weights_divided_by_deepspeed_need_deepspeed(bench: Bench) -> None:
    if find_spec("deepspeed"):
        pytest.skip("deepspeed is installed here")
    bench.write(train={"parallel": "deepspeed_zero3"}, compute={"gpus": ["NVIDIA A40"], "count": 2})
    assert bench.run() == 2
    failure = bench.file("failure.json")
    assert failure["reason"] == "ParallelUnavailable"
    assert "fsdp2" in failure["message"] and "--extra deepspeed" in failure["message"]


def test_a_dataset_that_is_not_there_is_exit_2(bench: Bench) -> None:
    bench.write(data={"source": "hf://datasets/demo/nothing"})
    assert bench.run() == 2
    assert bench.file("failure.json")["reason"] == "DatasetError"


def test_a_row_without_a_field_is_exit_2_and_the_row_is_named(bench: Bench) -> None:
    bench.write([*rows(4), {"prompt": "no completion"}])
    assert bench.run() == 2
    failure = bench.file("failure.json")
    assert failure["reason"] == "DatasetError"
    assert "data/rows.jsonl:5" in failure["message"]
    assert "completion" in failure["message"]


def test_messages_need_a_template_and_the_commit_may_have_one(bench: Bench) -> None:
    turns = [{"role": "user", "content": "what is red"}, {"role": "assistant", "content": "a bird"}]
    bench.write([{"messages": turns}] * 20, train={"chat_template_path": "data/chat.jinja", "max_length": 300})
    assert bench.run() == 2
    assert "train.chat_template_path 'data/chat.jinja' is not there" in bench.file("failure.json")["message"]
    (bench.root / "data" / "chat.jinja").write_text("{{ raise_exception('not these') }}")
    assert bench.run() == 2
    assert "takes 256 tokens at most" in bench.file("failure.json")["message"], "before the rows are written"
    bench.write([{"messages": turns}] * 20, train={"chat_template_path": "data/chat.jinja"})
    assert bench.run() == 2
    assert (
        "data/rows.jsonl:2: row 2: no chat text can be made of it: not these" in bench.file("failure.json")["message"]
    )


def test_an_empty_dataset_is_exit_2(bench: Bench) -> None:
    bench.write([])
    assert bench.run() == 2
    assert "empty" in bench.file("failure.json")["message"]


def test_a_spec_that_is_wrong_is_exit_2(bench: Bench) -> None:
    bench.write(train={"learning_rate": 7.0})
    assert bench.run() == 2
    assert bench.file("failure.json")["reason"] == "InvalidSpec"


@pytest.mark.parametrize("token", [READER, STRANGER, "canary-secret-nobody", ""])
def test_a_token_that_may_not_write_is_found_out_at_once(bench: Bench, hub: Hub, token: str) -> None:
    hub.alice.create_repo("demo/adapter", exist_ok=True)
    bench.write()
    assert bench.run(HF_TOKEN=token, PUSHTRAIN_RUN_ID="tiny-run") == 1
    failure = bench.file("failure.json")
    assert failure["reason"] == "HubForbidden"
    assert "demo/adapter" in failure["message"]


def test_a_hub_that_is_down_is_named_after_bounded_retries(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.upload.QUICK_RETRY_DELAYS_S", (0.0, 0.0))
    bench.write()
    hub.store.set_fault("hub_down", 3)
    assert bench.run() == 1
    assert bench.file("failure.json")["reason"] == "HubUnreachable"


def test_a_tracker_that_is_not_installed_is_said_before_the_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself takes for a module that is not there
    bench.write(track=["tensorboard", "wandb"])
    assert bench.run() == 2
    failure = bench.file("failure.json")["message"]
    assert "track: wandb is not installed here" in failure
    assert "--extra wandb" in failure


def test_no_check_imports_torch_and_no_secret_reaches_a_file_or_the_log(bench: Bench) -> None:
    bench.write(model={"id": MODEL_ID, "revision": "v9"})
    code = "import sys; from trainer.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *bench.command()],
        cwd=bench.root,
        env=bench.environ(),
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "2 False"
    written = "".join(path.read_text() for path in bench.run_dir.rglob("*") if path.is_file())
    assert ALICE not in done.stdout + done.stderr + written
    assert "Traceback" not in done.stdout + done.stderr


def test_a_later_attempt_keeps_the_revisions_of_the_first(bench: Bench, hub: Hub) -> None:
    from trainer.preflight import pin_inputs

    bench.write()
    bench.run_dir.mkdir()
    spec = bench.job().spec
    first = pin_inputs(spec, bench.root, bench.run_dir)
    hub.alice.upload_file(repo_id=MODEL_ID, path_in_repo="NEWS.md", path_or_fileobj=b"moved on")
    assert hub.alice.model_info(MODEL_ID).sha != first.model_sha
    assert pin_inputs(spec, bench.root, bench.run_dir) == first
    (bench.root / "data" / "rows.jsonl").write_text(json.dumps(rows()[0]) + "\n")
    assert pin_inputs(spec, bench.root, bench.run_dir).data_version != first.data_version


def test_a_disk_too_small_for_the_model_is_refused_with_both_sizes(bench: Bench, hub: Hub) -> None:
    from trainer.preflight import check_disk

    bench.write()
    check_disk(bench.job(), free=lambda _: 1_000_000)  # weights of 0.5 MB
    bench.write(method={"kind": "full"})
    with pytest.raises(DiskFull, match=r"need 0\.0 GB.*0\.0 free"):
        check_disk(bench.job(), free=lambda _: 1_000_000)

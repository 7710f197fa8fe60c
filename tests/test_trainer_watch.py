"""What a training says of itself, and what it does when it goes wrong: whole runs on the tiny model."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub
from tiny_model import Bench, hub_with_model

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_with_model(tmp_path_factory.mktemp("watch")) as hub:
        yield hub


@pytest.fixture
def bench(hub: Hub, tmp_path: Path) -> Bench:
    return Bench(tmp_path, hub, tmp_path / "home")


def test_alone_on_a_machine_it_trains_into_a_folder_of_its_own_and_says_that_nothing_is_uploaded(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main

    bench.write(publish={"repo": "demo/alone"}, train={"max_steps": 2})
    for name, value in {**bench.environ(), "HF_TOKEN": "", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(bench.home / "token"))
    with contextlib.chdir(bench.root):
        assert main(["jobs/tiny.yaml"]) == 0
    [run_dir] = (bench.root / "runs").iterdir()
    assert run_dir.name == f"tiny-{bench.job().spec.digest[:8]}"
    result = json.loads((run_dir / "attempt-1" / "result.json").read_text())
    assert (result["adapter"]["repo"], result["adapter"]["revision"]) == (None, None)
    assert {path.name for path in (run_dir / "adapter").iterdir()} >= result["adapter"]["files"].keys()
    assert not hub.alice.repo_exists("demo/alone")
    out = capsys.readouterr().out
    assert "no token" in out
    assert "nothing is uploaded, the result is in" in out
    names = ["start", "checks", "imports", "data", "download", "model", "trainer", "first_step"]
    assert list(result["phases_s"]) == names
    assert all(seconds >= 0 for seconds in result["phases_s"].values())


def test_alone_with_a_spec_that_is_wrong_it_says_so_and_leaves_no_folder(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main

    bench.write(train={"learning_rate": 7.0})
    with contextlib.chdir(bench.root):
        assert main(["jobs/tiny.yaml"]) == 2
    assert "learning_rate" in capsys.readouterr().out
    assert not (bench.root / "runs").exists()

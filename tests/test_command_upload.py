"""A command's files on the Hub: what goes where, what is asked first, and what the next attempt does after an outage.

The command itself has ended well in each of them: nothing is started here.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import ALICE, READER, USERS, Hub, point_client_at, running_server

from infra.simulator.hub_store import HubStore
from pushtrain.errors import PushtrainError
from pushtrain.spec import CommandSpec, job_spec
from trainer.checkpoint import Stop
from trainer.command.run import CommandJob, carry_out
from trainer.failures import ArtifactMissing, CommandFailed, HubForbidden, HubUnreachable
from trainer.report import Report

USERS_FILES = {"out/model.bin": b"weights" * 100_000, "out/notes.md": b"# notes\n"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    with running_server() as server, pytest.MonkeyPatch.context() as patch:
        point_client_at(server.url, folder / "client", patch)
        patch.setenv("HF_TOKEN", ALICE)
        patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
        patch.setattr("trainer.command.run.RETRY_DELAYS_S", (0.0,))
        patch.setattr("trainer.upload.QUICK_RETRY_DELAYS_S", (0.0,))
        yield server.serve(HubStore(folder / "hub", USERS))


class Bench:
    """A run whose command left `USERS_FILES` and ended with 0."""

    def __init__(self, folder: Path, repo: str, artifacts: list[str], **command: Any) -> None:
        document = {
            **{"version": 1, "name": "job", "task": "command", "compute": {"gpus": ["NVIDIA A40"]}},
            "budget": {"max_hours": 1, "max_usd": 1},
            "command": {"run": ["false"], "artifacts": artifacts, **command},
            "publish": {"repo": repo},
        }
        spec = job_spec(document)
        assert isinstance(spec, CommandSpec)
        self.run_dir = folder / "run"
        environ = {"PUSHTRAIN_RUN_ID": "job-run"}
        commit = "c" * 40
        self.job = CommandJob(
            spec=spec, root=folder, run_dir=self.run_dir, run_id="job-run", commit=commit, environ=environ
        )
        for name, content in USERS_FILES.items():
            (self.job.files / name).parent.mkdir(parents=True, exist_ok=True)
            (self.job.files / name).write_bytes(content)
        self.job.done.write_text(json.dumps({"exit_code": 0, "steps": 12}))

    def attempt(self, number: int = 1) -> dict[str, Any]:
        folder = self.run_dir / f"attempt-{number}"
        report = Report(folder)
        try:
            carry_out(self.job, report, Stop())
        finally:
            report.close()
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return result

    def states(self, number: int = 1) -> list[str]:
        lines = (self.run_dir / f"attempt-{number}" / "events.jsonl").read_text().splitlines()
        return [json.loads(line)["state"] for line in lines]


def test_an_attempt_after_the_end_uploads_alone_and_makes_one_commit(hub: Hub, tmp_path: Path) -> None:
    bench = Bench(tmp_path, "demo/once", ["out/*"])
    first = bench.attempt()
    assert bench.states() == ["preparing", "publishing"], "the command was not run again"
    assert first["metrics"] == {"exit_code": 0, "steps": 12}
    assert bench.attempt(2)["artifacts"] == first["artifacts"]
    assert len(hub.alice.list_repo_commits("demo/once")) == 2  # the one that made the repository, and ours
    info = hub.alice.model_info("demo/once", files_metadata=True)
    assert info.private and info.sha == first["artifacts"]["revision"]
    large = next(file for file in info.siblings or [] if file.rfilename == "out/model.bin")
    assert large.lfs is not None and large.lfs.sha256 == first["artifacts"]["files"]["out/model.bin"]


def test_a_hub_that_is_away_is_asked_again_and_the_next_attempt_goes_on(hub: Hub, tmp_path: Path) -> None:
    bench = Bench(tmp_path, "demo/away", ["out/*"])
    hub.store.set_fault("hub_upload_down", 100)
    with pytest.raises(HubUnreachable) as caught:
        bench.attempt()
    assert str(bench.job.files) in (caught.value.hint or "")
    hub.store.set_fault("hub_upload_down", 0)
    hub.store.set_fault("hub_commit_lost", 1)
    assert bench.attempt(2)["artifacts"]["repo"] == "demo/away"
    assert len(hub.alice.list_repo_commits("demo/away")) == 2, "the commit whose answer was lost was made again"


def test_a_command_that_must_not_be_started_twice_is_not(hub: Hub, tmp_path: Path) -> None:
    bench = Bench(tmp_path, "demo/twice", ["out/*"], restart=False)
    bench.job.done.unlink()
    (bench.run_dir / "started").touch()
    with pytest.raises(CommandFailed, match=r"command\.restart is false"):
        bench.attempt()


def test_what_is_there_goes_beside_main_when_a_pattern_matches_nothing(hub: Hub, tmp_path: Path) -> None:
    bench = Bench(tmp_path, "demo/part", ["out/*.bin", "report.md"])
    with pytest.raises(ArtifactMissing, match=r"'report\.md' matches no file; the others are in demo/part@"):
        bench.attempt()
    assert "out/model.bin" in hub.alice.list_repo_files("demo/part", revision="failed/job-run")
    assert "out/model.bin" not in hub.alice.list_repo_files("demo/part")


def test_who_may_not_write_is_told_before_anything_is_done(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.alice.create_repo("demo/closed")
    monkeypatch.setenv("HF_TOKEN", READER)
    bench = Bench(tmp_path, "demo/closed", ["out/*"])
    with pytest.raises(PushtrainError) as caught:
        bench.attempt()
    assert isinstance(caught.value, HubForbidden) and bench.states() == ["preparing"]
    assert ALICE not in str(caught.value)

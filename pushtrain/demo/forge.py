"""GitHub of the rehearsal: a hosted repository with its Actions, and the person who works with it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pushtrain.errors import PushtrainError
from pushtrain.gitcmd import git

if TYPE_CHECKING:
    from infra.simulator.github.actions import Event
    from infra.simulator.github.workflow import WorkflowRun

How = Literal["merge", "squash", "rebase"]
NAME, BRANCH = "first-lora", "first-lora"
SPEC, DATA = f"jobs/{NAME}.yaml", "data/stdlib-qa.jsonl"
SOURCE, LEDGER = "train.git", "train-runs.git"
# What the workflows get from their environment `gpu` alone.
KEYS = ("RUNPOD_API_KEY", "HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN")
# A hosted machine has neither: the checkout's remote is the source, its folder the place of the state.
_OURS = (*KEYS, "PUSHTRAIN_SOURCE_URL", "PUSHTRAIN_LEDGER_URL", "PUSHTRAIN_STATE_DIR", "PUSHTRAIN_ENGINE", "PYTHONPATH")


def job(revision: str) -> str:
    """The job that the pull request brings; `revision` is the base model's commit on the simulated Hub."""
    return f"""\
# yaml-language-server: $schema=schema.json
# A small model learns what Python's standard library is for.
version: 1                              # of this format
name: {NAME}                        # the file name without .yaml
task: sft                               # supervised fine-tuning
model:
  id: demo/stdlib-base                  # on the simulated Hub
  revision: {revision}
data:
  path: {DATA}            # prompt/completion rows, in the same commit
method: {{kind: lora, rank: 32, alpha: 64}}
train:
  max_steps: 40
  learning_rate: 4e-3                   # twenty times what a large model takes: this one is tiny
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 2
  max_length: 256
  packing: true
  gradient_checkpointing: false
compute:
  gpus: [NVIDIA A40]                    # simulated: the pod is a process on this machine
  volume: {{size_gb: 10}}
budget: {{max_hours: 0.5, max_usd: 0.5}}
publish: {{repo: demo/{NAME}}}
"""


class Forge:
    """`env` is a person's environment, with keys. `started` and `told` are those of `Actions`. Whoever makes one calls
    `close`."""

    def __init__(
        self,
        folder: Path,
        env: dict[str, str],
        *,
        started: "Callable[[WorkflowRun, Event], None]",
        told: Callable[[str, str], None],
    ) -> None:
        from infra.simulator.github.actions import Actions
        from infra.simulator.github.api import GitHubServer
        from infra.simulator.github.hosted import Hosted

        self.env = env | {"PUSHTRAIN_LEDGER_TOKEN": "of-the-rehearsal"}
        self.repository, source = folder / "repository", folder / SOURCE
        for bare in (source, folder / LEDGER):
            git(["init", "--quiet", "--bare", "--initial-branch=main", str(bare)], env=env)
        git(["init", "--quiet", "--initial-branch=main", str(self.repository)], env=env)
        git(["remote", "add", "origin", f"file://{source}"], env=env, cwd=self.repository)
        self._github = GitHubServer(hosted=Hosted(path=source, env=env), private=True)
        self._actions = Actions(
            folder=folder / "actions",
            github=self._github,
            env={name: value for name, value in env.items() if name not in _OURS},
            secrets={"gpu": {name: self.env[name] for name in KEYS}},
            variables={"PUSHTRAIN_LEDGER_URL": env["PUSHTRAIN_LEDGER_URL"]},
            started=started,
            told=told,
            step_limit_s=900.0,
        )

    def close(self) -> None:
        self._github.close()

    def switch_on(self) -> None:
        """The last step of "Your first run"."""
        self._actions.variables["PUSHTRAIN_ENABLED"] = "true"

    def write(self, path: str, content: bytes) -> None:
        target = self.repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def commit(self, message: str, branch: str) -> None:
        """Everything in the work tree, pushed as `branch`."""
        git(["checkout", "--quiet", "-B", branch], env=self.env, cwd=self.repository)
        git(["add", "--all"], env=self.env, cwd=self.repository)
        git(["commit", "--quiet", "--message", message], env=self.env, cwd=self.repository)
        git(["push", "--quiet", "origin", branch], env=self.env, cwd=self.repository)

    def happened(self) -> "list[WorkflowRun]":
        """Runs the workflows that the last pushes, pull requests and starts by hand start, and returns them."""
        return self._actions.settle()

    def open_pull_request(self, title: str) -> int:
        status, pull = self._github.open_pull({"head": BRANCH, "base": "main", "title": title})
        if status != 201:
            raise PushtrainError(f"the pull request was not opened: {pull}", reason="RehearsalFailed")
        return int(pull["number"])

    def merge(self, number: int, how: How) -> None:
        """As a person who presses the button; then `git pull`."""
        status, said = self._github.merge_pull(number, {"merge_method": how})
        if status != 200:
            raise PushtrainError(f"the pull request was not merged: {said}", reason="RehearsalFailed")
        git(["checkout", "--quiet", "main"], env=self.env, cwd=self.repository)
        git(["pull", "--quiet", "--ff-only", "origin", "main"], env=self.env, cwd=self.repository)

    def comments(self, number: int) -> list[str]:
        return [str(it["body"]) for it in self._github.comments.get(number, [])]

    def statuses(self) -> list[tuple[str, str]]:
        """Name and state of every commit status, in order."""
        return [(str(it["context"]), str(it["state"])) for it in self._github.statuses]

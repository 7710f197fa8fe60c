"""GitHub Actions on loopback: what happens to the repository starts the workflows that the commit has for it.

Which events start which file, and what a checkout gets, by docs.github.com/actions/reference/workflows-and-actions/
events-that-trigger-workflows: a pull request runs the files of refs/pull/N/merge, a schedule and a start by hand those
of the default branch; what the workflow's own token does starts nothing, but for a start by hand.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from infra.simulator.github.api import GitHubServer
from infra.simulator.github.hosted import Hosted
from infra.simulator.github.state import REPO
from infra.simulator.github.tools import install
from infra.simulator.github.workflow import Machine, WorkflowRun
from pushtrain.errors import PushtrainError

FOLDER = ".github/workflows"
_SKIP = re.compile(r"(?i)\[(skip ci|ci skip|no ci|skip actions|actions skip)\]")


@dataclass(frozen=True, kw_only=True)
class Event:
    """`ref` is a full name, `workflow` the one file that a schedule or a start by hand is for."""

    name: str
    ref: str
    sha: str
    before: str | None = None
    pull: int = 0
    action: str = ""
    workflow: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    actor: str = "ann"


@dataclass(kw_only=True)
class Actions:
    """`env` is a machine's, without any key; `secrets` are by environment, `variables` the repository's. `told` gets
    each line of a step with its job; `started` each run of a workflow before its first job.

    Everything that ever ran is in `runs`. Whoever makes one closes `github`.
    """

    folder: Path
    github: GitHubServer
    env: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]]
    variables: dict[str, str] = field(default_factory=dict)
    told: Callable[[str, str], None] = lambda job, line: None
    started: Callable[[WorkflowRun, Event], None] = lambda run, event: None
    step_limit_s: float = 300.0
    runs: list[WorkflowRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.github.hosted is not None
        self.hosted: Hosted = self.github.hosted
        self._tips: dict[str, str] = {}
        self._pulls: dict[int, str] = {}
        install(self.folder / "tools")

    def settle(self, *, rounds: int = 20) -> list[WorkflowRun]:
        """Runs what has happened since the last look, and what that started again; at most `rounds` times."""
        first = len(self.runs)
        for _ in range(rounds):
            events = [*self._pushes(), *self._pull_requests(), *self._dispatches()]
            if not events:
                break
            for event in events:
                self.happened(event)
        return self.runs[first:]

    def looked(self) -> None:
        """What is there now is no news: nothing of it starts anything."""
        self._pushes(), self._pull_requests(), self._dispatches()

    def scheduled(self, workflow: str) -> list[WorkflowRun]:
        return self.happened(self._on_main("schedule", workflow))

    def by_hand(self, workflow: str, **inputs: str) -> list[WorkflowRun]:
        """A person's workflow_dispatch; inputs that are not given have their defaults."""
        return self.happened(self._on_main("workflow_dispatch", workflow, inputs))

    def happened(self, event: Event) -> list[WorkflowRun]:
        """Runs every workflow that this event starts."""
        if event.name in ("push", "pull_request") and self._is_skipped(event):
            return []
        made = []
        for path in self.hosted.files(event.sha, FOLDER):
            document = YAML(typ="safe").load(self.hosted.file(event.sha, path))
            name = Path(path).name
            if event.workflow not in ("", name) or not self._starts(document["on"], event):
                continue
            run = self._run(name, document, event)
            self.runs.append(run)
            self.started(run, event)
            run.run()
            made.append(run)
        return made

    def _run(self, name: str, document: Mapping[str, Any], event: Event) -> WorkflowRun:
        number = str(len(self.runs) + 1)
        folder = self.folder / f"run-{number}"
        folder.mkdir(parents=True)
        payload = self._payload(event)
        (folder / "event.json").write_text(json.dumps(payload))
        wanted = (document["on"].get("workflow_dispatch") or {}).get("inputs", {})
        inputs = {key: str(it.get("default", "")) for key, it in wanted.items()} | dict(event.inputs)
        said = {
            "event_name": event.name,
            "repository": REPO,
            "ref": event.ref,
            "sha": event.sha,
            "actor": event.actor,
            "run_id": number,
        }
        context = {**said, "event": payload}
        env = {f"GITHUB_{key.upper()}": value for key, value in said.items()} | {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.github.url,
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_EVENT_PATH": str(folder / "event.json"),
            "PATH": f"{self.folder / 'tools'}:{self.env['PATH']}",
        }
        # An environment is for main alone; a fork gets neither variables nor a token that writes.
        own = dict(self.secrets) if event.name != "pull_request" else {}
        strange = self._is_fork(event)
        machine = Machine(
            env={**self.env, **env},
            url=f"file://{self.hosted.path}",
            secrets=own,
            token=self._token_that_reads if strange else self._token,
            told=self.told,
            step_limit_s=self.step_limit_s,
        )
        contexts = {"github": context, "vars": {} if strange else self.variables, "inputs": inputs}
        return WorkflowRun(name=name, document=document, folder=folder, contexts=contexts, machine=machine)

    def _payload(self, event: Event) -> dict[str, Any]:
        payload: dict[str, Any] = {"repository": {"full_name": REPO, "default_branch": "main"}, "ref": event.ref}
        if event.pull:
            payload |= {"number": event.pull, "action": event.action, "pull_request": self.github.pulls[event.pull]}
        return payload

    def _token(self, permissions: Mapping[str, str]) -> str:
        token = f"ghs_{secrets.token_hex(18)}"
        self.github.tokens.add(token)
        self.github.grants[token] = dict(permissions)
        return token

    def _token_that_reads(self, permissions: Mapping[str, str]) -> str:
        return self._token({name: "read" if level == "write" else level for name, level in permissions.items()})

    def _is_fork(self, event: Event) -> bool:
        return bool(event.pull) and self.github.pulls[event.pull]["head"]["repo"]["full_name"] != REPO

    def _starts(self, on: Mapping[str, Any], event: Event) -> bool:
        """Whether a workflow's `on` takes the event."""
        if event.name not in on:
            return False
        wanted = on[event.name] or {}
        if event.name != "push":
            return True
        if unknown := set(wanted) - {"branches", "paths"}:
            raise PushtrainError(f"on.push: {', '.join(sorted(unknown))} is not emulated", reason="NotEmulated")
        branch = event.ref.removeprefix("refs/heads/")
        if "branches" in wanted and not any(_fits(branch, it) for it in wanted["branches"]):
            return False
        paths = self.hosted.changed(event.before, event.sha) if "paths" in wanted else []
        return "paths" not in wanted or any(_fits(path, it) for path in paths for it in wanted["paths"])

    def _is_skipped(self, event: Event) -> bool:
        head = self.github.pulls[event.pull]["head"]["sha"] if event.pull else event.sha
        return bool(_SKIP.search(self.hosted.message(head)))

    def _pushes(self) -> list[Event]:
        before, self._tips = self._tips, self.hosted.branches()
        moved = [(name, tip) for name, tip in self._tips.items() if before.get(name) != tip]
        return [Event(name="push", ref=f"refs/heads/{it}", sha=tip, before=before.get(it)) for it, tip in moved]

    def _pull_requests(self) -> list[Event]:
        events = []
        for number, pull in self.github.pulls.items():
            tip = self._tips.get(pull["head"].get("ref", ""))
            if pull["state"] != "open" or tip is None or self._pulls.get(number) == tip:
                continue
            base = str(self.hosted.tip(pull["base"]["ref"]))
            pull["head"]["sha"], pull["base"]["sha"] = tip, base
            merge = self.hosted.propose(number, tip, base)
            action = "synchronize" if number in self._pulls else "opened"
            self._pulls[number] = tip
            if merge is not None and pull["user"]["type"] != "Bot":
                ref = f"refs/pull/{number}/merge"
                events.append(Event(name="pull_request", ref=ref, sha=merge, pull=number, action=action))
        return events

    def _dispatches(self) -> list[Event]:
        asked, self.github.dispatches[:] = list(self.github.dispatches), []
        return [self._on_main("workflow_dispatch", it["workflow"], it["inputs"]) for it in asked]

    def _on_main(self, name: str, workflow: str, inputs: Mapping[str, str] | None = None) -> Event:
        sha = str(self.hosted.tip("refs/heads/main"))
        return Event(name=name, ref="refs/heads/main", sha=sha, workflow=workflow, inputs=inputs or {})


def _fits(text: str, pattern: str) -> bool:
    """GitHub's globs: `**` stands for anything, `*` for anything but a slash."""
    parts = (".*" if it == "**" else "[^/]*" if it == "*" else re.escape(it) for it in re.split(r"(\*\*|\*)", pattern))
    return re.fullmatch("".join(parts), text) is not None

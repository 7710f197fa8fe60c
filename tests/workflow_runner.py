"""Runs a workflow's jobs on this machine: expressions, `needs`, `if`, env, outputs and every `run:` as GitHub does.

Stand-ins: checkout is a clone of a remote, the actions that install something do nothing, `uv` runs the tool of this
environment, `gh` notes what it is asked. An expression that is not understood is an error, not an empty text.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
INSTALLERS = ("astral-sh/setup-uv", "pulumi/actions")
_TOKENS = re.compile(r"\s*(?:('(?:[^']|'')*')|(always\(\))|([A-Za-z_][\w.-]*)|(==|!=|&&|\|\||!|\(|\)))")
_UV = """\
#!/bin/sh
case "$1" in
  sync) mkdir -p .venv/bin && ln -sf {tool} .venv/bin/pushtrain ;;
  run) shift 2; test "$1" = pushtrain || exit 64; shift; exec {tool} "$@" ;;
  *) exit 64 ;;
esac
"""
_GH = """\
#!/bin/sh
echo "$@" >> {log}
case "$*" in *--jq*) echo 0 ;; esac
"""


@dataclass(kw_only=True)
class Runner:
    """`contexts` are github, vars, secrets and inputs; `remotes` is what a checkout without `ref` clones.

    `steps` is what ran: job, step, exit code, output; `results` is job → success, failure or skipped."""

    folder: Path
    env: dict[str, str]
    remote: Path
    contexts: dict[str, Any]
    change: str = "main"
    """What a checkout without `ref` gets."""
    steps: list[tuple[str, str, int, str]] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tools = self.folder / "tools"
        tools.mkdir(parents=True)
        self.asked = self.folder / "gh.log"
        texts = {"uv": _UV.format(tool=Path(sys.executable).with_name("pushtrain")), "gh": _GH.format(log=self.asked)}
        for name, text in texts.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.env = self.env | {"PATH": f"{tools}:{self.env['PATH']}", "RUNNER_TEMP": str(self.folder)}
        self.summary = self.folder / "summary.md"

    def run(self, name: str) -> dict[str, str]:
        """Every job of a workflow, in the order they need each other; returns job → result."""
        workflow = YAML(typ="safe").load((FOLDER / f"{name}.yml").read_text("utf-8"))
        for key, job in workflow["jobs"].items():
            needs = job.get("needs") or []
            needs = [needs] if isinstance(needs, str) else needs
            ready = {it: {"result": self.results[it], "outputs": self.outputs.get(it, {})} for it in needs}
            condition = job.get("if", "success")
            fine = all(it["result"] == "success" for it in ready.values())
            wanted = fine if condition == "success" else self.value(condition, {"needs": ready})
            if condition != "success" and "always()" not in condition and not fine:
                wanted = False
            self.results[key] = self._job(key, job) if wanted else "skipped"
        return self.results

    def _job(self, key: str, job: dict[str, Any]) -> str:
        place = self.folder / f"job-{key}"
        place.mkdir()
        said: dict[str, Any] = {}
        env = self.env | self._env(job.get("env", {}), {})
        for number, step in enumerate(job["steps"]):
            here = {"steps": said}
            if not self.value(step.get("if", "always()"), here):
                continue
            if "uses" in step:
                self._use(step, place)
                continue
            output = self.folder / f"output-{key}-{number}"
            output.touch()
            files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.summary)}
            # As GitHub starts bash: fail at the first error, also inside a pipe.
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=place / step.get("working-directory", "."),
                env=env | files | self._env(step.get("env", {}), here),
                capture_output=True,
                text=True,
                timeout=120,
            )
            title = step.get("name", step["run"])
            self.steps.append((key, title, done.returncode, done.stdout + done.stderr))
            pairs = [line.partition("=") for line in output.read_text().splitlines()]
            said[step.get("id", title)] = {"outputs": {name: value for name, _, value in pairs}}
            if done.returncode != 0:
                return "failure"
        found = {name: str(self.value(text, {"steps": said})) for name, text in job.get("outputs", {}).items()}
        self.outputs[key] = found
        return "success"

    def _use(self, step: dict[str, Any], place: Path) -> None:
        action, given = step["uses"].partition("@")[0], step.get("with", {})
        if action in INSTALLERS:
            return
        assert action == "actions/checkout", action
        ref, path = str(self.value(given.get("ref", self.change), {})), place / given.get("path", ".")
        for command in (["clone", "-q", str(self.remote), str(path)], ["-C", str(path), "checkout", "-q", ref]):
            subprocess.run(["git", *command], env=self.env, check=True, timeout=60)

    def _env(self, wanted: dict[str, Any], more: dict[str, Any]) -> dict[str, str]:
        return {name: str(self.value(str(value), more)) for name, value in wanted.items()}

    def value(self, text: str, more: dict[str, Any]) -> Any:
        """A text with its expressions filled in; the value itself where it is one expression, or a bare condition."""
        whole = re.fullmatch(r"\$\{\{(.*?)\}\}", text.strip(), re.DOTALL)
        if whole or text == "always()":
            return self._expression(whole[1] if whole else text, more)
        return re.sub(r"\$\{\{(.*?)\}\}", lambda it: str(self._expression(it[1], more)), text)

    def _expression(self, text: str, more: dict[str, Any]) -> Any:
        words, at, names = [], 0, []
        text = text.strip()
        while at < len(text):
            token = _TOKENS.match(text, at)
            assert token, f"not understood: {text[at:]}"
            literal, always, name, operator = token.groups()
            at = token.end()
            if name:
                names.append(self._look_up(name, more))
            words.append(
                repr(literal[1:-1])
                if literal
                else "True"
                if always
                else f"names[{len(names) - 1}]"
                if name
                else {"&&": " and ", "||": " or ", "!": " not "}.get(operator, operator)
            )
        return eval("".join(words), {"__builtins__": {}}, {"names": names})

    def _look_up(self, name: str, more: dict[str, Any]) -> Any:
        found: Any = self.contexts | more
        for key in name.split("."):
            found = found.get(key, "") if isinstance(found, dict) else ""
        return found


def base_environ(env: dict[str, str]) -> dict[str, str]:
    """A runner's environment: what a person's control plane has, without the keys, which the workflow brings."""
    keys = ("RUNPOD_API_KEY", "HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "PUSHTRAIN_ENGINE", "PUSHTRAIN_LEDGER_URL")
    return {name: value for name, value in env.items() if name not in keys} | {"PATH": os.environ["PATH"]}

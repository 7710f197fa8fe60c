"""The demo's world: a simulator, a bare git remote with the hook, and a repository whose main branch it watches."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

import pushtrain
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.gitcmd import git, git_env

PROJECT = Path(pushtrain.__file__).parents[1]
# Beginnings of the variables that decide where the demo works: RUNPOD_, VAST_ and so on.
_CLOUDS = (name.partition("_")[0] + "_" for can in CLOUDS.values() for name in (can.key_name, can.pod.base_url))
_OURS = ("GIT_", "PUSHTRAIN_", "HF_", *dict.fromkeys(_CLOUDS))
HOOK = "#!/bin/sh\n# What .github/workflows/train.yml does on a push to main.\nexec {python} -m pushtrain.demo.action\n"


def demo_env(folder: Path, simulator_env: Mapping[str, str]) -> dict[str, str]:
    """The environment of everything the demo starts: the simulator instead of the cloud, one folder for all state."""
    remote = f"file://{folder / 'remote.git'}"
    env = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return env | {
        **simulator_env,
        "PUSHTRAIN_DEMO_DIR": str(folder),
        "PUSHTRAIN_SOURCE_URL": remote,
        "PUSHTRAIN_LEDGER_URL": remote,
        "PUSHTRAIN_STATE_DIR": str(folder / "state"),
        "PUSHTRAIN_TICK_S": "1",
        "PUSHTRAIN_SHIP_EVERY_S": "2",
        "PUSHTRAIN_ENGINE": os.environ.get("PUSHTRAIN_ENGINE", ""),
        "PYTHONPATH": str(PROJECT),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(folder / "hub-cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in _identity()},
    }


def fresh(folder: Path) -> Path:
    """An empty folder for this demo inside `folder`; the one of last time is removed, the base model is kept."""
    target = folder / "run"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return target


def write_env_file(path: Path, env: Mapping[str, str]) -> None:
    """The demo's environment for another terminal (`source` it); readable by its owner only."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items()) if name.startswith(_OURS)]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")


def stop_pods(simulator_dir: Path) -> None:
    """End every process of every pod, also when the simulator is dead already."""
    from infra.simulator import processes

    for pod in (*simulator_dir.glob("pods/*"), *simulator_dir.glob("*/pods/*")):
        processes.stop(pod.name, grace_s=0)


def make_remote(folder: Path, env: Mapping[str, str]) -> Path:
    """A bare repository with the hook: the place where GitHub would be."""
    remote = folder / "remote.git"
    git(["init", "--quiet", "--bare", "--initial-branch=main", str(remote)], env=env)
    hook = remote / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK.format(python=sys.executable))
    hook.chmod(0o755)
    return remote


def make_repository(folder: Path, remote: Path, data: Path, revision: str, env: Mapping[str, str]) -> Path:
    """A clone with this project's files, the data and the demo job switched on: what a user's repository is."""
    repository = folder / "repository"
    git(["init", "--quiet", "--initial-branch=main", str(repository)], env=env)
    git(["remote", "add", "origin", f"file://{remote}"], env=env, cwd=repository)
    for name in project_files():
        target = repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target)
    commit_all(repository, "The project, as one clones it", env)
    spec = switch_on(repository / "jobs" / "demo.yaml", revision)
    target = repository / spec["data"]["path"]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(data, target)
    return repository


def move(path: Path, cloud: str) -> None:
    """The same job at another cloud: one word."""
    text = path.read_text()
    path.write_text(text if cloud == DEFAULT_CLOUD else text.replace("compute:\n", f"compute:\n  cloud: {cloud}\n", 1))


def switch_on(path: Path, revision: str) -> dict[str, dict[str, str]]:
    """Lift `suspend` and pin the base model's revision, keeping the file's comments; returns the document."""
    yaml = YAML()
    yaml.width = 120
    document: dict[str, dict[str, str]] = yaml.load(path)
    document.pop("suspend", None)
    document["model"]["revision"] = revision
    with path.open("w") as file:
        yaml.dump(document, file)
    return document


def commit_all(repository: Path, message: str, env: Mapping[str, str]) -> str:
    """Commit everything; returns the commit."""
    git(["add", "--all"], env=env, cwd=repository)
    git(["commit", "--quiet", "--message", message], env=env, cwd=repository)
    return git(["rev-parse", "HEAD"], env=env, cwd=repository).stdout.decode().strip()


def push(repository: Path, env: Mapping[str, str]) -> None:
    git(["push", "--quiet", "origin", "main"], env=git_env("", None, env), cwd=repository)


def project_files() -> list[str]:
    """The files a clone would have: what git tracks, or everything but folders of tools and caches."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached"], cwd=PROJECT, capture_output=True, check=False
    ).stdout.decode()
    if listed:
        return [name for name in listed.split("\0") if name and (PROJECT / name).is_file()]
    skipped = {".git", ".venv", ".tools", ".pushtrain", "__pycache__"}
    paths = (path.relative_to(PROJECT) for path in PROJECT.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if not skipped & set(path.parts))


def _identity() -> tuple[tuple[str, str], tuple[str, str]]:
    return ("NAME", "A. Newcomer"), ("EMAIL", "newcomer@example.org")

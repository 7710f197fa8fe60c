"""What can be known of a command before anything is rented: its script, its folder, and where its files go."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pushtrain.committed import against_head
from pushtrain.spec import CommandSpec
from pushtrain.spec.file import Problem, SpecFile

_INTERPRETERS = ("bash", "sh", "dash", "zsh", "python", "python3", "perl", "node", "ruby", "Rscript")


def check_command(file: SpecFile, spec: CommandSpec, root: Path) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings. A suspended job may wait for its script: then what is wrong with it warns."""
    problems, warnings = [*_workdir(file, spec, root), *_script(file, spec, root)], list(_doubtful(file, spec, root))
    return ([], [*problems, *warnings]) if spec.suspend else (problems, warnings)


def _workdir(file: SpecFile, spec: CommandSpec, root: Path) -> Iterator[Problem]:
    workdir = spec.command.workdir
    if not (root / workdir).is_dir():
        message = f"command.workdir {workdir!r} is no folder here"
        yield Problem(where=file.where("command", "workdir"), message=message, hint="paths count from the repository")


def _script(file: SpecFile, spec: CommandSpec, root: Path) -> Iterator[Problem]:
    """A script that the kernel could not start would be found out on the pod, billed."""
    path, where = spec.command.run, file.where("command", "run")
    if not isinstance(path, str):
        return
    found = root / path
    bash = f"or let a program read it, run: [bash, {path}]"
    if not found.is_file():
        yield Problem(where=where, message=f"command.run {path!r} is no file here", hint="a list runs any program")
        return
    if not found.resolve().is_relative_to(root.resolve()):
        yield Problem(where=where, message=f"command.run {path!r} leads out of the repository")
        return
    with found.open("rb") as script:
        first = script.readline(200)
    if not first.startswith((b"#!", b"\x7fELF")):
        yield Problem(where=where, message=f"command.run {path!r} has no #! line", hint=f"begin it with one, {bash}")
    elif first.startswith(b"#!") and first.rstrip(b"\n").endswith(b"\r"):
        message = f"command.run {path!r} has Windows line ends, and its #! line names no program"
        yield Problem(where=where, message=message, hint="git config core.autocrlf input, and add it anew")
    elif not os.access(found, os.X_OK):
        message = f"command.run {path!r} is not executable"
        yield Problem(where=where, message=message, hint=f"git update-index --chmod=+x {path}, {bash}")
    differs, is_absent = against_head(root, "command.run", path, found.resolve())
    if differs is not None and is_absent:
        yield Problem(where=where, message=differs, hint=f"git add {path}, and commit it")


def _doubtful(file: SpecFile, spec: CommandSpec, root: Path) -> Iterator[Problem]:
    command = spec.command
    if isinstance(command.run, list) and command.run[0] in _INTERPRETERS and len(command.run) > 1:
        script = command.run[1]
        is_path = PurePosixPath(script).suffix != "" and not script.startswith(("-", "/"))
        if is_path and not (root / command.workdir / script).exists():
            message = f"command.run: {script!r} is not in {command.workdir!r} here"
            yield Problem(where=file.where("command", "run", 1), message=message, hint="is it in the commit?")
    if command.artifacts and spec.publish is None:
        message = "command.artifacts are hashed and then lost with the run's volume: there is no publish"
        yield Problem(where=file.where("command", "artifacts"), message=message, hint="publish: {repo: ORG/NAME}")
    if spec.compute.ports:
        message = "compute.ports are open to the whole internet, without a password of ours"
        yield Problem(where=file.where("compute", "ports"), message=message, hint="let the command ask for one")

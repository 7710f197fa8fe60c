"""What a hosted runner brings along and this machine replaces: `uv` and `gh`. And what checkout does, by real git.

`uv sync` installs nothing: minutes and gigabytes a job. The commands are those of this environment, while the code of
pushtrain is that of the checkout in which they are called: a pull request, or a base, with another tool is judged by
that tool.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushtrain.gitcmd import git, git_env

PROJECT = Path(__file__).parents[3]
_UV = """\
#!/bin/sh
# uv sync [--project FOLDER] … | uv run [--project FOLDER] --no-sync COMMAND …
here=$PWD
verb=$1; shift
if [ "$1" = --project ]; then here=$PWD/$2; shift 2; fi
case "$verb" in
  sync)
    cd "$here" && test -f pyproject.toml && test -f uv.lock || { echo "uv: no project in $here" >&2; exit 2; }
    mkdir -p .venv/bin
    printf '#!/bin/sh\\nPYTHONPATH="%s" exec "@PYTHON@" -P -m pushtrain "$@"\\n' "$here" > .venv/bin/pushtrain
    chmod +x .venv/bin/pushtrain ;;
  run)
    test "$1" = --no-sync || exit 64
    command=$2; shift 2
    test "$command" = pushtrain && exec "$here/.venv/bin/pushtrain" "$@"
    PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "@BIN@/$command" "$@" ;;
  *) echo "uv: $verb is not emulated" >&2; exit 64 ;;
esac
"""
_GH = """\
#!/bin/sh
PYTHONPATH="@PROJECT@" exec "@PYTHON@" -P -m infra.simulator.github.gh "$@"
"""


def install(folder: Path) -> None:
    """Writes the two into `folder`, which goes first on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    python = Path(sys.executable)
    known = {"@PYTHON@": str(python), "@BIN@": str(python.parent), "@PROJECT@": str(PROJECT)}
    for name, text in (("uv", _UV), ("gh", _GH)):
        target = folder / name
        for mark, value in known.items():
            text = text.replace(mark, value)
        target.write_text(text)
        target.chmod(0o755)


def checkout(url: str, place: Path, given: Mapping[str, Any], event: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """actions/checkout: `ref` or the event's commit, `fetch-depth` commits of it (0: everything), into `path`.

    Raises LedgerError where git cannot.
    """
    unknown = set(given) - {"ref", "path", "fetch-depth", "persist-credentials"}
    assert not unknown, f"checkout: {unknown} is not emulated"
    path, git_environ = place / str(given.get("path", ".")), git_env(url, None, env)
    ref, depth = str(given.get("ref") or event["sha"]), int(given.get("fetch-depth", 1))

    def run(*args: str) -> None:
        git(args, env=git_environ, cwd=path)

    path.mkdir(parents=True, exist_ok=True)
    run("init", "--quiet")
    run("remote", "add", "origin", url)
    deep = [f"--depth={depth}"] if depth else []
    if len(ref) == 40 and ref.isalnum():
        everything = [] if depth else ["+refs/heads/*:refs/remotes/origin/*"]
        run("fetch", "--quiet", "--no-tags", *deep, "origin", *everything, ref)
        run("checkout", "--quiet", "--detach", ref)
    else:
        run("fetch", "--quiet", "--no-tags", *deep, "origin", f"+refs/heads/{ref}:refs/remotes/origin/{ref}")
        run("checkout", "--quiet", "-B", ref, f"refs/remotes/origin/{ref}")

"""Where a commit has pushtrain itself. Standard library only: the pod asks before anything is installed."""

from pathlib import Path

# Where `pushtrain init` puts it in a repository whose top has a project, or folders of our names, already.
ASIDE = "tools/pushtrain"


def tool_folder(checkout: Path) -> Path:
    """The folder with our `pyproject.toml`, `uv.lock` and packages: ASIDE where the commit has it, else the top."""
    aside = checkout / ASIDE
    return aside if (aside / "pushtrain" / "pod" / "agent.py").is_file() else checkout

"""Where a repository begins, without asking git."""

from pathlib import Path


def work_tree(folder: Path) -> Path:
    """The top of the work tree around `folder`: paths in specs count from there. `folder` itself outside of one."""
    return next((it for it in (folder, *folder.parents) if (it / ".git").exists()), folder)

"""Whether a file of the work tree is the one that a pod will fetch."""

from pathlib import Path


def against_head(root: Path, key: str, path: str, found: Path) -> tuple[str | None, bool]:
    """What is wrong with the file that `key` of a spec names, as the commit at HEAD has it, and whether it is not there
    at all. `found` is where its content is: `path` itself, or what that links to.

    Nothing is, where `root` is not in a git work tree.
    """
    from git import GitError, InvalidGitRepositoryError, Repo

    try:
        with Repo(root, search_parent_directories=True) as repo:
            if repo.working_tree_dir is None:
                return None, False
            top = Path(repo.working_tree_dir).resolve()
            # The name the spec uses may be a symlink; then the commit needs both the link and what it points to.
            for name in (root.resolve() / path, found):
                inside = name.relative_to(top).as_posix()
                entry = repo.git.ls_tree("--full-tree", "HEAD", "--", inside)
                if " blob " not in entry:
                    return f"{key} {path!r} is not in the commit", True
            if entry.split()[2] != repo.git.hash_object("--", str(found)):
                return f"{key} {path!r} has changes that are not in the commit", False
            return None, False
    except InvalidGitRepositoryError:
        return None, False
    except GitError as error:
        if "Not a valid object name HEAD" in str(error):
            return f"{key} {path!r} is not in the commit: there is no commit yet", True
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return f"git cannot say whether {key} {path!r} is in the commit: {said[-1] if said else 'no reason'}", True

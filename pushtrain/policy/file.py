"""The policy file to a Policy: from the work tree or from a commit, every problem with file:line:column."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pushtrain.errors import SpecError
from pushtrain.policy.model import POLICY_FILE, Policy
from pushtrain.spec.file import spec_error
from pushtrain.spec.problems import described, explain
from pushtrain.spec.yaml_tree import MAX_BYTES, Problem, Tree, read_tree

if TYPE_CHECKING:
    from git import Repo

_LINK = 0o120000


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFile:
    """What one policy file says. `policy` is None when there is a problem; a repository without the file has a policy
    that limits nothing, and `exists` is False."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    tree: Tree
    text: bytes = b""
    exists: bool = True

    def where(self, rule: str) -> str:
        """`file:line:column` of a rule, the file alone where the rule holds without being written."""
        at = self.tree.root.keys.get(rule) if self.tree.root is not None else None
        return self.tree.name if at is None else self.tree.where(at)

    def required(self) -> Policy:
        """The policy. Raises SpecError (reason InvalidPolicy) that names every problem: nothing is let through then."""
        if self.policy is None:
            failure = spec_error(self.problems)
            raise SpecError(str(failure), hint="while the policy cannot be read, nothing new is rented", reason=INVALID)
        return self.policy


INVALID = "InvalidPolicy"
NO_POLICY = PolicyFile(policy=Policy(version=1, trust_remote_code=True), tree=Tree(POLICY_FILE), exists=False)


def parse_policy(text: bytes, name: str = POLICY_FILE) -> PolicyFile:
    """Never raises for what the text says."""
    tree = read_tree(text, name)
    problems, policy = list(tree.problems), None
    if tree.root is not None and not isinstance(tree.root.value, dict):
        message = f"a policy is a mapping of keys, not {described(tree.root)}"
        problems.append(Problem(where=tree.where(tree.root.at), message=message, hint="start with 'version: 1'"))
    elif tree.root is not None:
        try:
            policy = Policy.model_validate(tree.root.value)
        except ValidationError as invalid:
            known = {problem.where for problem in problems}
            found = explain(invalid, tree, tree.root, Policy)
            problems += [problem for problem in found if problem.where not in known]
    return PolicyFile(policy=None if problems else policy, problems=tuple(problems), tree=tree, text=text)


def policy_here(root: Path) -> PolicyFile:
    """The policy in the work tree."""
    path = root / POLICY_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return _unreadable("is not a file of its own")
    try:
        with path.open("rb") as file:
            return parse_policy(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return NO_POLICY
    except OSError as error:
        return _unreadable(f"cannot be read: {error.strerror or error}")


def policy_at(root: Path, ref: str) -> PolicyFile:
    """The policy as commit `ref` has it: the base branch's, whatever a pull request brings along.

    Raises SpecError when the repository has no such commit: a policy that cannot be found is not taken for none.
    """
    from git import GitError, ODBError, Repo

    try:
        with Repo(root, search_parent_directories=True) as repo:
            return policy_in(repo, ref)
    except (GitError, ODBError, ValueError, KeyError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        hint = "fetch it first (actions/checkout: fetch-depth: 0), or name another with --base"
        message = f"git has no commit {ref!r}: {said[-1] if said else 'no reason'}"
        raise SpecError(message, hint=hint, reason="UnknownBase") from None


def policy_in(repo: "Repo", ref: str) -> PolicyFile:
    """As `policy_at`. Raises what GitPython raises."""
    from git import Blob

    if ref.startswith("-"):
        raise ValueError("a commit's name does not begin with '-'")
    tree = repo.commit(ref).tree
    if POLICY_FILE not in tree:
        return NO_POLICY
    blob = tree[POLICY_FILE]
    if not isinstance(blob, Blob) or blob.mode == _LINK:
        return _unreadable("is not a file of its own")
    if blob.size > MAX_BYTES:
        return _unreadable(f"is larger than {MAX_BYTES // 1024} KiB")
    return parse_policy(blob.data_stream.read())


def policy_schema_json() -> str:
    """The JSON schema of a policy, for editors; the file jobs/policy-schema.json holds it."""
    schema: dict[str, Any] = Policy.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **schema}, indent=2, ensure_ascii=False) + "\n"


def _unreadable(message: str) -> PolicyFile:
    problem = Problem(where=POLICY_FILE, message=message)
    return PolicyFile(policy=None, problems=(problem,), tree=Tree(POLICY_FILE))

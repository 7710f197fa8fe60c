"""Who may do what on the Hub: tokens' users, repository names, and the refusals of strangers."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from infra.simulator.hub_commit import Refused

Kind = Literal["models", "datasets"]

_NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class HubUser:
    """Whom a token speaks for. `orgs` are written to like the user's own name; `repos` ("NAMESPACE/NAME") makes it a
    fine-grained token that writes, and reads what is private, in these repositories only."""

    name: str
    orgs: tuple[str, ...] = ()
    role: Literal["read", "write"] = "write"
    repos: tuple[str, ...] | None = None

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


class RepoId(NamedTuple):
    kind: Kind
    namespace: str
    name: str

    @property
    def is_valid(self) -> bool:
        """Whether the Hub allows the name; only such a name may become a folder."""
        return bool(_NAME.fullmatch(self.namespace) and _NAME.fullmatch(self.name))

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        return self.full_name if self.kind == "models" else f"{self.kind}/{self.full_name}"


def check_scope(repo_id: RepoId, user: HubUser) -> None:
    if user.repos is not None and repo_id.full_name not in user.repos:
        raise Refused(403, f"This fine-grained token has no permission for {repo_id.full_name}.")


def check_write(repo_id: RepoId, user: HubUser | None) -> None:
    if user is None:
        raise Refused(401, "Invalid username or password.")
    check_scope(repo_id, user)
    if user.role != "write" or not user.owns(repo_id.namespace):
        raise Refused(403, f"You don't have the rights to write under the namespace {repo_id.namespace!r}.")


def no_repo(user: HubUser | None) -> Refused:
    """The Hub does not tell a stranger whether a repository is private or absent."""
    if user is None:
        return Refused(401, "Invalid username or password.", code="RepoNotFound")
    return Refused(404, "Repository not found", code="RepoNotFound")

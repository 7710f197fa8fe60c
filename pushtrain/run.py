"""A run: one spec digest at one commit. Every name it uses anywhere is computed here, never passed back."""

import hashlib
import json
import re
from dataclasses import dataclass

RESOURCE_PREFIX = "pt-"
RUN_ID = re.compile(r"^(?P<job>[a-z0-9][a-z0-9-]{0,40})-(?P<commit>[0-9a-f]{8})-(?P<spec>[0-9a-f]{8})$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The identity of a run.

    `commit` is the full 40-digit commit, `spec_digest` the 64-digit SHA-256 of the spec's canonical JSON,
    `ledger_url` the git URL that holds the run's ref.
    """

    job: str
    commit: str
    spec_digest: str
    ledger_url: str

    @property
    def id(self) -> str:
        return f"{self.job}-{self.commit[:8]}-{self.spec_digest[:8]}"

    @property
    def stack(self) -> str:
        """Pulumi stack name; one stack per run, volume and pods in it."""
        return f"run-{self.id}"

    @property
    def resource_prefix(self) -> str:
        """What every pod and volume of this run is called first; ≤ 53 characters."""
        return resource_prefix(self.id, self.ledger_url)

    @property
    def volume_name(self) -> str:
        return f"{self.resource_prefix}-v"

    def pod_name(self, attempt: int) -> str:
        """≤ 60 characters, the longest name dstack found RunPod to take."""
        return f"{self.resource_prefix}-a{attempt}"


def ledger_prefix(ledger_url: str) -> str:
    """First characters of every resource this ledger owns: our prefix, then six digits that mark the ledger.

    Two repositories may share one RunPod account; neither may ever sweep the other's pods.
    """
    normal = re.sub(r"(\.git)?/*$", "", re.sub(r"//[^/@]*@", "//", ledger_url.strip()))
    return f"{RESOURCE_PREFIX}{hashlib.sha256(normal.encode()).hexdigest()[:6]}-"


def resource_prefix(run_id: str, ledger_url: str) -> str:
    """Computed from the run id alone, so that any machine that can list refs can name a run's resources."""
    match = RUN_ID.match(run_id)
    if match is None:
        raise ValueError(f"not a run id: {run_id!r}")
    return f"{ledger_prefix(ledger_url)}{match['job'][:24]}-{match['commit']}-{match['spec']}"


def spec_digest(document: object) -> str:
    """SHA-256 over canonical JSON of what the user wrote: comments, order and layout do not make a new run."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

"""A run: one spec digest at one commit. Every name it uses anywhere is computed here, never passed back."""

import functools
import hashlib
import json
import re
from dataclasses import dataclass

RESOURCE_PREFIX = "pt-"
# A kept volume's name begins with this, then its ledger's mark. It never begins with what a run's do (six hexadecimal
# digits come there), so nothing that looks for a run's or a ledger's leftovers by name can see it.
KEPT_PREFIX = "pt-keep-"
KEPT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
# Always with fullmatch: these names reach git and URLs, and `$` would let a newline through at the end.
RUN_ID = re.compile(
    r"(?P<job>[a-z0-9][a-z0-9-]{0,40})-(?P<commit>[0-9a-f]{8})-(?P<spec>[0-9a-f]{8})(-r(?P<retry>[2-9]|[1-9][0-9]))?"
)
MOST_RETRIES = 99


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The identity of a run.

    `commit` is the full 40-digit commit, `spec_digest` the 64-digit SHA-256 of the spec's canonical JSON,
    `ledger_url` the git URL that holds the run's ref. `retry` is 1, or which run of the same spec it is, at most 99.
    `replay` is JSON for the pod of a run that repeats another: that one's id (`of`) and revisions (`pins`).
    """

    job: str
    commit: str
    spec_digest: str
    ledger_url: str
    retry: int = 1
    replay: str = ""

    @property
    def id(self) -> str:
        again = f"-r{self.retry}" if self.retry > 1 else ""
        return f"{self.job}-{self.commit[:8]}-{self.spec_digest[:8]}{again}"

    @property
    def stack(self) -> str:
        """Pulumi stack name; one stack per run, volume and pods in it."""
        return f"run-{self.id}"

    @property
    def resource_prefix(self) -> str:
        """What every pod and volume of this run is called first; ≤ 55 characters, and never the beginning of what
        another run's are called."""
        return resource_prefix(self.id, self.ledger_url)

    @property
    def volume_name(self) -> str:
        return f"{self.resource_prefix}-v"

    def pod_name(self, attempt: int) -> str:
        """≤ 60 characters, the longest name dstack found RunPod to take."""
        return f"{self.resource_prefix}-a{attempt}"


@functools.lru_cache(maxsize=64)
def ledger_prefix(ledger_url: str) -> str:
    """First characters of every resource this ledger owns: our prefix, then six digits that mark the ledger.

    Two repositories may share one account; neither may ever sweep the other's pods. And one repository has one
    mark, however a machine writes its URL: a laptop with ssh and an Action with https look after the same pods.
    """
    return f"{RESOURCE_PREFIX}{hashlib.sha256(_place(ledger_url).encode()).hexdigest()[:6]}-"


def kept_prefix(ledger_url: str) -> str:
    """First characters of every kept volume of this ledger."""
    return KEPT_PREFIX + ledger_prefix(ledger_url).removeprefix(RESOURCE_PREFIX)


def kept_volume_name(name: str, ledger_url: str) -> str:
    """What the cloud calls the kept volume that specs call `name`."""
    if not KEPT_NAME.fullmatch(name):
        raise ValueError(f"not the name of a kept volume: {name!r}")
    return kept_prefix(ledger_url) + name


def is_kept(resource_name: str) -> bool:
    """Whether a volume is kept on purpose, whatever ledger it belongs to: no machine ever removes it."""
    return resource_name.startswith(KEPT_PREFIX)


@functools.lru_cache(maxsize=4096)
def resource_prefix(run_id: str, ledger_url: str) -> str:
    """Computed from the run id alone, so that any machine that can list refs can name a run's resources."""
    match = RUN_ID.fullmatch(run_id)
    if match is None:
        raise ValueError(f"not a run id: {run_id!r}")
    # No hyphen before the retry: with one, what an earlier run's names begin with would fit this one's, too.
    again = f"r{match['retry']}" if match["retry"] else ""
    return f"{ledger_prefix(ledger_url)}{match['job'][:24]}-{match['commit']}-{match['spec']}{again}"


def _place(url: str) -> str:
    """Host and path of a git URL: no scheme, user, password, standard port, `.git`, or capitals (hosts ignore them)."""
    url = url.strip()
    if url.startswith(("/", "file://")):
        return _bare(url.removeprefix("file://"))
    if "://" not in url:  # git's short form of ssh, [user@]host:path
        host, _, path = url.partition(":")
        url = f"ssh://{host}/{path.lstrip('/')}"
    host, _, path = url.partition("://")[2].partition("/")
    host = re.sub(r":(22|80|443)$", "", host.rpartition("@")[2])
    return f"{host}/{_bare(path)}".lower()


def _bare(path: str) -> str:
    return path.rstrip("/").removesuffix(".git").rstrip("/")


def spec_digest(document: object) -> str:
    """SHA-256 over canonical JSON of what the user wrote: comments, order and layout do not make a new run."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

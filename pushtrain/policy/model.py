"""The policy file's model: every key is a limit, and what is left out is not limited."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pushtrain.capabilities import CloudName
from pushtrain.cloud import Tier
from pushtrain.spec.command import Secret
from pushtrain.spec.names import HubId, Part

POLICY_FILE = "pushtrain-policy.yaml"

# `*` stands for any characters; nothing else has a meaning.
Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*][A-Za-z0-9 ._+/:@*-]{0,254}$")]
Licence = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}$")]
Bucket = Annotated[str, StringConstraints(pattern=r"^(s3|gs)://[A-Za-z0-9][A-Za-z0-9._/-]{0,254}$")]
OpenPort = Annotated[str, StringConstraints(pattern=r"^(\*|[1-9][0-9]{0,4})/(http|tcp|\*)$")]
DatasetOwner = HubId | Bucket
Dollars = Annotated[float, Field(gt=0, le=1_000_000)]


class Approval(Part):
    """When somebody beside the author has to say yes before anything is rented."""

    above_usd: Annotated[float, Field(ge=0, le=1_000_000)]
    """A job whose `budget.max_usd` is above this needs it; 0: every job does."""
    reviews: Annotated[int, Field(ge=1, le=10)] = 1
    """Approving reviews of the pull request's last commit, by people who may write here and are not its author."""
    environment: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]{0,99}$")] | None = None
    """A protected environment whose approval of the workflow run, for the very commit, counts as well."""


class Policy(Part):
    """What job specs may ask for."""

    version: Literal[1]
    """Version of this format."""
    max_usd_per_run: Dollars | None = None
    """Highest `budget.max_usd` of a job."""
    max_usd_per_month: Dollars | None = None
    """Cost of the runs closed in this calendar month (UTC), caps of the active ones and of the new one, together."""
    max_hours: Annotated[float, Field(gt=0, le=720)] | None = None
    """Highest `budget.max_hours` of a job."""
    clouds: Annotated[list[CloudName], Field(min_length=1)] | None = None
    """Clouds that `compute.cloud` may name, e.g. runpod; `any` is refused where it could be another one."""
    gpus: Annotated[list[Pattern], Field(min_length=1)] | None = None
    """GPU types that may be named, e.g. NVIDIA A40 or NVIDIA RTX *."""
    max_gpus: Annotated[int, Field(ge=1, le=8)] | None = None
    """Highest `compute.count` of a job."""
    data_centers: Annotated[list[Pattern], Field(min_length=1)] | None = None
    """Data centers that may be named, e.g. EU-*; a job then has to name some, and rules COMMUNITY out."""
    tiers: Annotated[list[Tier], Field(min_length=1, max_length=2)] | None = None
    """SECURE, COMMUNITY or both."""
    images: Annotated[list[Pattern], Field(min_length=1)] | None = None
    """Container images, e.g. runpod/pytorch:* or ghcr.io/acme/train@sha256:*."""
    command: bool = True
    """False: no job may be `task: command` or `session`, which run any program."""
    session: bool = True
    """False: no job may be `task: session`, a pod to work on by hand."""
    ssh: bool = True
    """False: `compute.ssh` has to be false, so that nobody logs in to a pod."""
    ports: list[OpenPort] | None = None
    """Ports that `compute.ports` may open to the internet, e.g. 8888/http or */http; []: none."""
    secrets: list[Secret] | None = None
    """Secrets that commands and sessions may be given by name, e.g. WANDB_API_KEY; []: none."""
    kept_volumes: list[Pattern] | None = None
    """Names of volumes that may be kept beyond a run, e.g. models or team-*; []: none."""
    model_owners: Annotated[list[HubId], Field(min_length=1)] | None = None
    """Owners of base models on the Hub, or single models as OWNER/NAME."""
    dataset_owners: Annotated[list[DatasetOwner], Field(min_length=1)] | None = None
    """Owners of datasets on the Hub, single ones as OWNER/NAME, buckets as s3://BUCKET; not files of the commit."""
    licences: Annotated[list[Licence], Field(min_length=1)] | None = None
    """Licences of base models as the Hub names them, e.g. apache-2.0; one that cannot be read is refused."""
    publish_owners: Annotated[list[DatasetOwner], Field(min_length=1)] | None = None
    """Owners of the Hub repositories that results go to, single ones as OWNER/NAME, buckets of copies as s3://BUCKET."""
    public_results: bool = True
    """False: `publish.private` has to be true."""
    trust_remote_code: bool = False
    """True lets a job set `model.trust_remote_code`: code of the model's repository then runs on the pod."""
    approval: Approval | None = None

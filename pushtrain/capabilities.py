"""What each cloud can and cannot do, as data: what a job spec may ask of it, what a plan warns of, the table of
docs/clouds.md (`pushtrain.capability_table`). Nothing else asks which cloud it is.

Sources are named where the client of a cloud is (`infra/clouds/`); a cloud is listed here when that client exists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pushtrain.cloud import Tier
from pushtrain.pod.place import PLACES, Words

# What `compute.cloud` may say, and `CLOUDS` has, in the order of the table.
CloudName = Literal["runpod", "vast", "lambda", "modal", "jarvislabs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """One cloud. `title` is its name for people; the other fields are explained by that table's rows, in its words.

    `volume_tiers` are the tiers whose machines mount a volume that outlives the pod; on any other a pod has a disk of
    its own, which goes with it. `keys_at` is where a person makes a key, `console` where one sees what is rented,
    `own_disk_usd` what a GB of a pod's own disk costs a month at most (0: it is in the price of the machine),
    `volume_usd` what one of a network volume does where that is not as at RunPod, `storage_from` who says so,
    `traffic_usd` what a GB from or to the internet costs at most. With `has_own_prices` machines of one
    type differ in price, or are priced anew at each create, and the client takes none above what the rung says. Without
    `has_sized_volumes` a volume is as large as what is on it, whatever was asked for; with them it has at least and at
    most `volume_gb`. `framework` is what a pod is made of where the cloud takes no image of one's own; empty: it takes
    any. `boots_s` is how much longer than a container a machine may take to the pod's first word, `listed_within_s` how
    long after its create a pod may be in no list. With `ends_own_bill` a pod ends what it costs at its deadline with no
    control plane alive; without, its work alone ends. `ends_after_s`: seconds after the deadline at which the cloud
    itself ends a pod, whatever lives in it; None where it never does.
    `longest_s`: how long a pod may live there, and a longer run goes on in the next one; None where nothing ends it.
    `more_keys` are the other variables of the account's key, `key_begins` how a key begins where its maker says so,
    `funds_at` where the account is paid, `files_instead` how files of a volume are reached there, `way_in` how one gets
    into a pod where `pushtrain ssh` does not. Without `has_volume_bill` its bill is of pods alone. `has_spot`: machines
    that may be taken away are rented there, for what is bid, or with `sets_spot_price` for what the cloud asks.
    """

    title: str
    pod: Words
    key_name: str
    keys_at: str
    console: str
    rents: Literal["container", "VM"]
    tiers: Mapping[Tier, str]
    volume_tiers: tuple[Tier, ...]
    has_data_centers: bool
    has_volume_files: bool
    spot: str
    has_templates: bool
    has_http_proxy: bool
    has_ssh_keys: bool
    has_own_prices: bool
    own_disk_usd: float
    has_scoped_key: bool
    ends_itself: str
    logs: str
    bill: str
    data_center_example: str = "EU-SE-1"
    volume_usd: float | None = None
    has_sized_volumes: bool = True
    has_tcp_ports: bool = True
    framework: str = ""
    volume_gb: tuple[int, int] = (10, 4096)
    boots_s: float = 0.0
    listed_within_s: float = 0.0
    has_spot: bool = False
    ends_own_bill: bool = True
    ends_after_s: float | None = None
    longest_s: float | None = None
    sets_spot_price: bool = False
    more_keys: tuple[str, ...] = ()
    key_begins: tuple[str, ...] = ()
    funds_at: str = ""
    has_volume_bill: bool = True
    storage_from: str = ""
    traffic_usd: float = 0.0
    files_instead: str = ""
    way_in: str = ""

    @property
    def key_names(self) -> tuple[str, ...]:
        """Every variable that has to be set to rent there."""
        return (*self.more_keys, self.key_name)

    def keeps(self, tier: str) -> bool:
        """Whether what a pod of that tier wrote can outlive it."""
        return tier in self.volume_tiers


# Each host of Vast.ai has a price of its own; dearer disks are not asked for.
VAST_DISK_USD = 0.30
# And so has each GB that it sends or gets: from $0.003 to $0.01 in offers of 2026; dearer hosts are not asked.
VAST_TRAFFIC_USD = 0.02

VAST = Capabilities(
    title="Vast.ai",
    pod=PLACES["vast"],
    key_name="VAST_API_KEY",
    keys_at="https://cloud.vast.ai/manage-keys/",
    console="https://cloud.vast.ai/instances/",
    rents="container",
    tiers={"SECURE": "data centers that Vast has checked", "COMMUNITY": "other people's machines"},
    volume_tiers=(),
    has_data_centers=False,
    has_volume_files=False,
    spot="by bid, `compute.spot`",
    has_spot=True,
    has_templates=False,
    has_http_proxy=False,
    has_ssh_keys=True,
    has_own_prices=True,
    own_disk_usd=VAST_DISK_USD,
    traffic_usd=VAST_TRAFFIC_USD,
    storage_from="the most that a host may ask for",
    has_scoped_key=True,
    ends_itself="REST, with the instance's key",
    logs="a copy on demand, without times",
    bill="by the day, settled after an hour or so",
    funds_at="https://cloud.vast.ai/billing/",
)

LAMBDA = Capabilities(
    title="Lambda Cloud",
    pod=PLACES["lambda"],
    key_name="LAMBDA_API_KEY",
    keys_at="https://cloud.lambda.ai/api-keys/cloud-api",
    console="https://cloud.lambda.ai/instances",
    rents="VM",
    tiers={"SECURE": "Lambda's own regions"},
    volume_tiers=("SECURE",),
    has_data_centers=True,
    has_volume_files=False,
    spot="no: there are none",
    has_templates=False,
    has_http_proxy=False,
    has_ssh_keys=True,
    has_own_prices=True,
    own_disk_usd=0.0,
    has_scoped_key=False,
    ends_own_bill=False,
    ends_itself="it powers itself off, and is billed until a reconcile terminates it",
    logs="none: what the pod ships is in the ledger",
    bill="none that can be read: time × price",
    data_center_example="us-west-1",
    # docs.lambda.ai/public-cloud/billing, August 2026: its example, by GiB in use and hour.
    volume_usd=0.20,
    storage_from="Lambda's page of August 2026, for what is on it",
    has_sized_volumes=False,
    # "Several minutes" (docs.lambda.ai), docker's NVIDIA part, and the image.
    boots_s=1200.0,
    key_begins=("secret_",),
    files_instead="run a session with the volume, and `pushtrain sync FROM TO`",
    funds_at="https://cloud.lambda.ai/settings/billing",
)

# modal.com/pricing: a GiB stored a month; the first TiB of a workspace is free, which nobody here can see.
MODAL_VOLUME_USD = 0.09
# The longest time-out that a sandbox may be given (modal.com/docs/guide/timeouts).
MODAL_LONGEST_S = 86400.0

MODAL = Capabilities(
    title="Modal",
    pod=PLACES["modal"],
    key_name="MODAL_TOKEN_SECRET",
    keys_at="https://modal.com/settings/tokens",
    console="https://modal.com/apps",
    rents="container",
    tiers={"SECURE": "Modal's own"},
    volume_tiers=("SECURE",),
    has_data_centers=False,
    has_volume_files=False,
    spot="no: nothing cheaper is to be had",
    has_templates=False,
    has_http_proxy=False,
    has_ssh_keys=False,
    has_own_prices=True,
    own_disk_usd=0.0,
    has_scoped_key=False,
    ends_itself="with its command; and Modal ends it after the deadline whatever happens",
    logs="kept with times, also after the end",
    bill="Modal's estimate of each sandbox, settled after an hour or so; the volume by time × price",
    has_volume_bill=False,
    has_tcp_ports=False,
    has_sized_volumes=False,
    volume_usd=MODAL_VOLUME_USD,
    storage_from="modal.com/pricing, for what is on it",
    # Its own time-out, given to it at the create: `infra.clouds.modal.shapes.GRACE_S`.
    ends_after_s=120.0,
    longest_s=MODAL_LONGEST_S,
    more_keys=("MODAL_TOKEN_ID",),
    key_begins=("as-",),
    files_instead="`modal volume ls`, `get` and `put`",
    way_in="`modal shell SANDBOX_ID` opens a shell in a sandbox; no port of it is opened",
    funds_at="https://modal.com/settings/usage",
)

# jarvislabs.ai/pricing, "Storage", as a copy of June 2026 has it (github.com/api-evangelist/jarvislabs, plans): by the
# GB and month for what is kept, running or paused. Its API tells no price of it.
JARVISLABS_DISK_USD = 0.10

JARVISLABS = Capabilities(
    title="JarvisLabs",
    pod=PLACES["jarvislabs"],
    key_name="JL_API_KEY",
    keys_at="https://jarvislabs.ai/settings/api-keys",
    console="https://jarvislabs.ai",
    rents="container",
    tiers={"SECURE": "JarvisLabs' regions"},
    volume_tiers=("SECURE",),
    has_data_centers=True,
    has_volume_files=False,
    spot="at its own price, `compute.spot`",
    has_spot=True,
    sets_spot_price=True,
    has_templates=False,
    has_http_proxy=True,
    has_ssh_keys=False,
    has_own_prices=True,
    own_disk_usd=JARVISLABS_DISK_USD,
    has_scoped_key=False,
    ends_own_bill=False,
    ends_itself="not at all: its work ends, and the next reconcile destroys it",
    logs="none; what the pod ships is in the ledger",
    bill="none: time × price",
    data_center_example="india-noida-01",
    framework="pytorch",
    # Its list has an instance from its start on, and nobody says how long one may take to it.
    listed_within_s=300.0,
    has_tcp_ports=False,
    volume_gb=(50, 2048),
    volume_usd=JARVISLABS_DISK_USD,
    storage_from="JarvisLabs' page of June 2026",
    funds_at="https://jarvislabs.ai",
    files_instead="from an instance with the volume, in its console",
    # Its sshd is not ours: nothing tells its host key, so that nobody can say who answers.
    way_in="its console shows the ssh command of each instance, for the keys of the account there",
)

# What a spec without compute.cloud means, and a run whose record names none.
DEFAULT_CLOUD = "runpod"
CLOUDS: Mapping[str, Capabilities] = {  # one for each CloudName
    "runpod": Capabilities(
        title="RunPod",
        pod=PLACES["runpod"],
        key_name="RUNPOD_API_KEY",
        keys_at="https://console.runpod.io/user/settings",
        console="https://console.runpod.io/pods",
        rents="container",
        tiers={"SECURE": "data centers", "COMMUNITY": "other people's machines"},
        volume_tiers=("SECURE",),
        has_data_centers=True,
        has_volume_files=True,
        spot="no: REST v2, which pushtrain speaks, has none",
        has_templates=True,
        has_http_proxy=True,
        has_ssh_keys=True,
        has_own_prices=False,
        own_disk_usd=0.10,
        has_scoped_key=True,
        ends_itself="REST v2, GraphQL or runpodctl, with the pod's key",
        logs="streamed, resumable",
        bill="by the hour, settled after an hour or so",
        key_begins=("rpa_",),
        funds_at="https://console.runpod.io/user/billing",
    ),
    "vast": VAST,
    "lambda": LAMBDA,
    "modal": MODAL,
    "jarvislabs": JARVISLABS,
}


def keeps(cloud: str, tier: str) -> bool:
    """Whether what a pod there wrote can outlive it; at a cloud that only prices are known of nothing does."""
    return cloud in CLOUDS and CLOUDS[cloud].keeps(tier)


def losing(cloud: str | Iterable[str], tiers: Iterable[Tier]) -> list[Tier]:
    """Those of `tiers` on which nothing outlives the pod, at one of several clouds at least."""
    clouds = [cloud] if isinstance(cloud, str) else list(cloud)
    return [tier for tier in tiers if not all(CLOUDS[name].keeps(tier) for name in clouds)]


def machine(tier: str) -> str:
    """What a pod without a network volume is on, for people."""
    return "community machine" if tier == "COMMUNITY" else "machine without a network volume"

"""What each cloud has on offer, and at which price: asked live where its key is set, else as on the day of a snapshot.

Everything is asked once for a call. Nothing here needs a key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.cloud import Offer, Tier
from pushtrain.errors import PushtrainError
from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.placement import Offered
from pushtrain.prices.snapshot import OLD_DAYS, PRICED, TITLES, Snapshot, packaged


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers:
    """Of one cloud. `known_gpus` is None where nobody was asked; `failure` is why there are none, `trouble` why a
    snapshot stands in for a cloud whose key is set."""

    cloud: str
    offers: list[Offer]
    known_gpus: Sequence[str] | None
    is_live: bool
    failure: str = ""
    trouble: str = ""

    @property
    def offered(self) -> Offered:
        return Offered(cloud=self.cloud, offers=self.offers, known_gpus=self.known_gpus)


@dataclass(kw_only=True)
class Market:
    """`snapshots` by cloud count where there is no key; one that pushtrain brings where there is none."""

    environ: Mapping[str, str]
    snapshots: Mapping[str, Snapshot]
    now_s: float
    _live: dict[tuple[str, int], Offers] = field(default_factory=dict)
    _away: dict[str, str] = field(default_factory=dict)
    """The clouds that were asked and did not say, with why."""

    def is_live(self, cloud: str) -> bool:
        return (
            cloud in CLOUDS and cloud not in self._away and bool(self.environ.get(CLOUDS[cloud].key_name, "").strip())
        )

    def snapshot(self, cloud: str) -> Snapshot:
        """KeyError for a cloud without prices."""
        return self.snapshots.get(cloud) or packaged(cloud)

    def said(self, clouds: Sequence[str]) -> str:
        """In words: from where the prices of these clouds are, and how old."""
        if list(clouds) == [DEFAULT_CLOUD]:
            return self.said_of(DEFAULT_CLOUD)
        return "; ".join(f"{TITLES[cloud]}: {self.said_of(cloud)}" for cloud in clouds)

    def said_of(self, cloud: str) -> str:
        """Of one cloud."""
        if self.is_live(cloud):
            return f"live from {TITLES[cloud]}'s catalogue"
        found = self.snapshot(cloud)
        days = found.age_days(self.now_s)
        if cloud in self._away:
            return f"of {found.asked[:10]} ({days} days ago), {found.where}: {TITLES[cloud]} was asked and did not say"
        key = f"ask with {CLOUDS[cloud].key_name} set, or refresh it" if cloud in CLOUDS else "pushtrain has no client"
        old = f", which is old: {key}" if days > OLD_DAYS else ""
        return f"of {found.asked[:10]} ({days} days ago{old}), {found.where}"

    def offers(self, cloud: str, count: int, data_centers: Sequence[str] = ()) -> Offers:
        """What is rentable in machines with so many GPUs."""
        if self.is_live(cloud):
            if (cloud, count) not in self._live:
                self._live[cloud, count] = self._ask(cloud, count)
            if cloud not in self._away or cloud not in PRICED:
                return self._live[cloud, count]
        if cloud not in PRICED:
            why = f"NoPrices: there is no snapshot of {CLOUDS[cloud].title}'s prices; with its key they are asked live"
            return Offers(cloud=cloud, offers=[], known_gpus=None, is_live=False, failure=why)
        offers = self.snapshot(cloud).for_data_centers(data_centers, count)
        trouble = self._away.get(cloud, "")
        return Offers(cloud=cloud, offers=offers, known_gpus=None, is_live=False, trouble=trouble)

    def stock(self, offer_stock: str, cloud: str, gpu: str, tier: Tier) -> str:
        """In words; of a snapshot the day of its price, since stock is of another day."""
        if self.is_live(cloud):
            return offer_stock.lower()
        return f"not asked; price of {self.snapshot(cloud).day_of(gpu, tier)}"

    def _ask(self, cloud: str, count: int) -> Offers:
        from infra.clouds import connect

        try:
            client = connect(cloud, self.environ)
            offers, known = client.offers(count, MIN_CUDA_VERSION), client.gpu_names()
            return Offers(cloud=cloud, offers=offers, known_gpus=known, is_live=True)
        except PushtrainError as failure:
            self._away[cloud] = said = f"{failure.reason}: {failure}"
            return Offers(cloud=cloud, offers=[], known_gpus=None, is_live=False, failure=said)

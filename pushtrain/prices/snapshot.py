"""A cloud's catalogue as it was on a day: what `pushtrain plan` and `compare` show without a key. Refreshed by
`pushtrain prices --refresh`.

A repository's own `prices.json` (RunPod) and `prices-CLOUD.json` count before what pushtrain brings. Format 1: `cloud`,
`asked` (RFC 3339), `source`, and `offers` as `pushtrain.cloud.Offer` has them; `data_center` is "ANY" where the place
is not known, `stock` null where nobody asked, `seen` the day of a price where it is another than the snapshot's,
`counts` the numbers of GPUs that are sold at that price where it is not any up to `max_count`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pushtrain.cloud import Offer, Stock, Tier, VolumeKind
from pushtrain.errors import PushtrainError
from pushtrain.events import parse_time

Priced = Literal["runpod", "vast", "lambda", "jarvislabs", "modal"]
# Clouds that pushtrain has prices of, whether or not it can rent there.
PRICED: tuple[str, ...] = get_args(Priced)
TITLES = {"runpod": "RunPod", "vast": "Vast.ai", "lambda": "Lambda", "jarvislabs": "JarvisLabs", "modal": "Modal"}
FILE = "prices.json"
MAX_BYTES = 1_000_000
ANYWHERE = "ANY"
# Older prices are said to be old: GPU prices move by tens of percent a quarter.
OLD_DAYS = 45


def file_of(cloud: str) -> str:
    """The name of a repository's own snapshot."""
    return FILE if cloud == "runpod" else f"prices-{cloud}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """`seen` has a day for each offer, in their order; `known_stock` whether anybody asked for its stock; `counts` the
    numbers of GPUs it is sold in, empty for any up to its `max_count`."""

    cloud: str
    asked: str
    source: str
    where: str
    offers: tuple[Offer, ...]
    seen: tuple[str, ...]
    known_stock: tuple[bool, ...]
    counts: tuple[tuple[int, ...], ...]

    def age_days(self, now_s: float) -> int:
        return max(0, int((now_s - parse_time(self.asked)) // 86400))

    def age(self, now_s: float) -> str:
        """In words: from when, and whether that is long ago."""
        days = self.age_days(now_s)
        return f"of {self.asked[:10]} ({days} days ago{', which is old' if days > OLD_DAYS else ''})"

    def for_data_centers(self, wanted: Sequence[str], count: int | None = None) -> list[Offer]:
        """The offers, those without a place taken for one of the wanted ones; stock of that day rules nobody out. With
        `count` only what is sold in that number of GPUs."""
        place = wanted[0] if wanted else ANYWHERE
        found = []
        for offer, counts in zip(self.offers, self.counts, strict=True):
            if count is not None and counts and count not in counts:
                continue
            stock: Stock = "MEDIUM" if offer.stock == "NONE" else offer.stock
            here = place if offer.data_center == ANYWHERE else offer.data_center
            found.append(replace(offer, stock=stock, data_center=here))
        return found

    def day_of(self, gpu: str, tier: Tier) -> str:
        days = [day for it, day in zip(self.offers, self.seen, strict=True) if (it.gpu, it.tier) == (gpu, tier)]
        return min(days, default=self.asked[:10])


class _Offer(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    gpu: Annotated[str, Field(max_length=80)]
    gpu_memory_gb: Annotated[int, Field(ge=1, le=10_000)]
    data_center: Annotated[str, Field(max_length=20)] | None
    tier: Tier
    usd_per_gpu_hour: Annotated[float, Field(gt=0, le=1000)]
    stock: Stock | None
    volume_kinds: list[VolumeKind]
    max_count: Annotated[int, Field(ge=0, le=1000)]
    counts: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1, max_length=100)] | None = None
    min_bid_usd_per_gpu_hour: Annotated[float, Field(gt=0, le=1000)] | None = None
    seen: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    cloud: Priced
    asked: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$")]
    source: Annotated[str, Field(max_length=1000)]
    offers: Annotated[list[_Offer], Field(min_length=1, max_length=5000)]


def packaged(cloud: str = "runpod") -> Snapshot:
    """The one pushtrain brings. KeyError for a cloud that it has no prices of."""
    if cloud not in PRICED:
        raise KeyError(cloud)
    raw = (Path(__file__).parent / "snapshots" / f"{cloud}.json").read_bytes()
    return parse(raw, "pushtrain's own snapshot", cloud)


def of_repository(root: Path, cloud: str = "runpod") -> Snapshot:
    """The repository's own, else the one pushtrain brings. Raises PushtrainError for one it cannot read."""
    path = root / file_of(cloud)
    if not path.is_file() or path.is_symlink():
        return packaged(cloud)
    with path.open("rb") as file:
        return parse(file.read(MAX_BYTES + 1), path.name, cloud)


def parse(raw: bytes, where: str, cloud: str = "runpod") -> Snapshot:
    """Raises PushtrainError (reason BadPrices), also for the prices of another cloud."""
    if len(raw) > MAX_BYTES:
        raise _bad(where, f"is larger than {MAX_BYTES} bytes")
    try:
        document = _Document.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if document.cloud != cloud:
        raise _bad(where, f"cloud: has prices of {document.cloud}, not of {cloud}")
    offers = document.offers
    return Snapshot(
        cloud=cloud,
        asked=document.asked,
        source=document.source,
        where=where,
        offers=tuple(_offer(it) for it in offers),
        seen=tuple(it.seen or document.asked[:10] for it in offers),
        known_stock=tuple(it.stock is not None for it in offers),
        counts=tuple(tuple(it.counts or ()) for it in offers),
    )


def document(
    offers: Sequence[Offer], asked: str, source: str, cloud: str = "runpod", counts: Sequence[Sequence[int]] = ()
) -> str:
    """The text of a snapshot file: one offer a line, in an order that makes a diff readable. `counts` go with `offers`,
    one by one; empty where each is sold in any number."""
    sold_in = counts or [()] * len(offers)
    pairs = sorted(
        zip(offers, sold_in, strict=True), key=lambda it: (it[0].gpu, it[0].tier, it[0].data_center or "", tuple(it[1]))
    )
    rows = [_written(offer) | ({"counts": list(sold)} if sold else {}) for offer, sold in pairs]
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    head = json.dumps({"format": 1, "cloud": cloud, "asked": asked, "source": source}, indent=1)
    return f'{head[:-2]},\n "offers": [\n{lines}\n ]\n}}\n'


def _written(offer: Offer) -> dict[str, object]:
    return {name: value for name, value in asdict(offer).items() if (name, value) != ("min_bid_usd_per_gpu_hour", None)}


def _offer(found: _Offer) -> Offer:
    return Offer(
        gpu=found.gpu,
        gpu_memory_gb=found.gpu_memory_gb,
        data_center=found.data_center,
        tier=found.tier,
        usd_per_gpu_hour=found.usd_per_gpu_hour,
        stock=found.stock or "MEDIUM",
        volume_kinds=tuple(found.volume_kinds),
        max_count=found.max_count,
        min_bid_usd_per_gpu_hour=found.min_bid_usd_per_gpu_hour,
    )


def _bad(where: str, what: str) -> PushtrainError:
    hint = "pushtrain prices --refresh writes it anew; without the file pushtrain's own prices count"
    return PushtrainError(f"{where} {what}", hint=hint, reason="BadPrices")

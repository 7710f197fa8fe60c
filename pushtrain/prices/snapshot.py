"""The catalogue as it was on a day: what `pushtrain plan` shows without a key. Refreshed by `pushtrain prices
--refresh`.

A repository's own `prices.json` counts before the one that pushtrain brings. Format 1: `asked` (RFC 3339), `source`,
and `offers` as `pushtrain.cloud.Offer` has them; `data_center` is "ANY" where the place is not known, `stock` null
where nobody asked, `seen` the day of a price that is older than the snapshot.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pushtrain.cloud import Offer, Stock, Tier, VolumeKind
from pushtrain.errors import PushtrainError
from pushtrain.events import parse_time

FILE = "prices.json"
MAX_BYTES = 1_000_000
ANYWHERE = "ANY"
# Older prices are said to be old: GPU prices move by tens of percent a quarter.
OLD_DAYS = 45


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """`seen` has a day for each offer, in their order; `known_stock` whether anybody asked for its stock."""

    asked: str
    source: str
    where: str
    offers: tuple[Offer, ...]
    seen: tuple[str, ...]
    known_stock: tuple[bool, ...]

    def age_days(self, now_s: float) -> int:
        return max(0, int((now_s - parse_time(self.asked)) // 86400))

    def for_data_centers(self, wanted: Sequence[str]) -> list[Offer]:
        """The offers, those without a place taken for one of the wanted ones; stock of that day rules nobody out."""
        place = wanted[0] if wanted else ANYWHERE
        found = []
        for offer in self.offers:
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
    seen: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    cloud: Literal["runpod"]
    asked: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$")]
    source: Annotated[str, Field(max_length=1000)]
    offers: Annotated[list[_Offer], Field(min_length=1, max_length=5000)]


def packaged() -> Snapshot:
    """The one pushtrain brings."""
    return parse(Path(__file__).with_name("snapshot.json").read_bytes(), "pushtrain's own snapshot")


def of_repository(root: Path) -> Snapshot:
    """`prices.json` of the repository, else the one pushtrain brings. Raises PushtrainError for one it cannot read."""
    path = root / FILE
    if not path.is_file() or path.is_symlink():
        return packaged()
    with path.open("rb") as file:
        return parse(file.read(MAX_BYTES + 1), FILE)


def parse(raw: bytes, where: str) -> Snapshot:
    """Raises PushtrainError (reason BadPrices)."""
    if len(raw) > MAX_BYTES:
        raise _bad(where, f"is larger than {MAX_BYTES} bytes")
    try:
        document = _Document.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    offers = document.offers
    return Snapshot(
        asked=document.asked,
        source=document.source,
        where=where,
        offers=tuple(_offer(it) for it in offers),
        seen=tuple(it.seen or document.asked[:10] for it in offers),
        known_stock=tuple(it.stock is not None for it in offers),
    )


def document(offers: Sequence[Offer], asked: str, source: str) -> str:
    """The text of a snapshot file: one offer a line, in an order that makes a diff readable."""
    rows = sorted(offers, key=lambda it: (it.gpu, it.tier, it.data_center or ""))
    lines = ",\n".join("  " + json.dumps(asdict(it)) for it in rows)
    head = json.dumps({"format": 1, "cloud": "runpod", "asked": asked, "source": source}, indent=1)
    return f'{head[:-2]},\n "offers": [\n{lines}\n ]\n}}\n'


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
    )


def _bad(where: str, what: str) -> PushtrainError:
    hint = "pushtrain prices --refresh writes it anew; without the file pushtrain's own prices count"
    return PushtrainError(f"{where} {what}", hint=hint, reason="BadPrices")

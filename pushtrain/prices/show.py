"""`pushtrain prices`: the snapshots as a table or JSON, and how they are refreshed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud, Offer
from pushtrain.errors import CloudError
from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.prices.snapshot import PRICED, TITLES, Snapshot, document, file_of
from pushtrain.prices.storage import DISK_USD, HIGH_PERFORMANCE_USD, STORAGE_LINE, VOLUME_USD, VOLUME_USD_ABOVE

# Where a machine has a number of GPUs and a price of its own, each of these is asked for.
COUNTS = (1, 2, 4, 8)


def refresh(root: Path, environ: Mapping[str, str], say: Callable[[str], None], now_s: float | None = None) -> None:
    """Write the snapshot of each cloud that can be asked: with its key, or without one where it tells everybody.

    What cannot be had without a key is said and stays as it is. Raises CloudError, after all were asked, where a cloud
    does not answer whose key is set, and where none could be asked.
    """
    from infra.clouds import connect
    from infra.clouds.open_prices import OPEN, connect_open

    failures, written = list[CloudError](), 0
    for name in PRICED:
        has_key = name in CLOUDS and bool(environ.get(CLOUDS[name].key_name, "").strip())
        try:
            if has_key:
                say(write(root, connect(name, environ), now_s))
            elif name in OPEN:
                say(write(root, connect_open(name, environ), now_s))
            else:
                continue
            written += 1
        except CloudError as failure:
            say(f"{file_of(name)}: left as it is: {failure}")
            failures += [failure] if has_key else []
    if failures:
        raise failures[0]
    if not written:
        connect("runpod", environ)


def write(root: Path, cloud: Cloud, now_s: float | None = None) -> str:
    """Ask the live catalogue and write the cloud's file at `root`; a line about it. Raises CloudError."""
    offers, counts = _asked(cloud)
    asked = datetime.fromtimestamp(time.time() if now_s is None else now_s, timezone.utc)
    source = f"{TITLES[cloud.name]}'s live catalogue"
    text = document(offers, asked.strftime("%Y-%m-%dT%H:%M:%SZ"), source, cloud.name, counts)
    path = root / file_of(cloud.name)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return f"{path.name}: {len(offers)} offers of {asked:%Y-%m-%d %H:%M} UTC"


def _asked(cloud: Cloud) -> tuple[list[Offer], list[tuple[int, ...]]]:
    """RunPod has one price for any number of GPUs."""
    if cloud.name == "runpod":
        return cloud.offers(1, MIN_CUDA_VERSION), []
    found = [(offer, (count,)) for count in COUNTS for offer in cloud.offers(count, MIN_CUDA_VERSION)]
    return [offer for offer, _ in found], [counts for _, counts in found]


def table_of(snapshots: Sequence[Snapshot], now_s: float | None = None) -> RenderableType:
    """One line for each cloud, GPU, tier and price, the cheapest first; then where each cloud's are from."""
    now_s = time.time() if now_s is None else now_s
    table = Table(box=None, pad_edge=False)
    for column in ("cloud", "GPU", "GB", "tier", "$/h", "sold in", "places", "stock", "seen"):
        table.add_column(column, justify="right" if column in ("GB", "$/h", "places") else "left", overflow="fold")
    found = [(snapshot.cloud, row) for snapshot in snapshots for row in rows(snapshot)]
    for cloud, row in sorted(found, key=lambda it: (it[1]["usd_per_gpu_hour"], it[1]["gpu"], it[0])):
        cells = (TITLES[cloud], row["gpu"], row["memory_gb"], row["tier"].lower(), f"{row['usd_per_gpu_hour']:.2f}")
        more = (", ".join(map(str, row["counts"])) or "any", row["places"], row["stock"], row["seen"])
        table.add_row(*(Text(str(cell)) for cell in (*cells, *more)))
    said = [Text(f"{TITLES[it.cloud]} {it.age(now_s)}, {it.where}: {it.source}", "dim") for it in snapshots]
    return Group(table, *said, Text(STORAGE_LINE, "dim"))


def document_of(snapshots: Sequence[Snapshot], now_s: float | None = None) -> dict[str, Any]:
    """The first one's at the top, as it always was, and all of them in `clouds`."""
    now_s = time.time() if now_s is None else now_s
    return {
        "format": 1,
        **_snapshot_document(snapshots[0], now_s),
        "storage_usd_per_gb_month": {
            "network_volume": VOLUME_USD,
            "network_volume_above_1_tb": VOLUME_USD_ABOVE,
            "high_performance_volume": HIGH_PERFORMANCE_USD,
            "disk_of_a_running_pod": DISK_USD,
        },
        "clouds": [{"cloud": it.cloud, **_snapshot_document(it, now_s)} for it in snapshots],
    }


def rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Offers of one GPU, tier, price and number of GPUs in one row; `stock` is the fullest of its places."""
    order = ("NONE", "LOW", "MEDIUM", "HIGH")
    found: dict[tuple[str, str, float, tuple[int, ...]], dict[str, Any]] = {}
    each = zip(snapshot.offers, snapshot.seen, snapshot.known_stock, snapshot.counts, strict=True)
    for offer, seen, known, counts in each:
        key = (offer.gpu, offer.tier, offer.usd_per_gpu_hour, counts)
        stock = offer.stock if known else ""
        row = found.setdefault(
            key,
            {
                "gpu": offer.gpu,
                "memory_gb": offer.gpu_memory_gb,
                "tier": offer.tier,
                "usd_per_gpu_hour": offer.usd_per_gpu_hour,
                "counts": counts,
                "places": 0,
                "stock": stock,
                "seen": seen,
            },
        )
        row["places"] += 1
        if stock and (not row["stock"] or order.index(stock) > order.index(row["stock"])):
            row["stock"] = stock
    for row in found.values():
        row["stock"] = row["stock"].lower() or "not asked"
    return sorted(found.values(), key=lambda row: (row["usd_per_gpu_hour"], row["gpu"]))


def _snapshot_document(snapshot: Snapshot, now_s: float) -> dict[str, Any]:
    each = zip(snapshot.offers, snapshot.seen, snapshot.known_stock, snapshot.counts, strict=True)
    return {
        "asked": snapshot.asked,
        "age_days": snapshot.age_days(now_s),
        "source": snapshot.source,
        "where": snapshot.where,
        "offers": [
            {**asdict(offer), "stock": offer.stock if known else None, "counts": list(counts), "seen": seen}
            for offer, seen, known, counts in each
        ],
    }

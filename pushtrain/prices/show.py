"""`pushtrain prices`: the snapshot as a table or JSON, and how it is refreshed."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.prices.snapshot import FILE, Snapshot, document
from pushtrain.prices.storage import DISK_USD, HIGH_PERFORMANCE_USD, STORAGE_LINE, VOLUME_USD, VOLUME_USD_ABOVE


def refreshed(root: Path, environ: Mapping[str, str], now_s: float | None = None) -> str:
    """Ask the live catalogue and write prices.json at `root`; a line about it.

    Raises CloudAuthFailed without a key, CloudError when RunPod does not say.
    """
    from infra.clouds import connect

    offers = connect("runpod", environ).offers(1, MIN_CUDA_VERSION)
    asked = datetime.fromtimestamp(time.time() if now_s is None else now_s, timezone.utc)
    text = document(offers, asked.strftime("%Y-%m-%dT%H:%M:%SZ"), "RunPod's live catalogue, REST v2")
    path = root / FILE
    unfinished = path.with_name(f".{FILE}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return f"{FILE}: {len(offers)} offers of {asked:%Y-%m-%d %H:%M} UTC"


def table_of(snapshot: Snapshot, now_s: float | None = None) -> RenderableType:
    """One line for each GPU, tier and price."""
    table = Table(box=None, pad_edge=False)
    for column in ("GPU", "GB", "tier", "$/h", "places", "stock", "seen"):
        table.add_column(column, justify="right" if column in ("GB", "$/h", "places") else "left", overflow="fold")
    for row in rows(snapshot):
        cells = (row["gpu"], row["memory_gb"], row["tier"].lower(), f"{row['usd_per_gpu_hour']:.2f}", row["places"])
        table.add_row(*(Text(str(cell)) for cell in (*cells, row["stock"], row["seen"])))
    days = snapshot.age_days(time.time() if now_s is None else now_s)
    return Group(table, Text(f"{snapshot.where}, {days} days old: {snapshot.source}", "dim"), Text(STORAGE_LINE, "dim"))


def document_of(snapshot: Snapshot, now_s: float | None = None) -> dict[str, Any]:
    return {
        "format": 1,
        "asked": snapshot.asked,
        "age_days": snapshot.age_days(time.time() if now_s is None else now_s),
        "source": snapshot.source,
        "where": snapshot.where,
        "storage_usd_per_gb_month": {
            "network_volume": VOLUME_USD,
            "network_volume_above_1_tb": VOLUME_USD_ABOVE,
            "high_performance_volume": HIGH_PERFORMANCE_USD,
            "disk_of_a_running_pod": DISK_USD,
        },
        "offers": [
            {**asdict(offer), "stock": offer.stock if known else None, "seen": seen}
            for offer, seen, known in zip(snapshot.offers, snapshot.seen, snapshot.known_stock, strict=True)
        ],
    }


def rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Offers of one GPU, tier and price in one row; `stock` is the fullest of its places."""
    order = ("NONE", "LOW", "MEDIUM", "HIGH")
    found: dict[tuple[str, str, float], dict[str, Any]] = {}
    for offer, seen, known in zip(snapshot.offers, snapshot.seen, snapshot.known_stock, strict=True):
        key = (offer.gpu, offer.tier, offer.usd_per_gpu_hour)
        stock = offer.stock if known else ""
        row = found.setdefault(
            key,
            {
                "gpu": offer.gpu,
                "memory_gb": offer.gpu_memory_gb,
                "tier": offer.tier,
                "usd_per_gpu_hour": offer.usd_per_gpu_hour,
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

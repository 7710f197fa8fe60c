"""What things cost where no cloud was asked: list prices of storage, and a dated snapshot of the catalogue."""

from pushtrain.prices.storage import HIGH_PERFORMANCE_NOTE, storage_said, storage_usd_per_month

__all__ = ["HIGH_PERFORMANCE_NOTE", "storage_said", "storage_usd_per_month"]

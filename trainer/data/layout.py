"""How rows lie in the sequences of a batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset


def lengths(dataset: "Dataset", columns: Sequence[str]) -> "numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]":
    """Token ids of each row in these columns together, without a Python object for each of them."""
    import numpy
    import pyarrow.compute

    total = numpy.zeros(len(dataset), dtype=numpy.int64)
    for name in columns:
        total += pyarrow.compute.list_value_length(dataset.data.column(name)).to_numpy()
    return total

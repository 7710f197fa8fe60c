"""Models whose sizes are known without the Hub: a small table of the families that are fine-tuned most."""

import json
import re
from functools import cache
from pathlib import Path

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.shape import ModelShape

# What makers and mirrors add to a model's name without changing its sizes.
_VARIANTS = re.compile(
    r"(?i)([-_](instruct|it|chat|base|hf|pt|sft|dpo|2507|thinking|bnb-4bit|unsloth|v0\.[123]|0[1-9]\d\d|1[0-2]\d\d))+$"
)


def known_shape(model_id: str) -> tuple[ModelShape, str] | None:
    """The shape of a model by its Hub id, and the entry it was taken from; None for one the table does not have.

    A variant (`-Instruct`) or a mirror under another owner is taken for the model it is named after.
    """
    exact = _table().get(model_id)
    if exact is not None:
        return exact, model_id
    wanted = _plain(model_id)
    entry = next((name for name in _table() if _plain(name) == wanted), None)
    return (_table()[entry], entry) if entry else None


def _plain(model_id: str) -> str:
    return _VARIANTS.sub("", model_id.rpartition("/")[2]).removeprefix("Meta-").lower()


@cache
def _table() -> dict[str, ModelShape]:
    document = json.loads(Path(__file__).with_name("known_models.json").read_text(encoding="utf-8"))
    return {name: shape_of(entry["config"]) for name, entry in document["models"].items()}

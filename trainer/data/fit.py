"""What the model's own configuration says about rows, read from its config.json before anything heavy is imported."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from trainer.failures import ModelNotFound, ModelUnsupported, hub_errors, retried
from trainer.job import Job

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length")
RETRY_DELAYS_S = (1.0, 3.0, 10.0)


def model_config(job: Job) -> dict[str, Any]:
    """config.json of the base model at its commit, the part about text where there are several; empty without one.

    Raises one of the failures of the Hub.
    """
    model, sha = job.spec.model, job.inputs.model_sha

    def fetch() -> str | None:
        with hub_errors(f"model {model.id}", missing=ModelNotFound):
            try:
                return str(hf_hub_download(model.id, "config.json", revision=sha))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                return None

    path = retried(fetch, RETRY_DELAYS_S, time.sleep)
    config = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else dict(config)


def check_length(job: Job, config: Mapping[str, Any]) -> None:
    """Raises ModelUnsupported where `train.max_length` is more than the model has positions for."""
    if "relative_attention_num_buckets" in config:
        return  # T5: positions are relative, n_positions is only what it was trained with
    limit = next((config[name] for name in _LENGTHS if isinstance(config.get(name), int)), None)
    if limit is not None and job.spec.train.max_length > limit:
        text = f"train.max_length is {job.spec.train.max_length}, {job.spec.model.id} takes {limit} tokens at most"
        raise ModelUnsupported(text, hint=f"max_length: {limit} or less, or a model with a longer context")

"""What the Hub says about a model and a dataset, without torch, transformers or a token: sizes, licence, gate, commit.

One or two small requests for each model, asked once. A Hub that does not answer is not asked again in this call: the
plan then goes by the table of known models and says so.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.known import known_shape
from pushtrain.estimate.shape import ModelShape, ShapeUnknown

# Seconds without a byte, and of one answer in all: a Hub that drips holds no reviewer up.
TIMEOUT_S, ANSWER_S = 8.0, 20.0
MAX_BYTES = 4_000_000
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """`shape` is None where nobody knows it; `how` says where it is from, `trouble` what the Hub refused."""

    shape: ModelShape | None
    how: str
    commit: str | None = None
    licence: str | None = None
    is_gated: bool = False
    stored_bytes: float | None = None
    trouble: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """`rows` and `text_bytes` of one split where the dataset's page says them."""

    rows: int | None = None
    text_bytes: float | None = None
    commit: str | None = None
    licence: str | None = None
    is_gated: bool = False
    trouble: str = ""


class Hub:
    """Reads from `environ`'s HF_ENDPOINT, with HF_TOKEN where there is one; nothing at all with HF_HUB_OFFLINE=1."""

    def __init__(self, environ: Mapping[str, str], answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._url = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        token = environ.get("HF_TOKEN", "").strip()
        self._headers = {"user-agent": "pushtrain", **({"authorization": f"Bearer {token}"} if token else {})}
        self.away = "HF_HUB_OFFLINE is set" if environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        home = environ.get("HF_HOME") or (f"{environ['HOME']}/.cache/huggingface" if environ.get("HOME") else None)
        self._cache = environ.get("HF_HUB_CACHE") or (f"{home}/hub" if home else None)
        self._models: dict[tuple[str, str], ModelFacts] = {}
        self._datasets: dict[tuple[str, str, str, str | None], DatasetFacts] = {}

    def model(self, model_id: str, revision: str) -> ModelFacts:
        key = (model_id, revision)
        if key not in self._models:
            self._models[key] = self._ask_model(model_id, revision)
        return self._models[key]

    def dataset(self, name: str, revision: str, split: str, config: str | None = None) -> DatasetFacts:
        key = (name, revision, split, config)
        if key not in self._datasets:
            self._datasets[key] = self._ask_dataset(*key)
        return self._datasets[key]

    def tokenizer(self, model_id: str, revision: str) -> Path | None:
        """The model's tokenizer.json in the Hub's cache on this machine; nothing is downloaded."""
        from huggingface_hub import try_to_load_from_cache

        folder = self._cache
        found = try_to_load_from_cache(model_id, "tokenizer.json", cache_dir=folder, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def _ask_model(self, model_id: str, revision: str) -> ModelFacts:
        info, trouble = self._json(f"/api/models/{model_id}/revision/{quote(revision, safe='')}?blobs=true")
        if info is None:
            return _from_table(model_id, trouble or f"the Hub was not asked: {self.away}", trouble)
        config, refused = self._json(f"/{model_id}/resolve/{quote(revision, safe='')}/config.json")
        commit = str(info.get("sha") or "") or None
        found = ModelFacts(
            shape=None,
            how="",
            commit=commit,
            licence=_licence(info),
            is_gated=bool(info.get("gated")),
            stored_bytes=_stored_bytes(info),
        )
        if config is None:
            known = _from_table(model_id, f"config.json: {refused}", "")
            return replace(found, shape=known.shape, how=known.how, trouble="")
        try:
            shape = shape_of(config)
        except ShapeUnknown as unknown:
            return replace(found, shape=None, how=str(unknown))
        total = info.get("safetensors")
        count = total.get("total") if isinstance(total, Mapping) else None
        if isinstance(count, int) and shape.stored_bits == 16 and not shape.is_tied:
            shape = shape.with_total(min(count, 10**13))
        at = f" at {commit[:8]}" if commit else ""
        return replace(
            found, shape=shape, how="; ".join(it for it in (f"config.json of {model_id}{at}", shape.note) if it)
        )

    def _ask_dataset(self, name: str, revision: str, split: str, config: str | None) -> DatasetFacts:
        info, trouble = self._json(f"/api/datasets/{name}/revision/{quote(revision, safe='')}")
        if info is None:
            return DatasetFacts(trouble=trouble)
        rows, size = _split_size(info.get("cardData"), split, config)
        return DatasetFacts(
            rows=rows,
            text_bytes=size,
            commit=str(info.get("sha") or "") or None,
            licence=_licence(info),
            is_gated=bool(info.get("gated")),
        )

    def _json(self, path: str) -> tuple[dict[str, Any] | None, str]:
        """An object, or None and why not; the latter is empty where the Hub is away."""
        if self.away:
            return None, ""
        began_s = time.monotonic()
        try:
            with (
                httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, headers=self._headers) as client,
                client.stream("GET", self._url + path) as answer,
            ):
                if answer.status_code >= 500 or answer.status_code == 429:
                    self.away = f"it answered {answer.status_code}"
                    return None, ""
                if answer.status_code != 200:
                    return None, _refusal(answer.status_code, answer.headers.get("X-Error-Code", ""))
                raw = b""
                for chunk in answer.iter_bytes():
                    raw += chunk
                    if len(raw) > MAX_BYTES:
                        return None, "the answer is too large"
                    if time.monotonic() - began_s > self._answer_s:
                        self.away = f"it took longer than {self._answer_s:g} s"
                        return None, ""
            value = json.loads(raw)
        except httpx.HTTPError as error:
            self.away = f"it cannot be reached ({type(error).__name__})"
            return None, ""
        except (ValueError, RecursionError):
            return None, "the answer is no JSON"
        return (value, "") if isinstance(value, dict) else (None, "the answer is no object")


def _refusal(status: int, code: str) -> str:
    if code == "RevisionNotFound":
        return "it has no such revision"
    words = {401: "not there, or it needs a token", 403: "access has to be asked for", 404: "not there"}
    return words.get(status, f"answer {status}")


def _from_table(model_id: str, why: str, trouble: str) -> ModelFacts:
    known = known_shape(model_id)
    if known is None:
        return ModelFacts(shape=None, how=f"sizes of {model_id} are not known; {why}", trouble=trouble)
    shape, entry = known
    return ModelFacts(shape=shape, how=f"pushtrain's table has it as {entry}; {why}", trouble=trouble)


def _licence(info: Mapping[str, Any]) -> str | None:
    card = info.get("cardData")
    found = card.get("license") if isinstance(card, Mapping) else None
    found = found[0] if isinstance(found, list) and found else found
    tags = info.get("tags")
    tagged = (
        [tag for tag in tags if isinstance(tag, str) and tag.startswith("license:")] if isinstance(tags, list) else []
    )
    text = found if isinstance(found, str) else tagged[0].removeprefix("license:") if tagged else None
    return text[:60] if text else None


def _stored_bytes(info: Mapping[str, Any]) -> float | None:
    files = info.get("siblings")
    sizes: dict[str, float] = dict.fromkeys(_WEIGHTS, 0.0)
    for file in files if isinstance(files, list) else ():
        name, size = (file.get("rfilename"), file.get("size")) if isinstance(file, Mapping) else (None, None)
        ending = next((it for it in _WEIGHTS if isinstance(name, str) and name.endswith(it) and "/" not in name), None)
        if ending and isinstance(size, int) and size >= 0:
            sizes[ending] += size
    return next((size for size in sizes.values() if size), None)


def _split_size(card: object, split: str, config: str | None) -> tuple[int | None, float | None]:
    """Rows and bytes of a split as the dataset's README says them in its head; of the first configuration where the
    spec names none."""
    found = card.get("dataset_info") if isinstance(card, Mapping) else None
    entries = [it for it in (found if isinstance(found, list) else [found]) if isinstance(it, Mapping)]
    named = [it for it in entries if config is None or it.get("config_name", config) == config]
    splits = named[0].get("splits") if named else None
    for entry in splits if isinstance(splits, list) else ():
        if isinstance(entry, Mapping) and entry.get("name") == split:
            rows, size = entry.get("num_examples"), entry.get("num_bytes")
            good = [it if isinstance(it, int) and 0 < it < 10**13 else None for it in (rows, size)]
            return good[0], float(good[1]) if good[1] else None
    return None, None

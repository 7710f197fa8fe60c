"""The licence of a base model, as its card on the Hub says."""

import time
from collections.abc import Callable, Mapping
from typing import Any

BELIEVED_S = 600.0
_TIMEOUT_S = 10.0


class Licences:
    """Asks the Hub, and remembers an answer for ten minutes. Holds no connection."""

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._environ, self._clock = environ, clock
        self._known: dict[tuple[str, str], tuple[float, str | None]] = {}

    def __call__(self, model_id: str, revision: str) -> str | None:
        """E.g. apache-2.0; of a licence that the Hub calls other, its own name. None when nobody can tell."""
        known = self._known.get((model_id, revision))
        if known is None or self._clock() - known[0] > BELIEVED_S:
            known = self._known[model_id, revision] = (self._clock(), self._ask(model_id, revision))
        return known[1]

    def _ask(self, model_id: str, revision: str) -> str | None:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi(endpoint=self._environ.get("HF_ENDPOINT") or None, token=self._environ.get("HF_TOKEN") or False)
        try:
            card = api.model_info(model_id, revision=revision, timeout=_TIMEOUT_S).card_data
        except (HfHubHTTPError, HFValidationError, HTTPError, OSError):
            return None
        said: dict[str, Any] = card.to_dict() if card is not None else {}  # type: ignore[no-untyped-call]
        named = said.get("license_name") if said.get("license") == "other" else None
        licence = named or said.get("license")
        return licence if isinstance(licence, str) and licence else None

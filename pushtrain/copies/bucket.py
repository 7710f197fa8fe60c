"""Where `publish.checkpoints` leads, and the keys for it. Sends nothing."""

import os
from collections.abc import Mapping

from pushtrain.errors import SpecError
from pushtrain.volumes.endpoints import Access

KEYS = "PUSHTRAIN_CHECKPOINTS_AWS_"


def prefix_of(url: str, run_id: str) -> str:
    """What every name of a run's copies begins with, in the bucket of `s3://BUCKET/PREFIX`."""
    prefix = url.removeprefix("s3://").partition("/")[2].strip("/")
    return "/".join(part for part in (prefix, run_id) if part) + "/"


def access_to(url: str, environ: Mapping[str, str] = os.environ) -> Access:
    """Raises SpecError (CheckpointsRefused) without keys."""
    given = {
        name: environ.get(f"{KEYS}{name}", "").strip()
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "ENDPOINT_URL", "REGION")
    }
    if missing := [f"{KEYS}{name}" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY") if not given[name]]:
        raise SpecError(
            f"publish.checkpoints {url}: {' and '.join(missing)} is not set",
            hint="docs/training.md says which keys it takes",
            reason="CheckpointsRefused",
        )
    return Access(
        url=given["ENDPOINT_URL"].rstrip("/"),
        region=given["REGION"] or ("auto" if given["ENDPOINT_URL"] else "us-east-1"),
        bucket=url.removeprefix("s3://").partition("/")[0],
        access_key=given["ACCESS_KEY_ID"],
        secret_key=given["SECRET_ACCESS_KEY"],
        session_token=given["SESSION_TOKEN"],
        key_names=(f"{KEYS}ACCESS_KEY_ID", f"{KEYS}SECRET_ACCESS_KEY"),
    )

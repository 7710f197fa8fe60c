"""Where RunPod serves a volume's files as S3, and the keys for it, which are not the account's API key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pushtrain.cloud import Volume
from pushtrain.errors import CloudAuthFailed, RequestRejected

ACCESS_KEY, SECRET_KEY = "RUNPOD_S3_ACCESS_KEY", "RUNPOD_S3_SECRET_KEY"
URL = "RUNPOD_S3_URL"
PUBLIC_URL = "https://s3api-{data_center}.runpod.io"

# docs.runpod.io/storage/s3-api, as of its commit 0f21594.
S3_DATA_CENTERS = frozenset(
    (
        "EU-CZ-1",
        "EU-RO-1",
        "EUR-IS-1",
        "EUR-NO-1",
        "US-CA-2",
        "US-GA-2",
        "US-IL-1",
        "US-KS-2",
        "US-MD-1",
        "US-MO-1",
        "US-MO-2",
        "US-NC-1",
        "US-NC-2",
        "US-NE-1",
        "US-WA-1",
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How one bucket, a volume's files, is reached. `region` is what requests are signed for, `key_names` are the
    variables that the keys came from. An empty `url` is AWS itself."""

    url: str
    region: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    key_names: tuple[str, str] = (ACCESS_KEY, SECRET_KEY)


def access_to(volume: Volume, environ: Mapping[str, str] = os.environ) -> Access:
    """Sends nothing. RUNPOD_S3_ACCESS_KEY and RUNPOD_S3_SECRET_KEY; RUNPOD_S3_URL where it is another than RunPod's,
    with {data_center} in it.

    Raises RequestRejected (NoS3) for a data center without the API, CloudAuthFailed without keys.
    """
    check_data_center(volume.data_center)
    access_key, secret_key = environ.get(ACCESS_KEY, "").strip(), environ.get(SECRET_KEY, "").strip()
    if not access_key or not secret_key:
        missing = ACCESS_KEY if not access_key else SECRET_KEY
        raise CloudAuthFailed(
            f"{missing} is not set: a volume's files are reached with keys of their own",
            hint="make an S3 API key at https://console.runpod.io/user/settings (user_… and rps_…) and export both",
        )
    url = (environ.get(URL) or PUBLIC_URL).replace("{data_center}", volume.data_center.lower())
    return Access(
        url=url.rstrip("/"),
        region=volume.data_center.upper(),
        bucket=volume.id,
        access_key=access_key,
        secret_key=secret_key,
    )


def check_data_center(data_center: str) -> None:
    """Raises RequestRejected (NoS3) where RunPod serves no S3 for volumes there."""
    if data_center.upper() not in S3_DATA_CENTERS:
        raise RequestRejected(
            f"RunPod lists no S3 API for volumes in {data_center}",
            hint="a pod that mounts the volume can be copied to over ssh (docs/volumes.md); data centers with S3: "
            + ", ".join(sorted(S3_DATA_CENTERS)),
            reason="NoS3",
        )

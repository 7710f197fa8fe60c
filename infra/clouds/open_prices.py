"""What clouds tell everybody about their prices: no key, no account, nothing rented."""

from collections.abc import Mapping

from infra.clouds.vast.answers import BASE_URL as VAST_URL
from infra.clouds.vast.client import Vast
from pushtrain.cloud import Cloud

# RunPod's REST v2 asks for a key, and so do Lambda and JarvisLabs; Modal has no list of prices at all.
OPEN = ("vast",)


def connect_open(name: str, environ: Mapping[str, str]) -> Cloud:
    """A client that can read offers, and nothing else; sends nothing yet. KeyError for a cloud that is not OPEN."""
    if name not in OPEN:
        raise KeyError(name)
    return Vast(None, environ.get("VAST_URL") or VAST_URL, environ=environ)

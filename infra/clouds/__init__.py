"""Clouds by name. Each is one member of `pushtrain.cloud.Cloud`."""

import os
from collections.abc import Mapping

from infra.clouds.runpod import BASE_URL, RunPod
from infra.clouds.runpod_account import Account, read_account
from infra.clouds.vast import Vast
from infra.clouds.vast_answers import BASE_URL as VAST_URL
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud
from pushtrain.errors import CloudAuthFailed, SpecError
from pushtrain.fleet import Fleet


def connect(name: str = "runpod", environ: Mapping[str, str] = os.environ) -> Cloud:
    """A client for the named cloud; sends nothing yet.

    Reads RUNPOD_API_KEY or VAST_API_KEY and, where it is set, RUNPOD_API_BASE_URL or VAST_URL. Raises CloudAuthFailed
    without a key, SpecError for a cloud nobody has written.
    """
    if name == "vast":
        return _vast(environ)
    if name != "runpod":
        raise SpecError(f"unknown cloud {name!r}", hint=f"the clouds are {', '.join(CLOUDS)}")
    key = environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise CloudAuthFailed(
            "RUNPOD_API_KEY is not set", hint="make a key at https://console.runpod.io/user/settings and export it"
        )
    return RunPod(key, environ.get("RUNPOD_API_BASE_URL") or BASE_URL, environ=environ)


def connect_all(environ: Mapping[str, str] = os.environ) -> Cloud:
    """The clouds whose keys are set; of one alone its own client. Raises CloudAuthFailed without any."""
    named = [name for name, can in CLOUDS.items() if environ.get(can.key_name, "").strip()]
    if len(named) < 2:
        return connect(next(iter(named), "runpod"), environ)
    return Fleet({name: connect(name, environ) for name in named})


def account(environ: Mapping[str, str] = os.environ) -> tuple[Account | None, str]:
    """RunPod's account behind RUNPOD_API_KEY, or None and why it is not told. Raises CloudAuthFailed."""
    key = environ.get("RUNPOD_API_KEY", "").strip()
    return read_account(key, environ.get("RUNPOD_API_BASE_URL") or BASE_URL)


def _vast(environ: Mapping[str, str]) -> Cloud:
    key = environ.get("VAST_API_KEY", "").strip()
    if not key:
        raise CloudAuthFailed("VAST_API_KEY is not set", hint="make a key at https://cloud.vast.ai/manage-keys/")
    return Vast(key, environ.get("VAST_URL") or VAST_URL, environ=environ)

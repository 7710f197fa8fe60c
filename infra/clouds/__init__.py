"""Clouds by name. Each is one member of `pushtrain.cloud.Cloud`."""

import os
from collections.abc import Mapping
from typing import Protocol

from infra.clouds.jarvis.client import JarvisLabs
from infra.clouds.lambda_cloud.client import Lambda
from infra.clouds.modal.client import Modal
from infra.clouds.runpod.client import RunPod
from infra.clouds.vast.client import Vast
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud
from pushtrain.errors import CloudAuthFailed, CloudError, SpecError
from pushtrain.fleet import Fleet, NoClient


class Client(Protocol):
    """Makes the client of one cloud; sends nothing. `environ` is where it reads a pod's secrets from at each create,
    and a second half of its key, where there is one."""

    def __call__(self, api_key: str, base_url: str, /, *, environ: Mapping[str, str]) -> Cloud: ...


# Everything else about a cloud is data: pushtrain/capabilities.py.
CLIENTS: Mapping[str, Client] = {
    "runpod": RunPod,
    "vast": Vast,
    "lambda": Lambda,
    "modal": Modal,
    "jarvislabs": JarvisLabs,
}


def connect(name: str = "runpod", environ: Mapping[str, str] = os.environ) -> Cloud:
    """A client for the named cloud; sends nothing yet.

    Reads the variable of its key and, where it is set, that of its URL. Raises CloudAuthFailed without a key, SpecError
    for a cloud nobody has written.
    """
    if name not in CLIENTS:
        raise SpecError(f"unknown cloud {name!r}", hint=f"the clouds are {', '.join(CLIENTS)}")
    can = CLOUDS[name]
    key = environ.get(can.key_name, "").strip()
    if not key:
        raise CloudAuthFailed(f"{can.key_name} is not set", hint=f"make a key at {can.keys_at} and export it")
    return CLIENTS[name](key, environ.get(can.pod.base_url) or can.pod.public_api, environ=environ)


def connect_all(environ: Mapping[str, str] = os.environ) -> Cloud:
    """The clouds whose keys are set; of one alone its own client. Raises CloudAuthFailed without any.

    Of several one whose key or URL no client takes is there, and every call of it says why: the others are looked
    after. Raises CloudError where none can be used.
    """
    named = [name for name, can in CLOUDS.items() if environ.get(can.key_name, "").strip()]
    if len(named) < 2:
        return connect(next(iter(named), "runpod"), environ)
    clouds = dict[str, Cloud]()
    wrong = list[CloudError]()
    for name in named:
        try:
            clouds[name] = connect(name, environ)
        except CloudError as failure:
            clouds[name] = NoClient(name, failure)
            wrong.append(failure)
    if len(wrong) == len(named):
        raise wrong[0]
    return Fleet(clouds)

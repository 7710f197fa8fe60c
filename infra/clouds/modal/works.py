"""What Modal's SDK is asked to do in more than one breath: each takes the module `modal` and an open client."""

import re
from typing import Any

from pushtrain.cloud import PodRequest
from pushtrain.errors import RequestRejected

APP = "pushtrain"
_SANDBOX_ID = re.compile(r"sb-[0-9A-Za-z]{1,60}")
# The return code of one that `terminate` ended (modal 1.6.4).
_TERMINATED = 137


async def prepared(request: PodRequest, modal: Any, client: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The app, the image, built, and what is mounted where."""
    app = await modal.App.lookup.aio(APP, create_if_missing=True, client=client)
    image = await modal.Image.from_registry(request.image).build.aio(app)
    if request.volume_id is None:
        return app, image, {}
    return app, image, {request.mount_path: modal.Volume.from_id(request.volume_id, client=client)}


async def came_and_went(name: str, modal: Any, client: Any) -> tuple[str, dict[str, str]] | None:
    """Id and tags of a sandbox that ended by itself; None for one that lives, or that somebody ended."""
    sandbox = await modal.Sandbox.from_name.aio(APP, name, include_terminated=True, client=client)
    looked = await modal.Sandbox.from_id.aio(sandbox.object_id, client=client)
    if looked.returncode in (None, _TERMINATED):
        return None
    return str(sandbox.object_id), await looked.get_tags.aio()


async def rates(modal: Any, client: Any) -> dict[str, float]:
    found = await modal.Workspace.from_context(client=client).billing.rates.aio()
    return {str(name): float(usd) for name, usd in found.items()}


async def cost(pod_id: str, modal: Any, client: Any) -> float:
    sandbox = await modal.Sandbox.from_id.aio(checked(pod_id), client=client)
    stats = await sandbox._experimental_stats.aio()
    return float(stats.cost or 0)


def checked(pod_id: str) -> str:
    """An id that Modal never gave would be asked for at another backend: RequestRejected."""
    if not _SANDBOX_ID.fullmatch(pod_id):
        raise RequestRejected(f"{pod_id!r} is not an id of a Modal sandbox", hint="ids begin with sb-")
    return pod_id

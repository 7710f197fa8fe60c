"""Where a pod's open ports can be reached from outside. Standard library only."""

from collections.abc import Mapping

from pushtrain.pod.terminate import PUBLIC_API


def addresses(environ: Mapping[str, str]) -> dict[str, str]:
    """URL by port as PUSHTRAIN_PORTS names it; a port that RunPod has not mapped is left out.

    HTTP goes through RunPod's public proxy (100 s a request, no password); TCP to an address and port that RunPod puts
    into the pod's environment. At another API than the public one a pod's ports are its machine's own.
    """
    is_public = environ.get("RUNPOD_API_BASE_URL", PUBLIC_API).rstrip("/") == PUBLIC_API
    pod, host = environ.get("RUNPOD_POD_ID", ""), environ.get("RUNPOD_PUBLIC_IP", "")
    found = {}
    for port in filter(None, environ.get("PUSHTRAIN_PORTS", "").split(",")):
        number, _, kind = port.partition("/")
        if kind == "http":
            found[port] = f"https://{pod}-{number}.proxy.runpod.net" if is_public else f"http://{host}:{number}"
        elif mapped := environ.get(f"RUNPOD_TCP_PORT_{number}"):
            found[port] = f"tcp://{host}:{mapped}"
    return found

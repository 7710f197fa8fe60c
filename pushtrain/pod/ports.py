"""Where a pod's open ports can be reached from outside. Standard library only."""

from collections.abc import Mapping

from pushtrain.pod.place import is_public, mapped, pod_id, words


def addresses(environ: Mapping[str, str]) -> dict[str, str]:
    """URL by port as PUSHTRAIN_PORTS names it; a port that nobody has mapped, or at an address
    that the pod is not told, is left out.

    HTTP goes through RunPod's public proxy (100 s a request, no password); TCP to an address and port that the cloud
    puts into the pod's environment. At another API than the public one a pod's ports are its machine's own.
    """
    pod, host = pod_id(environ), environ.get(words(environ).address, "").strip()
    found = {}
    for port in filter(None, environ.get("PUSHTRAIN_PORTS", "").split(",")):
        number, _, kind = port.partition("/")
        if kind == "http":
            if is_public(environ) and (proxy := words(environ).proxy):
                found[port] = proxy.format(pod=pod, port=number)
            elif host and not is_public(environ):
                found[port] = f"http://{host}:{number}"
        elif host and (outside := mapped(environ, number)):
            found[port] = f"tcp://{host}:{outside}"
    return found

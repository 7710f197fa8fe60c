"""Where a cloud's API is: an address that gives no key away. Pure."""

import re
from urllib.parse import urlsplit

from pushtrain.capabilities import Capabilities
from pushtrain.errors import RequestRejected
from pushtrain.redact import redact

_LOOPBACK = re.compile(r"^(localhost|127(\.\d{1,3}){3}|::1)$")


def is_on_loopback(url: str) -> bool:
    return bool(_LOOPBACK.match(urlsplit(url).hostname or ""))


def check_address(base_url: str, can: Capabilities) -> bool:
    """Whether it is on loopback. Raises RequestRejected for every URL over which the key would travel in clear text."""
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname or "", url.port
    except ValueError:
        url, host = urlsplit(""), ""
    loopback = bool(_LOOPBACK.match(host))
    if not host or url.username or not (url.scheme == "https" or (url.scheme == "http" and loopback)):
        raise RequestRejected(
            f"{can.pod.base_url} {redact(base_url)!r} must be https, or http on loopback, without credentials",
            hint=f"set {can.pod.base_url} to such a URL, or unset it for {can.title}'s own, {can.pod.public_api}",
        )
    return loopback

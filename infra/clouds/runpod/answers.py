"""What RunPod answers, and which error that is. Pure: no I/O, no clock.

The retry table of the whole client (the vendor's, completed by what was seen on the wire):

| answer                         | inside one call                            | then                               |
| ------------------------------ | ------------------------------------------ | ---------------------------------- |
| 2xx                            | –                                          | the result                         |
| 400 with a known capacity text | never retried                              | NoCapacity: next candidate         |
| 400, 405, 422, any 3xx         | never retried                              | RequestRejected with the detail    |
| 401                            | never retried                              | CloudAuthFailed                    |
| 402                            | never retried                              | NoBalance                          |
| 403                            | never retried                              | CloudAuthFailed                    |
| 404 on read, delete, terminate | never retried                              | None, or success                   |
| 404 on create                  | never retried                              | CloudUnavailable: its volume went  |
| 404 that is no RFC 9457 body   | never retried                              | CloudUnavailable: not RunPod's 404 |
| 409                            | never retried; terminate goes on to DELETE | CloudUnavailable: state may change |
| 410                            | never retried                              | RequestRejected: API retired       |
| 429                            | waits Retry-After, while that is bounded   | CloudUnavailable                   |
| our own share of the quota     | not sent; waits while that is bounded      | CloudUnavailable                   |
| 408, 5xx, no answer, a cut, a  | repeatable: bounded backoff with jitter;   | CloudUnavailable; NoCapacity when  |
| 2xx nobody can read            | create: look the name up, else send again  | nothing is there and the text says |
|                                |                                            | so                                 |
"""

import re

from infra.clouds.answers import Answer, Speaks
from infra.clouds.refusals import Why
from pushtrain.capabilities import CLOUDS

# RunPod has no machine-readable code for "no capacity", only English; compared in lower case, and where it was seen.
# "No longer any" goes on with "the requested specifications" (REST v2 and GraphQL on demand), "the request
# specifications" (GraphQL spot) or "enough disk space" (runpod/runpod-python#297).
CAPACITY_TEXTS = (
    "no longer any instances available",  # REST v2, GraphQL; live bodies of 2026
    "resources to deploy your pod",  # "This machine does not have the …": community, big disks; RunPod's SDK 2.0.0rc2
    "not enough free gpus",  # "There are … on the host machine to start this pod": GraphQL, resuming
    "no instances currently available",  # GraphQL
    "insufficient capacity",  # RunPod's SDK 2.0.0rc2
    "no available machine",  # the same
    "out of stock",  # the same
)
_CLOUDFLARE_1010 = re.compile(r"error\s*(?:code)?\s*:?\s*1010", re.IGNORECASE)


def says_no_capacity(answer: Answer) -> bool:
    """Whether an error's body says so anywhere: `detail` or `errors` of a problem, messages of GraphQL's errors."""
    found = answer.json if isinstance(answer.json, dict) else {}
    errors = found.get("errors")
    listed = errors if isinstance(errors, list) else []
    messages = [error.get("message") if isinstance(error, dict) else error for error in listed]
    texts = " ".join(str(text) for text in [answer.said, found.get("detail"), found.get("title"), *messages]).lower()
    return not answer.ok and any(text in texts for text in CAPACITY_TEXTS)


def why(answer: Answer) -> Why | None:
    """What RunPod's own words and statuses say of a refusal."""
    if answer.status == 400 and says_no_capacity(answer):
        return "full"
    if answer.status == 403 and _CLOUDFLARE_1010.search(answer.said):
        return "blocked"
    own: dict[int, Why] = {409: "busy", 410: "retired"}
    return own.get(answer.status or 0)


SPEAKS = Speaks(
    can=CLOUDS["runpod"],
    path=CLOUDS["runpod"].pod.api_path,
    why=why,
    hints={
        "full": "another GPU, another data center, or later",
        "money": "add funds at https://console.runpod.io/user/billing",
        "blocked": "Cloudflare refused the User-Agent before {cloud} saw the request (error 1010): a proxy rewrites "
        "it, or Cloudflare blocks this network; the key is not the problem",
    },
)

"""Why a cloud refuses, and which error that is: one table for all clouds, sorted by who has to act next. Pure."""

from collections.abc import Mapping
from typing import Literal

from pushtrain.capabilities import Capabilities
from pushtrain.errors import (
    ACCESS_DENIED,
    API_RETIRED,
    INVALID_REQUEST,
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
)

Why = Literal[
    "lost",  # no answer that can be read: nobody knows whether it was carried out
    "late",  # no answer within the deadline of the call
    "limit",  # too many requests
    "busy",  # the state of the resource forbids it for now
    "foreign",  # a proxy's answer, or that of a wrong URL: it says nothing about the account
    "gone",  # something the request names went away
    "absent",  # there is no such thing
    "exists",  # the name is taken
    "full",  # no machine is free
    "quota",  # the account may not have more
    "money",  # the account has to pay first
    "auth",  # the key is wrong
    "denied",  # the key is right, and may not do this
    "blocked",  # refused by what stands before the cloud
    "invalid",  # the body breaks the API's contract, whatever the candidate
    "rule",  # it breaks a rule of the cloud
    "retired",  # this generation of the API is gone
]
Hints = Mapping[Why, str]
"""What a cloud says better than the table: addresses, and what is to be had there."""

_AGAIN = "{cloud} did not answer as it should: run the same command again later"
_RULE = "the request breaks a rule of {cloud}: fix the value it names; do not retry"
_ERRORS: Mapping[Why, tuple[type[CloudError], str | None, str]] = {
    "lost": (CloudUnavailable, None, _AGAIN),
    "late": (CloudUnavailable, None, _AGAIN),
    "limit": (CloudUnavailable, None, "{cloud} limits requests: try again when its window is over"),
    "busy": (CloudUnavailable, None, "the resource is in a state that forbids this: try again when it changes"),
    "foreign": (CloudUnavailable, None, "{cloud} itself did not say this: check {url_name} and proxies"),
    "gone": (CloudUnavailable, None, "something the request names is gone: the next look makes it again"),
    "absent": (RequestRejected, None, _RULE),
    "exists": (RequestRejected, None, _RULE),
    "full": (NoCapacity, None, "another GPU, another region, or later"),
    "quota": (NoCapacity, None, "end other machines of the account, or ask {cloud}'s support for a larger quota"),
    "money": (NoBalance, None, "add funds at {console}"),
    "auth": (CloudAuthFailed, None, "{key_name} is wrong, expired, or of another cloud: make a new key at {keys_at}"),
    "denied": (CloudAuthFailed, ACCESS_DENIED, "the key is valid but may not do this: give it write access"),
    "blocked": (CloudAuthFailed, None, "refused before {cloud} saw it: the key is not the problem"),
    "invalid": (RequestRejected, INVALID_REQUEST, _RULE),
    "rule": (RequestRejected, None, _RULE),
    "retired": (
        RequestRejected,
        API_RETIRED,
        "update pushtrain: this version speaks an API of {cloud} that is gone; what runs is listed at {console}",
    ),
}


def error(why: Why, message: str, can: Capabilities, hints: Hints) -> CloudError:
    """The error of a refusal. `message` says what was asked and what was answered, with names and ids, no secrets."""
    kind, reason, hint = _ERRORS[why]
    words = {
        "cloud": can.title,
        "key_name": can.key_name,
        "url_name": can.pod.base_url,
        "keys_at": can.keys_at,
        "console": can.console,
    }
    return kind(message, hint=hints.get(why, hint).format(**words), reason=reason)

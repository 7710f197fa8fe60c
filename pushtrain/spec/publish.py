"""`publish` of a spec: where the result goes."""

from typing import Literal

from pushtrain.spec.names import HubRepo, Part


class Destination(Part):
    """A repository on the Hub."""

    repo: HubRepo
    """Hub repository ORG/NAME; created when missing."""
    private: bool = True
    """Whether a repository that is created is private."""


class Publish(Destination):
    """Where the adapter goes."""

    merge: Literal[False] = False
    """Merging the adapter into the base is not offered yet; the key is reserved."""

"""What the Pulumi CLI remembers of a stack: pure functions over a deployment as `pulumi stack export` prints it."""

from collections.abc import Mapping
from typing import Any

from infra.operations import OPERATIONS, kind_of

Resource = Mapping[str, Any]


def half_created(exported: Mapping[str, Any]) -> list[Resource]:
    """Resources of ours whose create was begun and whose end nobody wrote down; the last one first.

    Pulumi forgets them at the next update but one; they may exist, and be billed. One that was adopted since, that is a
    resource of the same kind and name which has an id, is left out.
    """
    known = {_identity(it) for it in resources_of(exported) if it.get("id")}
    pending = (exported.get("deployment") or {}).get("pending_operations") or ()
    begun = [it["resource"] for it in pending if it["type"] == "creating"]
    return [it for it in reversed(begun) if kind_of(it["type"]) in OPERATIONS and _identity(it) not in known]


def resources_of(exported: Mapping[str, Any]) -> list[Resource]:
    """What a deployment holds, in the order it was made."""
    return list((exported.get("deployment") or {}).get("resources") or ())


def outputs_of(exported: Mapping[str, Any]) -> dict[str, Any]:
    """The stack's exports as of the last update; none of ours is a secret."""
    roots = [it for it in resources_of(exported) if it["type"] == "pulumi:pulumi:Stack"]
    return dict(roots[0].get("outputs") or {}) if roots else {}


def passphrase_salt(exported: Mapping[str, Any]) -> str | None:
    """What tells the CLI whether a passphrase is the right one; None where a service keeps the stack's secrets."""
    provider = (exported.get("deployment") or {}).get("secrets_providers") or {}
    if provider.get("type") != "passphrase":
        return None
    salt = (provider.get("state") or {}).get("salt")
    return str(salt) if salt else None


def _identity(resource: Resource) -> tuple[str, str]:
    return kind_of(resource["type"]), str((resource.get("inputs") or {}).get("name"))

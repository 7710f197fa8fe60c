"""What a policy asks about and no spec says, as far as it can be known before a merge: the month's sum, licences."""

from collections.abc import Mapping
from pathlib import Path
from time import time

from pushtrain.errors import LedgerError, PushtrainError, SpecError
from pushtrain.policy.file import PolicyFile
from pushtrain.policy.gate import month_so_far
from pushtrain.policy.licence import Licences
from pushtrain.policy.model import POLICY_FILE
from pushtrain.policy.rules import Known


def known_before(policy: PolicyFile, root: Path, environ: Mapping[str, str]) -> tuple[Known, list[str]]:
    """What is known, and in words what nobody here can tell. Reconcile asks again in any case, before it rents."""
    rules = policy.policy
    if rules is None:
        return Known(), []
    notes: list[str] = []
    licence = Licences(environ) if rules.licences is not None else None
    if licence is not None and environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        licence = None
        notes.append(f"{POLICY_FILE}: licences were not looked at here: HF_HUB_OFFLINE is set{_LATER}")
    month_usd = None
    if rules.max_usd_per_month is not None:
        try:
            month_usd = _month(root, environ)
        except (LedgerError, SpecError) as away:
            why = f"since the ledger cannot be read: {away.reason}"
            notes.append(f"{POLICY_FILE}: max_usd_per_month was not looked at here, {why}{_LATER}")
        except PushtrainError as away:
            notes.append(f"{POLICY_FILE}: max_usd_per_month was not looked at here: {away}")
    return Known(licence=licence, month_usd=month_usd), notes


# The rules that need it.
ASKED = ("licences", "max_usd_per_month")
_LATER = "; it is before anything is rented"


def _month(root: Path, environ: Mapping[str, str]) -> float:
    from pushtrain.settings import load_settings
    from pushtrain.wiring import open_ledger

    ledger = open_ledger(load_settings(root, environ), environ)
    return month_so_far(ledger, ledger.refs(), time())

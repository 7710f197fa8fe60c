"""Who rents and who remembers: RunPod's account, and where Pulumi keeps its state."""

from collections.abc import Iterator

from pushtrain.doctor.finding import Check, Finding, Place
from pushtrain.run import ledger_prefix
from pushtrain.spec import CommandSpec

_FUNDS = "https://console.runpod.io/user/billing"
_KEYS = "https://console.runpod.io/user/settings"


def cloud_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Raises CloudError where the key is missing or refused. What it may create is not tried: that costs money."""
    from infra.clouds import account, connect

    live = connect("runpod", place.environ).find(ledger_prefix(place.settings.ledger_url))
    there = f"{len(live.pods)} pods and {len(live.volumes)} network volumes carry this ledger's mark"
    yield check.ok(f"takes the key and lists pods and network volumes; {there}")
    found, why = account(place.environ)
    if found is None:
        yield check.unknown(f"RunPod does not tell this key the balance: {why}", _FUNDS)
        return
    dearest = max((spec.budget.max_usd for spec in place.specs), default=0.0)
    said = f"balance ${found.balance_usd:.2f}, spending ${found.usd_per_hour:.2f} an hour"
    if found.balance_usd <= 0:
        yield check.wrong(f"{said}: nothing can be rented", _FUNDS)
    elif found.balance_usd < dearest:
        yield check.warning(f"{said}: less than the ${dearest:g} that one job may cost", _FUNDS)
    else:
        yield check.ok(said)
    opened = [it.name for it in place.specs if isinstance(it, CommandSpec) and "22/tcp" in it.compute.ports]
    if opened and not found.has_ssh_key:
        message = f"{', '.join(opened)} opens 22/tcp, and the account has no ssh key: nobody could log in"
        yield check.warning(message, f"paste the public key (cat ~/.ssh/id_ed25519.pub) at {_KEYS}")
    elif opened:
        yield check.ok(f"{', '.join(opened)} opens 22/tcp, and the account has an ssh key")


def engine_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Raises EngineError for a CLI, a plugin or a backend that cannot be used."""
    from infra.engines import engine_line, select
    from infra.pulumi_probe import probe

    engine = select(place.environ, state_dir=place.settings.state_dir / "stacks")
    said = engine_line(engine).removeprefix("engine: ")
    if engine.name == "embedded":
        if place.environ.get("PULUMI_BACKEND_URL"):
            message = f"{said}: PULUMI_BACKEND_URL is set and not used"
            yield check.warning(message, 'eval "$(pushtrain setup-pulumi)"')
            return
        yield check.ok(f"{said}; what a run owns is found by its name wherever that is lost")
        return
    yield check.ok(said)
    yield check.ok(f"the backend took a stack, gave it back and removed it: {probe(place.environ)}")

"""Who rents and who remembers: RunPod's account, and where Pulumi keeps its state."""

from collections.abc import Iterator

from pushtrain.doctor.finding import Check, Finding, Place
from pushtrain.pod.ssh import fingerprint
from pushtrain.run import ledger_prefix
from pushtrain.ssh.reach import our_fingerprints

_FUNDS = "https://console.runpod.io/user/billing"
_REGISTER = "pushtrain ssh-key"
_S3 = "https://console.runpod.io/user/settings: S3 API Keys"


def cloud_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Raises CloudError where the key is missing or refused. What it may create is not tried: that costs money."""
    from infra.clouds import account, connect

    ledger = place.settings.ledger_url
    live = connect("runpod", place.environ).find(ledger_prefix(ledger) if ledger else "")
    whose = "carry this ledger's mark" if ledger else "are in the account"
    there = f"{len(live.pods)} pods and {len(live.volumes)} network volumes {whose}"
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


def ssh_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Whether a pod would let this machine in. Raises CloudError."""
    from infra.clouds import connect

    if place.specs and not any(spec.compute.ssh for spec in place.specs):
        yield check.ok("no job lets anybody in: compute.ssh is false in each")
        return
    mine = our_fingerprints(place.environ)
    if not mine:
        yield check.warning("this machine has no ssh key: nobody here can log in to a pod", _REGISTER)
        return
    if not place.environ.get("RUNPOD_API_KEY", "").strip():
        yield check.unknown(f"whether the account has this machine's key {mine[0]} cannot be asked without its API key")
        return
    there = connect("runpod", place.environ).ssh_keys()
    if set(mine) & {fingerprint(parts[1]) for line in there if len(parts := line.split()) > 1}:
        yield check.ok(f"pods made from now on let this machine's key in ({mine[0]})")
        return
    none = (
        "no ssh key" if not there else f"{len(there)} ssh key{'s' if len(there) > 1 else ''}, and none of this machine"
    )
    yield check.warning(f"the account has {none}: pods will not let {mine[0]} in", _REGISTER)


def volume_findings(place: Place, check: Check) -> Iterator[Finding]:
    """The keys of the volumes' files, which are others than the account's. Raises CloudError."""
    from pushtrain.volumes.endpoints import ACCESS_KEY, SECRET_KEY

    absent = [name for name in (ACCESS_KEY, SECRET_KEY) if not place.environ.get(name, "").strip()]
    for_what = "pushtrain volumes put, get, ls, rm and copy, and cp volume:NAME, which need no pod"
    if len(absent) == 2:
        kept = sorted({spec.compute.volume.name or "" for spec in place.specs if spec.compute.volume.keep})
        message = f"{ACCESS_KEY} and {SECRET_KEY} are not set, and are for {for_what}; runs need neither"
        yield check.warning(f"{message}; kept volumes: {', '.join(kept)}", _S3) if kept else check.ok(message)
    elif absent:
        yield check.wrong(f"{absent[0]} is not set, and the other half of the pair is: {for_what}", _S3)
    else:
        yield check.ok(f"{ACCESS_KEY} and {SECRET_KEY} are set: {for_what}")


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

"""Who rents: for each cloud that a key is set for, or that a job names, its key, its balance and what it cannot do."""

from collections.abc import Iterator, Mapping, Sequence

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD, Capabilities, losing
from pushtrain.doctor.finding import Check, Finding, Place
from pushtrain.pod.ssh import fingerprint
from pushtrain.run import ledger_prefix
from pushtrain.spec import JobSpec
from pushtrain.ssh.reach import our_fingerprints

_REGISTER = "pushtrain ssh-key"
_MOST_NAMES = 3
# Beginnings of keys that are no cloud's, or not the half that is asked for.
_OTHERS = {
    "hf_": "Hugging Face",
    "ghp_": "GitHub",
    "github_pat_": "GitHub",
    "rps_": "RunPod's S3 API",
    "ak-": "Modal, and the id of a token: that goes into MODAL_TOKEN_ID",
}


def cloud_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Of the cloud that the check is named for; nothing where nobody means it. Raises CloudError where its key is
    refused. What it may create is not tried: that costs money."""
    name, can = check.name, CLOUDS[check.name]
    specs = naming(place.specs, name, place.environ)
    if not has_key(place.environ, can):
        if specs or (name == DEFAULT_CLOUD and not any(has_key(place.environ, it) for it in CLOUDS.values())):
            yield _keyless(place, check, specs)
        return
    if wrong := mistaken(name, place.environ):
        yield check.wrong(f"{wrong}; nothing was sent to {can.title}", f"make a key at {can.keys_at} and export it")
        return
    yield _accepted(place, check, can)
    yield _funds(place, check, specs)
    if specs:
        yield from _limits(check, can, specs)


def ssh_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Whether pods would let this machine in, cloud by cloud. Raises CloudError."""
    if place.specs and not any(spec.compute.ssh for spec in place.specs):
        yield check.ok("no job lets anybody in: compute.ssh is false in each")
        return
    mine = our_fingerprints(place.environ)
    meant = [name for name in CLOUDS if is_meant(place, name)] or [DEFAULT_CLOUD]
    if not mine and any(CLOUDS[name].has_ssh_keys for name in meant):
        yield check.warning("this machine has no ssh key: nobody here can log in to a pod", _REGISTER)
        return
    for name in meant:
        if not CLOUDS[name].has_ssh_keys:
            yield check.ok(f"{CLOUDS[name].title}: {CLOUDS[name].way_in}")
        elif not has_key(place.environ, CLOUDS[name]):
            message = f"whether the account at {CLOUDS[name].title} has this machine's key {mine[0]} cannot be asked"
            yield check.unknown(f"{message} without its API key")
        else:
            yield _registered(place, check, name, mine)


def has_key(environ: Mapping[str, str], can: Capabilities) -> bool:
    return bool(environ.get(can.key_name, "").strip())


def is_meant(place: Place, name: str) -> bool:
    """Whether a key is set for the cloud, or a job names it."""
    return has_key(place.environ, CLOUDS[name]) or bool(naming(place.specs, name, place.environ))


def naming(specs: Sequence[JobSpec], name: str, environ: Mapping[str, str]) -> list[JobSpec]:
    """The jobs that need this cloud: of one that may go to any, the clouds whose keys are set, and the first where none
    is."""
    found = []
    for spec in specs:
        clouds: Sequence[str] = spec.compute.clouds
        if spec.compute.cloud == "any":
            clouds = [it for it in clouds if has_key(environ, CLOUDS[it])] or clouds[:1]
        if name in clouds:
            found.append(spec)
    return found


def mistaken(name: str, environ: Mapping[str, str]) -> str:
    """What is wrong with the key by its looks alone, in words that do not show it; empty where nothing is. A key of
    somebody else's must not be sent to this cloud."""
    can, key = CLOUDS[name], environ[CLOUDS[name].key_name].strip()
    if can.key_begins and key.startswith(can.key_begins):
        return ""
    begins = {begin: it.title for it in CLOUDS.values() for begin in it.key_begins} | _OTHERS
    if whose := next((said for begin, said in begins.items() if key.startswith(begin)), ""):
        return f"{can.key_name} holds a key that by its beginning is of {whose}"
    others = (other for it in CLOUDS.values() for other in it.key_names if other != can.key_name)
    if twin := next((other for other in others if environ.get(other, "").strip() == key), ""):
        return f"{can.key_name} and {twin} hold the same key: one of them is of another cloud"
    return ""


def _keyless(place: Place, check: Check, specs: Sequence[JobSpec]) -> Finding:
    """One of several clouds may go without; a job's only one may not."""
    can = CLOUDS[check.name]
    need = f", and {_names(specs)} {'needs' if len(specs) == 1 else 'need'} {can.title}" if specs else ""
    fix = f"make a key at {can.keys_at} and export it"
    elsewhere = [any(has_key(place.environ, CLOUDS[it]) for it in spec.compute.clouds) for spec in specs]
    if specs and all(elsewhere):
        message = f"{can.key_name} is not set: {_names(specs)} can only go to the other clouds that {_it(specs)} names"
        return check.warning(message, fix)
    return check.wrong(f"{can.key_name} is not set{need}", fix)


def _accepted(place: Place, check: Check, can: Capabilities) -> Finding:
    from infra.clouds import connect

    ledger = place.settings.ledger_url
    live = connect(check.name, place.environ).find(ledger_prefix(ledger) if ledger else "")
    whose = "carry this ledger's mark" if ledger else "are in the account"
    volumes = f" and {len(live.volumes)} network volumes" if can.volume_tiers else ""
    what = "pods and network volumes" if can.volume_tiers else "pods"
    return check.ok(f"takes the key and lists {what}; {len(live.pods)} pods{volumes} {whose}")


def _funds(place: Place, check: Check, specs: Sequence[JobSpec]) -> Finding:
    from infra.clouds.balances import UNTOLD, read_balance

    can = CLOUDS[check.name]
    if check.name in UNTOLD:
        return check.ok(f"tells no balance: {UNTOLD[check.name]} ({can.funds_at})")
    found, why = read_balance(check.name, place.environ)
    if found is None:
        return check.unknown(f"{can.title} does not tell this key the balance: {why}", can.funds_at)
    dearest = max((spec.budget.max_usd for spec in specs), default=0.0)
    spends = "" if found.usd_per_hour is None else f", spending ${found.usd_per_hour:.2f} an hour"
    said = f"balance ${found.usd:.2f}{spends}"
    if found.usd <= 0:
        return check.wrong(f"{said}: nothing can be rented", can.funds_at)
    if found.usd < dearest:
        return check.warning(f"{said}: less than the ${dearest:g} that one job may cost", can.funds_at)
    return check.ok(said)


def _limits(check: Check, can: Capabilities, specs: Sequence[JobSpec]) -> Iterator[Finding]:
    """What those jobs go without there. What keeps a job from going there at all is an error of its spec."""
    if not can.ends_own_bill:
        message = (
            f"{_names(specs)}: the bill of a pod there ends with a reconcile; how it ends itself: {can.ends_itself}"
        )
        yield check.warning(message, "keep a reconcile running, every hour at least: docs/clouds.md")
    without = []
    if lost := [spec for spec in specs if losing(check.name, spec.compute.tiers) and not spec.copies_to]:
        without.append(f"{_names(lost)}: nothing outlives a lost pod, the next attempt starts from step 0")
    if any(spec.compute.ssh for spec in specs) and not (can.has_ssh_keys and can.has_tcp_ports):
        without.append(f"nobody can log in by pushtrain ssh: {can.way_in}")
    without += [f"{what}: {said}" for what, said in (("log", can.logs), ("bill", can.bill)) if said.startswith("none")]
    if without:
        yield check.ok(f"goes without: {'; '.join(without)}")


def _registered(place: Place, check: Check, name: str, mine: Sequence[str]) -> Finding:
    from infra.clouds import connect

    there = connect(name, place.environ).ssh_keys()
    title = CLOUDS[name].title
    if set(mine) & {fingerprint(parts[1]) for line in there if len(parts := line.split()) > 1}:
        return check.ok(f"{title}: pods made from now on let this machine's key in ({mine[0]})")
    none = "no ssh key" if not there else f"{len(there)} ssh key{'s' * (len(there) > 1)}, and none of this machine"
    return check.warning(f"the account at {title} has {none}: pods will not let {mine[0]} in", _REGISTER)


def _names(specs: Sequence[JobSpec]) -> str:
    more = f" and {len(specs) - _MOST_NAMES} more" if len(specs) > _MOST_NAMES else ""
    return ", ".join(spec.name for spec in specs[:_MOST_NAMES]) + more


def _it(specs: Sequence[JobSpec]) -> str:
    return "it" if len(specs) == 1 else "each"

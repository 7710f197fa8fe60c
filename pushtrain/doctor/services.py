"""Who remembers: the keys of RunPod's volumes, and where Pulumi keeps its state."""

from collections.abc import Iterator

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.doctor.clouds import is_meant
from pushtrain.doctor.finding import Check, Finding, Place

_S3 = "https://console.runpod.io/user/settings: S3 API Keys"


def volume_findings(place: Place, check: Check) -> Iterator[Finding]:
    """The keys of the volumes' files, which are others than the account's. Raises CloudError."""
    from pushtrain.volumes.endpoints import ACCESS_KEY, SECRET_KEY

    absent = [name for name in (ACCESS_KEY, SECRET_KEY) if not place.environ.get(name, "").strip()]
    if len(absent) == 2 and not is_meant(place, DEFAULT_CLOUD) and any(is_meant(place, name) for name in CLOUDS):
        return
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

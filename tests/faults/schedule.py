"""Schedules: from a seed to one scenario and the faults that strike it. Everything a replay needs is in here."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pushtrain.capabilities import DEFAULT_CLOUD

from . import several
from .fault import Fault
from .rentals import RENTALS
from .source import JOB
from .trainer import Work

OPERATIONS = ("create_pod", "create_volume", "list_pod", "list_volume", "pod_action", "delete_volume")
CREATES = ("create_pod", "create_volume")
KEEP = "volume: {name: models, keep: true, "


# Narrow and wide ladders, caps that bite early and late. Few, because each is parsed once a process.
_SPECS: tuple[dict[str, Any], ...] = tuple(
    {"gpus": gpus, "data_centers": centers, "volume_gb": volume_gb, "max_hours": max_hours, "max_usd": max_usd}
    for gpus, centers, volume_gb, max_hours, max_usd in (
        ("NVIDIA A40", "EU-SE-1", 10, 0.2, 5),
        ("NVIDIA A40", "", 50, 0.5, 0.3),
        ("NVIDIA A40", "CA-MTL-1, EU-SE-1", 500, 1, 0.1),
        ("NVIDIA A40", "", 10, 2, 1),
        ("NVIDIA A40, NVIDIA RTX A6000", "EU-SE-1", 50, 0.5, 5),
        ("NVIDIA A40, NVIDIA RTX A6000", "", 10, 1, 0.3),
        ("NVIDIA A40, NVIDIA RTX A6000", "CA-MTL-1, EU-SE-1", 10, 0.2, 1),
        ("NVIDIA A100 80GB PCIe, NVIDIA A40", "", 50, 0.5, 1),
        ("NVIDIA A100 80GB PCIe, NVIDIA A40", "CA-MTL-1, EU-SE-1", 500, 2, 5),
        ("NVIDIA A100 80GB PCIe, NVIDIA A40", "", 10, 0.2, 0.1),
    )
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The world the faults strike, drawn from the seed."""

    jobs: Mapping[str, str]
    work: Work
    start_s: float
    max_minutes: float
    keeps_state: bool
    hour_s: float
    page_size: int | None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`cloud` is where it is played: the same faults, the same promises."""

    seed: int
    faults: tuple[Fault, ...]
    cloud: str = DEFAULT_CLOUD

    def text(self) -> str:
        """One line that `--replay` takes."""
        plain = [{name: value for name, value in asdict(fault).items() if value} for fault in self.faults]
        where = {} if self.cloud == DEFAULT_CLOUD else {"cloud": self.cloud}
        return json.dumps({"seed": self.seed, **where, "faults": plain}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        said = json.loads(text)
        faults = tuple(Fault(**fault) for fault in said["faults"])
        return cls(seed=int(said["seed"]), faults=faults, cloud=str(said.get("cloud", DEFAULT_CLOUD)))


def clouds_of(it: Schedule) -> tuple[str, ...]:
    """Where a schedule is played."""
    return several.drawn(it.seed) if it.cloud == several.ANY else (it.cloud,)


def scenario(seed: int, cloud: str = DEFAULT_CLOUD) -> Scenario:
    rng = random.Random(f"scenario {seed}")
    names = ("job", "other")[: 2 if rng.random() < 0.2 else 1]
    jobs = {name: JOB.format(name=name, seed=1, **rng.choice(_SPECS)) for name in names}
    steps = rng.choice([3, 6, 10, 20])
    work = Work(
        steps=steps,
        step_s=rng.choice([10.0, 30.0, 60.0]),
        save_every=rng.choice([1, 2, 5]),
        save_s=rng.choice([1.0, 8.0]),
        load_s=rng.choice([5.0, 40.0]),
        environment_s=rng.choice([20.0, 60.0, 150.0]),
        fetch_s=rng.choice([2.0, 10.0]),
        upload_s=rng.choice([5.0, 20.0]),
    )
    spec = several.spec_over(several.drawn(seed), seed) if cloud == several.ANY else RENTALS[cloud].spec
    max_minutes = rng.choice([3.0, 20.0, 330.0, 330.0, 330.0])
    if rng.random() < 0.15:  # more work than the caps allow, and nobody there to see it for most of the hour
        jobs = {"job": JOB.format(name="job", seed=1, **_SPECS[0])}
        work, max_minutes = replace(work, steps=20, step_s=60.0), 3.0
    return Scenario(
        jobs={name: spec(text) for name, text in _some_kept(jobs, random.Random(f"kept {seed}")).items()},
        work=work,
        start_s=rng.choice([5.0, 20.0, 90.0]),
        max_minutes=max_minutes,
        keeps_state=rng.random() < 0.5,
        hour_s=rng.choice([900.0, 3600.0, 3600.0]),
        page_size=rng.choice([None, None, 100, 100, 100, 3]),
    )


def _some_kept(jobs: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """In a fifth of all scenarios the jobs share a kept volume, or one of two has it."""
    if rng.random() >= 0.2:
        return dict(jobs)
    sharing = [name for name in jobs if name == "job" or rng.random() < 0.7]
    return {name: text.replace("volume: {", KEEP) if name in sharing else text for name, text in jobs.items()}


def schedule(seed: int, cloud: str = DEFAULT_CLOUD) -> Schedule:
    """Every fourth schedule is one crash of the control plane at one point and nothing else, so that every point has
    its turn; the others are up to a dozen faults of any kind."""
    rng = random.Random(f"faults {seed}")
    if seed % 4 == 0:
        return Schedule(seed=seed, faults=(Fault(kind="kill_control", amount=1 + (seed // 4) % 260),), cloud=cloud)
    count = min(12, 1 + int(rng.expovariate(1 / 3.0)))
    drawn = [_draw(rng, KINDS) for _ in range(count)]
    of_its_own = KINDS_OF.get(cloud, {})
    own = random.Random(f"faults {seed} {cloud}")
    drawn += [_draw(own, of_its_own) for _ in range(own.choice([0, 1, 2]))] if of_its_own else []
    made = Schedule(seed=seed, faults=tuple(drawn), cloud=cloud)
    return (
        made
        if cloud != several.ANY
        else replace(made, faults=tuple(_somewhere(it, clouds_of(made), own) for it in drawn))
    )


def _somewhere(fault: Fault, clouds: Sequence[str], rng: random.Random) -> Fault:
    """Of several clouds it mostly strikes one."""
    return fault if rng.random() < 0.2 else replace(fault, where=rng.choice(clouds))


def _draw(rng: random.Random, kinds: "Mapping[str, Draw]") -> Fault:
    kind = rng.choice(sorted(kinds))
    return replace(kinds[kind](rng), kind=kind)


def _early(rng: random.Random) -> float:
    """Half of all faults come while things are being made; the others any time."""
    return 0.0 if rng.random() < 0.4 else round(rng.choice([60.0, 600.0, 1800.0]) * rng.random(), 1)


def _for(*seconds: float) -> Callable[[random.Random], Fault]:
    return lambda rng: Fault(kind="", at_s=_early(rng), amount=rng.choice(seconds))


def _times(*times: float) -> Callable[[random.Random], Fault]:
    return lambda rng: Fault(kind="", at_s=_early(rng), amount=rng.choice(times))


def _on(operations: tuple[str, ...], *amounts: float) -> Callable[[random.Random], Fault]:
    return lambda rng: Fault(kind="", at_s=_early(rng), amount=rng.choice(amounts), what=rng.choice(operations))


def _pod(*amounts: float) -> Callable[[random.Random], Fault]:
    """At some age of one of the first pods."""
    return lambda rng: Fault(
        kind="", at_s=round(rng.choice([30.0, 200.0, 900.0]) * rng.random(), 1), who=int(rng.random() * 3),
        amount=rng.choice(amounts or (0.0,)),
    )  # fmt: skip


def _killed_pod_process(rng: random.Random) -> Fault:
    """At a step of the agent, or between two effects of its shipper."""
    most = rng.choice([10, 30, 60])
    return Fault(
        kind="", who=int(rng.random() * 2), amount=1 + int(rng.random() * most), what=rng.choice(["agent", "shipper"])
    )


def _kill_control(rng: random.Random) -> Fault:
    return Fault(kind="", who=int(rng.expovariate(1.0)), amount=int(rng.choice([40, 120, 300]) * rng.random()) + 1)


def _second(rng: random.Random) -> Fault:
    return Fault(kind="", at_s=_early(rng), amount=rng.choice([0, 0, 10]), what=rng.choice(["own", "own", "shared"]))


def _ledger_down(rng: random.Random) -> Fault:
    seconds = rng.choice([5.0, 60.0, 600.0])
    return Fault(kind="", at_s=_early(rng), amount=seconds, what=rng.choice(["all", "pod", "control"]))


def _skew(rng: random.Random) -> Fault:
    return Fault(kind="", who=int(rng.random() * 2), amount=rng.choice([-3600.0, -90.0, -20.0, 20.0, 90.0, 3600.0]))


Draw = Callable[[random.Random], Fault]
KINDS: Mapping[str, Draw] = {
    # The control plane, and two of it.
    "kill_control": _kill_control,
    "cancelled_action": lambda rng: Fault(kind="", at_s=round(_early(rng) + 30 * rng.random(), 1)),
    "lost_state": lambda rng: Fault(kind="", who=1 + int(rng.random() * 2)),
    "second_reconcile": _second,
    "stale_reconcile": _second,
    "dropped_hour": _times(1),
    "sweep_by_hand": _for(0.0),
    "skewed_control": _skew,
    # The cloud.
    "error_after_create": _on(CREATES, 1, 1, 2),
    "lost_answer": _on(OPERATIONS, 1, 1, 2, 4),
    "slow_answer": _on(OPERATIONS, 5, 30, 55),
    "late_create": _on(CREATES, 121, 130, 180, 400),
    "http_429": _on(("1", "20", "80", "300"), 1, 2, 5),
    "http_402": _for(30.0, 600.0),
    "http_403": _for(10.0, 120.0),
    "http_401": _for(10.0, 120.0),
    "http_500": _times(1, 3, 8),
    "http_502": _times(1, 3, 8),
    "cloud_down": _for(20.0, 200.0, 1200.0),
    "list_behind": _for(2.0, 10.0, 40.0),
    "no_capacity": _on(("*", "NVIDIA A40"), 60, 600, 1800),
    "no_stock": _on(("*", "NVIDIA A40"), 60, 600),
    "volume_busy": _times(1, 2, 6),
    "balance_gone": _for(120.0, 1200.0),
    # The pods.
    "never_starts": lambda rng: Fault(kind="", who=int(rng.random() * 2)),
    "crash_loop": _pod(5.0, 40.0),
    "container_restart": _pod(),
    "killed_pod_process": _killed_pod_process,
    "lost_pod": _pod(),
    "preemption": _pod(),
    "killed_trainer": _pod(),
    "killed_agent": _pod(),
    "killed_watchdog": _pod(),
    "hanging_trainer": _pod(),
    "failing_trainer": _pod(),
    "skewed_pod": _skew,
    # Ledger, Hub, source.
    "ledger_down": _ledger_down,
    "ledger_hangs": _for(10.0, 120.0),
    "cut_push": _times(1, 1, 3),
    "late_push": _times(61, 70, 200),
    "hub_down": _for(60.0, 300.0, 3000.0),
    "source_down": _for(20.0, 200.0, 3000.0),
    # People.
    "suspended": lambda rng: Fault(kind="", at_s=round(1200 * rng.random(), 1)),
    "spec_deleted": lambda rng: Fault(kind="", at_s=round(1200 * rng.random(), 1)),
    "spec_changed": lambda rng: Fault(kind="", at_s=round(1200 * rng.random(), 1)),
    "cancelled_by_hand": lambda rng: Fault(kind="", at_s=round(1200 * rng.random(), 1)),
    "retried_by_hand": lambda rng: Fault(kind="", at_s=round(4000 * rng.random(), 1)),
    "run_by_hand": _for(0.0, 2.0, 20.0, 300.0),
}


# What befalls at one cloud only, drawn besides: the others are the same faults everywhere.
KINDS_OF: Mapping[str, Mapping[str, Draw]] = {
    several.ANY: {
        "refused_but_rented": _times(1, 3),
        "offer_taken": _times(1, 2, 6),
        "dearer": _for(1.2, 3.0),
        "stopped_by_host": _for(0.0),
        # Several of these in one schedule are what two reconciles disagree by.
        "second_reconcile": _second,
        "cloud_down": _for(20.0, 200.0, 1200.0),
        "no_stock": _on(("*",), 60, 600),
        "no_capacity": _on(("*",), 60, 600, 1800),
        "http_401": _for(60.0, 600.0),
        "lost_answer": _on(CREATES, 1, 2),
        "late_create": _on(CREATES, 121, 180, 400),
    },
    # Prices rise between two looks: a catalogue that was read a moment ago is out of date.
    "lambda": {"dearer": _for(1.2, 3.0)},
    # Sold out is a queue: a create waits, is given up, and may be placed in between. An image is built first, which
    # takes its time. Prices rise.
    "modal": {
        "no_capacity": _on(("*",), 60, 300, 1800),
        "slow_answer": _on(("build_image",), 60, 600, 1500),
        "dearer": _for(1.2, 3.0),
    },
    # Refused inside a 200, and made all the same; a balance that is used up pauses what runs.
    "jarvislabs": {"refused_but_rented": _times(1, 1, 3), "dearer": _for(1.2, 3.0), "stopped_by_host": _for(0.0)},
    "vast": {
        # Refused, and rented all the same; the machine of the offer is taken by somebody else; prices rise between two
        # looks; the machine's host stops what runs, which is billed for its disk until it is destroyed.
        "refused_but_rented": _times(1, 1, 3),
        "offer_taken": _times(1, 2, 6),
        "dearer": _for(1.2, 3.0),
        "stopped_by_host": _for(0.0),
    },
}


def counted(schedules: list[Schedule]) -> dict[str, int]:
    counts = {kind: 0 for kind in KINDS}
    for it in schedules:
        for fault in it.faults:
            counts[fault.kind] += 1
    return counts


def without(it: Schedule, drop: set[int]) -> Schedule:
    return replace(it, faults=tuple(fault for index, fault in enumerate(it.faults) if index not in drop))


def plain(fault: Fault) -> dict[str, Any]:
    return {name: value for name, value in asdict(fault).items() if value}

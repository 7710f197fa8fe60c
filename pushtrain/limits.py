"""How long a run may stay in a phase, and which phase it is in. Pure.

The pod's watchdog holds environment, first step, gap between steps and upload itself, within seconds. The control
plane is the second line, `SECOND_LINE_S` later, for a pod whose watchdog and agent are both dead: docs/decisions.md
says why it never believes the ledger's silence alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pushtrain.capabilities import Capabilities
from pushtrain.events import POD_STATES, Event
from pushtrain.settings import Settings

# How much later than the watchdog the control plane acts: grace, last words and terminate's retries fit in, with room
# for clocks that differ.
SECOND_LINE_S = 300.0
# Containers of one attempt that may start without getting further than the one before.
MOST_VAIN_RESTARTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds, and attempts. `placement_held_s` holds once the run's volume exists: it is billed while it waits.
    `closing_s`: what a pod that is cancelled has for its last words, a session for its branch. `longest_s`: after which
    the cloud ends any pod; None where it does not. `listed_within_s`: until when after its create one may be in no
    list."""

    placement_s: float = 24 * 3600.0
    placement_held_s: float = 6 * 3600.0
    boot_s: float = 900.0
    environment_s: float = 1800.0
    first_step_s: float = 3600.0
    step_gap_s: float = 1800.0
    upload_s: float = 3600.0
    max_attempts: int = 3
    closing_s: float = 0.0
    longest_s: float | None = None
    listed_within_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """What a pod is waited for: `awaited` ends the sentence "no … for 30 min"; `knob` says where the limit is set."""

    reason: str
    limit_s: float
    since_s: float
    awaited: str
    knob: str


def limits_of(asked: Mapping[str, float], settings: Settings, can: Capabilities | None = None) -> Limits:
    """`asked` is `limits` of the job spec, as run.json has it since the claim; the rest is this control plane's, and of
    the cloud where the run is (`can`)."""
    placement_s = float(asked.get("placement_hours", 24.0)) * 3600
    return Limits(
        placement_s=placement_s,
        placement_held_s=placement_s / 4,
        boot_s=settings.boot_limit_s + (can.boots_s if can else 0.0),
        environment_s=settings.environment_limit_s,
        first_step_s=float(asked.get("first_step_minutes", 60.0)) * 60,
        step_gap_s=float(asked.get("step_gap_minutes", 30.0)) * 60,
        upload_s=settings.upload_limit_s,
        max_attempts=min(settings.max_attempts, int(asked.get("max_attempts", settings.max_attempts))),
        closing_s=float(asked.get("closing_minutes", 0.0)) * 60,
        longest_s=can.longest_s if can else None,
        listed_within_s=can.listed_within_s if can else 0.0,
    )


def pod_env(limits: Limits) -> dict[str, str]:
    """The limits that the pod's watchdog enforces, as it reads them: whole seconds, at least one."""
    seconds = {
        "PUSHTRAIN_LIMIT_ENVIRONMENT_S": limits.environment_s,
        "PUSHTRAIN_LIMIT_FIRST_STEP_S": limits.first_step_s,
        "PUSHTRAIN_LIMIT_STEP_GAP_S": limits.step_gap_s,
        "PUSHTRAIN_LIMIT_UPLOAD_S": limits.upload_s,
    }
    return {name: str(max(1, round(value))) for name, value in seconds.items()}


def phase(mine: Sequence[Event], created_s: float, limits: Limits) -> Phase:
    """The phase of an attempt whose pod was created at `created_s`, by the events of that attempt."""
    said = next((event for event in reversed(mine) if event.state in POD_STATES), None)
    if said is None:
        return Phase(
            reason="BootTimeout",
            limit_s=limits.boot_s,
            since_s=created_s,
            awaited="first word from the pod",
            knob="PUSHTRAIN_BOOT_LIMIT_S",
        )
    if said.state == "booting":
        reason, limit_s, awaited = "EnvironmentTimeout", limits.environment_s, "installed environment"
        knob = "PUSHTRAIN_LIMIT_ENVIRONMENT_S"
    elif said.state in ("environment", "preparing"):
        reason, limit_s, awaited = "FirstStepTimeout", limits.first_step_s, "first step"
        knob = "limits.first_step_minutes"
    elif said.state == "publishing":
        reason, limit_s, awaited = "UploadTimeout", limits.upload_s, "end of the upload"
        knob = "PUSHTRAIN_LIMIT_UPLOAD_S"
    else:
        # `training` is said before the first step of all, which has the longer limit.
        reason, limit_s, awaited = "StepGap", max(limits.step_gap_s, limits.first_step_s), "next step"
        knob = "limits.step_gap_minutes"
    return Phase(reason=reason, limit_s=limit_s, since_s=said.epoch_s, awaited=awaited, knob=knob)


def vain_restarts(mine: Sequence[Event]) -> int:
    """Containers of the attempt that started since it last began from a later checkpoint than before, but the first.

    RunPod restarts a container that ends, for ever, under status RUNNING: this is how that looks from the ledger.
    """
    count, best = 0, -1
    for event in mine:
        if event.state == "booting":
            count += 1
        elif event.state == "training":
            said = event.data.get("resumed_from_step")
            step = int(said) if isinstance(said, int | float) else 0
            if step > best:
                best, count = step, 1
    return max(0, count - 1)

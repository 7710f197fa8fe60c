"""How an attempt ended, from what the trainer left behind. Pure."""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pushtrain.pod.context import EXIT_PREEMPTED

TAIL_LINES = 20

# Limits of the watchdog, by its word for them: reason and message. Which of them are worth another attempt is for the
# control plane to say (`pushtrain.lifecycle`): the pod knows neither how many there were nor what they cost.
_LIMITS = {
    "Deadline": ("DeadlineReached", "the time of this run is used up: raise budget.max_hours or max_usd"),
    "EnvironmentTimeout": (
        "EnvironmentTimeout",
        "the trainer's environment was not installed in time (PUSHTRAIN_LIMIT_ENVIRONMENT_S)",
    ),
    "FirstStepTimeout": (
        "FirstStepTimeout",
        "model and data were not ready for a first step in time: the log tells what took so long; "
        "limits.first_step_minutes gives it more",
    ),
    "StepGap": (
        "StepGap",
        "no step for longer than limits.step_gap_minutes: most often a hang, since the trainer lives",
    ),
    "UploadTimeout": ("UploadTimeout", "the upload was not over in time (PUSHTRAIN_LIMIT_UPLOAD_S)"),
    "Stall": (
        "Stalled",
        "nothing has moved for too long: no step, no log line, no byte (of a command: command.silence_minutes)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`state` is finished, failed or preempted; `files` go into the ledger; `exit_code` is the agent's."""

    state: str
    exit_code: int
    reason: str = ""
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Remains:
    """`exit_code` is the trainer's (-N: signal N), None when it never ran. `stop_reason` is the watchdog's word for
    the SIGTERM it sent; `stopped` that a SIGTERM came at all. Files as they stand, None when absent."""

    exit_code: int | None
    result: bytes | None = None
    failure: bytes | None = None
    stopped: bool = False
    stop_reason: str = ""
    tail: Sequence[str] = ()


def decide(remains: Remains) -> Outcome:
    """The files of the trainer first, then why it was stopped, then how its process ended."""
    data = {"exit_code": remains.exit_code}
    if remains.result is not None:
        result = _object(remains.result)
        if result is None:
            return _failed("ResultInvalid", "result.json is not a JSON object", remains)
        why = {key: str(result.get(key) or "") for key in ("reason", "message")}  # of a session: why it ended
        return Outcome(state="finished", exit_code=0, data=data, files={"result.json": remains.result}, **why)
    if remains.stop_reason in _LIMITS:
        return _failed(*_LIMITS[remains.stop_reason], remains)
    if remains.failure is not None:
        failure = _object(remains.failure) or {"message": remains.failure.decode(errors="replace")[:500]}
        return _failed(str(failure.get("reason") or "Failed"), str(failure.get("message") or ""), remains)
    if remains.exit_code == EXIT_PREEMPTED or remains.stopped:
        message = "stopped from outside; the next attempt resumes from the last checkpoint"
        return Outcome(state="preempted", exit_code=EXIT_PREEMPTED, reason="Preempted", message=message, data=data)
    if remains.exit_code == 0:
        return _failed("ResultMissing", "the trainer ended without result.json", remains)
    return _failed("TrainerKilled", _how_it_died(remains.exit_code), remains)


def _failed(reason: str, message: str, remains: Remains) -> Outcome:
    data = {"exit_code": remains.exit_code, "log_tail": list(remains.tail[-TAIL_LINES:])}
    code = remains.exit_code if remains.exit_code in (1, 2) else 1
    return Outcome(state="failed", exit_code=code, reason=reason, message=message, data=data)


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is None:
        return "the trainer never ran"
    if exit_code >= 0:
        return f"the trainer ended with exit code {exit_code} and left no failure.json; its last words are in log_tail"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ": most often the container ran out of memory" if name == "SIGKILL" else ""
    return f"the trainer was killed by {name}{hint}"


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

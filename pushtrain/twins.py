"""Of all pods of a run one lives: twins of its attempt and pods of attempts before it are ended.

A pod is known by its name. Of two reconciles that create at once, each looks again after its create, and both leave the
same one.
"""

from collections.abc import Sequence

from pushtrain.cloud import Live, Pod
from pushtrain.control import Control
from pushtrain.errors import CloudUnavailable
from pushtrain.rented import note, note_head_start
from pushtrain.run import Run

# How long an earlier attempt's pod may stay listed after it was terminated before the next attempt waits for a tick.
GONE_WITHIN_S = 30.0


def make_way(control: Control, run: Run, attempt: int, live: Live) -> None:
    """Terminate what is still listed of earlier attempts, and wait until it is gone: two pods never share a volume.

    Raises CloudUnavailable when one stays, or when a later attempt has a pod: then this reconcile is behind.
    """
    others = [(pod, attempt_of(run, pod)) for pod in live.pods]
    if any(number > attempt for _, number in others):
        raise CloudUnavailable(
            f"{run.id}: a later attempt has a pod already", hint="another reconcile is ahead: the next tick reads on"
        )
    earlier = [pod for pod, number in others if 0 < number < attempt]
    for pod in earlier:
        control.cloud.terminate(pod.id)
    give_up_s = control.clock() + GONE_WITHIN_S
    for pod in earlier:
        while control.cloud.read_pod(pod.id) is not None:
            if control.clock() > give_up_s:
                raise CloudUnavailable(
                    f"{run.id}: pod {pod.id} ({pod.name}) was terminated and is still there",
                    hint="the next attempt starts when it is gone",
                )
            control.sleep(1.0)


def keep_one(control: Control, run: Run, attempt: int, pods: Sequence[Pod]) -> Pod | None:
    """The pod that is the attempt's, of everything listed of the run: the oldest of that name. Twins are terminated.

    None when none is listed, or when a later attempt's pod is: then those of this attempt are terminated, too.
    """
    mine = [pod for pod in pods if attempt_of(run, pod) == attempt and pod.is_alive]
    behind = any(attempt_of(run, pod) > attempt for pod in pods)
    oldest = None if behind else min(mine, key=lambda pod: pod.age_key, default=None)
    twins = [pod for pod in mine if pod is not oldest]
    for pod in twins:
        control.say(f"{run.id}: pod {pod.id} is one too many: terminated")
        end_unnamed(control, run, pod)
    if twins and oldest is not None:
        note_head_start(control, run.id, oldest)
    return oldest


def end_unnamed(control: Control, run: Run, pod: Pod) -> None:
    """Terminate a pod that no event names: it was billed, too."""
    note(control, run.id, pods=[pod])
    control.cloud.terminate(pod.id)


def end_one(control: Control, run: Run, pod_id: str) -> None:
    """Terminate a pod that no event names and that may be in no list yet."""
    pod = control.cloud.read_pod(pod_id)
    if pod is not None:
        end_unnamed(control, run, pod)
    else:
        control.cloud.terminate(pod_id)


def one_pod(control: Control, run: Run, attempt: int, live: Live) -> list[Pod]:
    """The run's living pods, which is one at most when this returns: twins, and pods of attempts that are over, are
    terminated."""
    kept = keep_one(control, run, attempt, live.pods)
    for pod in live.pods:
        if kept is not None and 0 < attempt_of(run, pod) < attempt:
            control.say(f"{run.id}: pod {pod.id} of an earlier attempt is still there: terminated")
            control.cloud.terminate(pod.id)
    return [kept] if kept else []


def attempt_of(run: Run, pod: Pod) -> int:
    """The attempt a listed pod belongs to, by its name; 0 for a pod that is not the run's."""
    head, _, number = pod.name.rpartition("-a")
    return int(number) if head == run.resource_prefix and number.isdigit() else 0

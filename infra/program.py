"""The Pulumi program of one run, as a plain function: a network volume, and while an attempt is on, a pod.

A pod of the community tier has a disk of its own instead, and the stack then has no volume.
"""

import os
import re
from collections.abc import Mapping

import pulumi

from infra.plan import StackPlan
from infra.plugin import PluginProgram, chosen
from infra.provider import NetworkVolume, Pod
from pushtrain.capabilities import DEFAULT_CLOUD
from pushtrain.engine import Program
from pushtrain.errors import EngineError

PROJECT = "pushtrain"
# What Pulumi takes as a stack name; also safe as a file name.
_STACK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def program(plan: StackPlan, environ: Mapping[str, str] = os.environ) -> Program:
    """The program that declares `plan`; makes no cloud call itself.

    Exports `run_id`; with a volume `volume_id` and `volume_data_center`; with a pod `pod_id`, `pod_name`,
    `usd_per_hour` and `data_center` (where the pod really is). PUSHTRAIN_RUNPOD_PROVIDER in `environ` says whose
    resources it declares: ours, or those of RunPod's own plugin. Raises EngineError for a name that is neither.
    """
    if chosen(environ):
        if plan.cloud != DEFAULT_CLOUD:
            raise EngineError(
                f"RunPod's plugin makes no pods at {plan.cloud}", hint="PUSHTRAIN_RUNPOD_PROVIDER=pushtrain, or unset"
            )
        return PluginProgram(plan=plan, environ=environ)

    def declare() -> None:
        pulumi.export("run_id", plan.run_id)
        volume = None if plan.volume is None else NetworkVolume("volume", plan.cloud, plan.volume)
        if volume is not None:
            pulumi.export("volume_id", volume.id)
            pulumi.export("volume_data_center", volume.data_center)
        if plan.pod is None:
            return
        # Two pods at once would be billed twice, so the old attempt's goes first.
        options = pulumi.ResourceOptions(delete_before_replace=True, depends_on=[volume] if volume else None)
        pod = Pod("pod", plan.cloud, plan.pod, volume.id if volume else plan.pod.volume_id, options)
        pulumi.export("pod_id", pod.id)
        pulumi.export("pod_name", pod.name)
        pulumi.export("usd_per_hour", pod.usd_per_hour)
        pulumi.export("data_center", pod.placed_in)

    return declare


def checked_stack_name(stack: str) -> str:
    """`stack` itself; raises EngineError when it could not be a Pulumi stack and a file name."""
    if not _STACK_NAME.fullmatch(stack):
        raise EngineError(
            f"{stack!r} cannot be a stack name",
            hint="letters, digits, '-', '_' and '.', at most 100, as Run.stack makes it",
        )
    return stack

"""From a run and a candidate to the Pulumi program of one attempt: what exactly is asked of the cloud."""

import json
from collections.abc import Mapping, Sequence

from infra.plan import StackPlan
from infra.program import program
from infra.start import cloud_env, pod_env, start_args
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import PodRequest, VolumeRequest
from pushtrain.control import Launch
from pushtrain.engine import Program
from pushtrain.errors import SpecError
from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.limits import limits_of
from pushtrain.limits import pod_env as limits_env
from pushtrain.placement import Candidate, hourly_usd
from pushtrain.run import Run
from pushtrain.settings import Settings
from pushtrain.spec import CommandSpec, JobSpec, SessionSpec, TrainingSpec
from pushtrain.spec.job import CHECKPOINT_KEYS

# The cloud client reads their values from its own environment at the moment of the create; Pulumi sees only the names
# (of RunPod's own plugin, encrypted values).
LEDGER_TOKEN = "PUSHTRAIN_LEDGER_TOKEN"


def make_launch(settings: Settings, environ: Mapping[str, str]) -> Launch:
    """The function reconcile hands to the engine. Makes no cloud call."""

    def launch(
        run: Run,
        spec: JobSpec,
        candidate: Candidate,
        *,
        attempt: int,
        deadline_epoch_s: float,
        kept_id: str | None = None,
    ) -> Program:
        _check_secrets(spec, environ)
        spec, cloud = _placed(spec, candidate)
        env = pod_env(
            run,
            attempt=attempt,
            spec_path=f"jobs/{spec.name}.yaml",
            source_url=settings.source_url,
            deadline_epoch_s=deadline_epoch_s,
            stall_s=settings.stall_limit_s if spec.silence_s is None else spec.silence_s,
            environ=environ,
        )
        env |= cloud_env(cloud, environ)
        env |= {"PUSHTRAIN_TASK": spec.task, "PUSHTRAIN_USD_PER_HOUR": f"{hourly_usd(candidate, spec):.4f}"}
        env |= {"PUSHTRAIN_EXTRAS": ",".join(spec.extras)} if spec.extras else {}
        env |= {"PUSHTRAIN_PORTS": ",".join(spec.compute.ports)} if spec.compute.ports else {}
        env |= {"PUSHTRAIN_SESSION": session_env(spec)} if isinstance(spec, SessionSpec) else {}
        env |= {"PUSHTRAIN_VOLUME_SHARED": "1"} if spec.compute.volume.keep else {}
        env |= {"PUSHTRAIN_SSH": "1"} if _has_ssh(spec) else {}
        env |= limits_env(limits_of(spec.watched, settings))
        return program(stack_plan(run, spec, candidate, attempt=attempt, env=env, kept_id=kept_id), environ)

    return launch


def session_env(spec: SessionSpec) -> str:
    """Its settings as JSON for the pod, which looks after a session before anything that reads YAML is installed."""
    session = spec.session
    return json.dumps(
        {
            "idle_s": session.idle_minutes * 60,
            "autosave_s": session.autosave_minutes * 60,
            "branch": session.branch or "",
            "start": session.start or [],
            "tensorboard": session.tensorboard,
            "secrets": list(session.secrets),
        },
        sort_keys=True,
    )


def _check_secrets(spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Raises SpecError where a job names a secret that is not set here: without it the pod would be billed in vain."""
    named: Sequence[str] = ()
    if isinstance(spec, CommandSpec):
        named = spec.command.secrets
    elif isinstance(spec, SessionSpec):
        named = spec.session.secrets
    elif isinstance(spec, TrainingSpec) and spec.publish.checkpoints:
        named = [name for name in CHECKPOINT_KEYS if name.endswith(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))]
    if missing := [name for name in named if not environ.get(name)]:
        hint = f"set {missing[0]} where pushtrain runs (in an Action: a secret of the environment gpu)"
        key = "publish.checkpoints" if isinstance(spec, TrainingSpec) else f"{spec.task}.secrets"
        raise SpecError(f"{key}: {' and '.join(missing)} is not set", hint=hint)


def stack_plan(
    run: Run,
    spec: JobSpec,
    candidate: Candidate,
    *,
    attempt: int,
    env: Mapping[str, str],
    kept_id: str | None = None,
) -> StackPlan:
    """A pod named after run and attempt, and the run's network volume; a community pod has its own disk instead.

    A kept volume is not part of the stack: what the stack does not know, no destroy of it can delete. Before it is made
    (`kept_id` None) its name stands for it."""
    spec, cloud = _placed(spec, candidate)
    size_gb, volume, keeps = spec.compute.volume.size_gb, None, spec.compute.volume.keep
    if candidate.data_center is not None and not keeps:
        volume = VolumeRequest(
            name=run.volume_name, size_gb=size_gb, data_center=candidate.data_center, kind=candidate.volume_kind
        )
    # Of machines with prices of their own none is taken that is dearer than what its deadline was counted with.
    most = round(candidate.usd_per_hour + 1e-6, 6) if CLOUDS[cloud].has_own_prices else None
    pod = PodRequest(
        name=run.pod_name(attempt),
        image=spec.compute.asked_image,
        template=spec.compute.template,
        gpu=candidate.gpu,
        gpu_count=spec.compute.count,
        tier=candidate.tier,
        disk_gb=spec.compute.disk_gb,
        args=start_args(cloud),
        data_center=candidate.data_center,
        volume_id=(kept_id or spec.compute.volume.name) if keeps else None,
        persistent_gb=None if volume or keeps else size_gb,
        env=env,
        ports=_ports(spec),
        ssh=_has_ssh(spec),
        secret_env=(*spec.secrets, LEDGER_TOKEN),
        min_cuda_version=MIN_CUDA_VERSION,
        max_usd_per_hour=None if candidate.is_spot else most,
        bid_usd_per_hour=candidate.usd_per_hour if candidate.is_spot else None,
    )
    return StackPlan(run_id=run.id, cloud=cloud, volume=volume, pod=pod)


def _placed(spec: JobSpec, candidate: Candidate) -> tuple[JobSpec, str]:
    """The spec at the candidate's cloud, one of those that it allows; of one that names a cloud that one."""
    allowed = spec.compute.clouds
    cloud = candidate.cloud if len(allowed) > 1 else allowed[0]
    return spec.model_copy(update={"compute": spec.compute.at(cloud)}), cloud


def _ports(spec: JobSpec) -> tuple[str, ...]:
    """What the spec opens, and the one a person logs in by."""
    return tuple(dict.fromkeys([*spec.compute.ports, *(["22/tcp"] if _has_ssh(spec) else [])]))


def _has_ssh(spec: JobSpec) -> bool:
    """Asked for, and to be had: a cloud that opens no TCP port lets nobody in."""
    return spec.compute.ssh and all(CLOUDS[name].has_tcp_ports for name in spec.compute.clouds)

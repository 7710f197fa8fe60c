"""The ground the engines are tested on: a simulated RunPod account, and one run's stack in it."""

from dataclasses import dataclass, replace
from typing import Any

from infra import clouds
from infra.plan import StackPlan
from infra.program import program
from infra.simulator.server import RunningSimulator
from pushtrain.cloud import Cloud, Live, PodRequest, VolumeRequest
from pushtrain.engine import Program

HF_CANARY = "canary-secret-hf-token"
LEDGER_CANARY = "canary-secret-ledger-token"
# What choosing RunPod's own plugin takes, besides its being installed.
PLUGIN = {"PUSHTRAIN_RUNPOD_PROVIDER": "pulumi-runpod", "PULUMI_CONFIG_PASSPHRASE": "canary-secret-passphrase"}


@dataclass(frozen=True, kw_only=True)
class World:
    """One run. `environ` is all that the engines, the CLI and its provider get to see."""

    simulator: RunningSimulator
    environ: dict[str, str]
    prefix: str

    @property
    def stack(self) -> str:
        return f"run-{self.prefix}"

    @property
    def cloud(self) -> Cloud:
        return clouds.connect("runpod", self.environ)

    def plan(self, attempt: int = 1, **pod: Any) -> StackPlan:
        return stack_plan(self.prefix, attempt, **pod)

    def program(self, plan: StackPlan | None = None) -> Program:
        """The program of `plan` over the provider that `environ` chooses."""
        return program(plan or self.plan(), self.environ)

    def live(self) -> Live:
        return self.cloud.find(self.prefix)

    def ever(self) -> list[dict[str, Any]]:
        """Every pod and volume of the run that the account ever had, with what became of it."""
        state = self.simulator.state()
        mine = [it for it in [*state["pods"], *state["volumes"]] if it["name"].startswith(self.prefix)]
        return [{name: value for name, value in it.items() if name != "billed_usd"} for it in mine]

    def clear_faults(self) -> None:
        self.simulator.request("DELETE", "/_simulator/faults").raise_for_status()
        # Nothing here looks at what a pod does, so no pod gets a process.
        self.simulator.fault("never_starts", times=None)


def stack_plan(prefix: str, attempt: int = 1, **pod: Any) -> StackPlan:
    """A volume and a pod named after `prefix`; `pod` overrides fields of its request."""
    request = PodRequest(
        name=f"{prefix}-a{attempt}",
        image="pushtrain/test:1",
        gpu="NVIDIA A40",
        gpu_count=1,
        tier="SECURE",
        disk_gb=20,
        args="sleep 60",
        env={"PUSHTRAIN_RUN_ID": prefix},
        ports=("8888/http", "22/tcp"),
        secret_env=("HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "NOT_SET_ANYWHERE"),
    )
    volume = VolumeRequest(name=f"{prefix}-v", size_gb=20, data_center="EU-SE-1")
    return StackPlan(run_id=prefix, cloud="runpod", volume=volume, pod=replace(request, **pod))

"""Templates of the simulated account: what a pod can be made from, beside its own request. Pure.

RunPod resolves one once, at the create: what the request says wins, the environment is merged name by name, and either
CUDA field of the request replaces the template's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """`public` ones are read by everybody and listed nowhere but in the catalogue."""

    id: str
    name: str
    image: str
    args: str = ""
    disk_gb: int = 50
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    cuda_versions: tuple[str, ...] = ()
    serverless: bool = False
    public: bool = False

    def document(self) -> dict[str, Any]:
        """As v2 shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "image": self.image,
            "args": self.args,
            "disk": self.disk_gb,
            "mounts": {},
            "ports": list(self.ports),
            "env": dict(self.env),
            "registry": None,
            "serverless": self.serverless,
            "public": self.public,
            "category": "NVIDIA",
            "startSsh": True,
            "startJupyter": False,
            "allowedCudaVersions": list(self.cuda_versions),
        }

    def under(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a create as it is once the template stands under it; `body` holds only what was said."""
        gpu = dict(body.get("gpu") or {})
        if self.cuda_versions and not {"allowedCudaVersions", "minCudaVersion"} & gpu.keys():
            gpu["allowedCudaVersions"] = list(self.cuda_versions)
        own = {"image": self.image, "args": self.args, "disk": self.disk_gb, "ports": list(self.ports)}
        said = {name: value for name, value in body.items() if name != "templateId"}
        env = {**self.env, **body.get("env", {})}
        return {**own, **said, "env": env, **({"gpu": gpu} if gpu else {})}


# One of everybody's, and one that no pod can be made from; ids and settings are made up.
PUBLIC = {
    template.id: template
    for template in (
        Template(
            id="simtorch280",
            name="PyTorch 2.8 of the simulator",
            image="runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
            args="/start.sh",
            disk_gb=20,
            env={"JUPYTER_ENABLE_LAB": "yes"},
            ports=("8888/http", "22/tcp"),
            public=True,
        ),
        Template(id="simworker1", name="A serverless worker", image="runpod/worker:1", serverless=True, public=True),
    )
}

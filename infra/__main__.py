"""The stack a run would get, seen by hand: `PUSHTRAIN_SPEC=jobs/NAME.yaml uv run --extra infra pulumi preview`.

Makes no cloud call: the first GPU and data center of the spec stand for whatever would have capacity. Preview only,
because a pod made by hand would be in no ledger, and nobody would take it away.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pulumi
from git import Repo

from infra.launch import make_launch
from pushtrain.capabilities import CLOUDS
from pushtrain.engine import Program
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.placement import Candidate
from pushtrain.run import Run
from pushtrain.settings import load_settings
from pushtrain.spec import file as spec_file


def sketch(environ: Mapping[str, str], root: Path, now_s: float) -> Program:
    """The program of a first attempt at `PUSHTRAIN_SPEC` (relative to `root`) at HEAD. Raises SpecError."""
    written = environ.get("PUSHTRAIN_SPEC")
    if not written:
        raise SpecError(
            "PUSHTRAIN_SPEC is not set", hint="PUSHTRAIN_SPEC=jobs/NAME.yaml uv run --extra infra pulumi preview"
        )
    spec = spec_file.load(root / written, root)
    settings = load_settings(root, environ)
    run = Run(
        job=spec.name,
        commit=Repo(settings.root).head.commit.hexsha,
        spec_digest=spec.digest,
        ledger_url=settings.ledger_url,
    )
    tier, cloud = spec.compute.tiers[0], spec.compute.clouds[0]
    first = Candidate(
        cloud=cloud,
        gpu=spec.compute.gpus[0],
        data_center=next(iter(spec.compute.data_centers), "ANY") if CLOUDS[cloud].keeps(tier) else None,
        tier=tier,
        usd_per_hour=0.0,
        gpu_memory_gb=0,
        stock="NONE",
    )
    deadline_s = now_s + spec.budget.max_hours * 3600
    return make_launch(settings, environ)(run, spec, first, attempt=1, deadline_epoch_s=deadline_s)


def main() -> None:
    if not pulumi.runtime.is_dry_run():
        raise pulumi.RunError("preview only: 'pushtrain run JOB' trains, and takes away what it made")
    try:
        sketch(os.environ, Path(pulumi.runtime.get_root_directory()), time.time())()
    except PushtrainError as error:
        raise pulumi.RunError(f"{error}" + (f" ({error.hint})" if error.hint else "")) from error


if __name__ == "__main__":
    main()

"""A ledger of many runs, written by one `git fast-import`, and the repository whose jobs/ asks for the active ones."""

import hashlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pushtrain.events import EventDraft, encode
from pushtrain.refs import CLAIMS, RUNS, claim_of
from pushtrain.run import Run
from pushtrain.spec.file import loads

SPEC = """\
version: 1
name: {name}
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute: {{gpus: [NVIDIA A40], volume: {{size_gb: 10}}}}
budget: {{max_hours: 8, max_usd: 9}}
publish: {{repo: demo/job}}
train: {{seed: {seed}}}
"""
ENV = {
    "PATH": os.environ["PATH"],
    "HOME": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "b@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
_ACTIVE = ("claimed", "provisioning", "provisioned", "booting", "environment", "preparing", "training")
_FINISHED = (*_ACTIVE, "evaluating", "publishing", "finished", "destroying", "closed")


def git(*args: str, cwd: Path | None = None, stdin: bytes | None = None) -> str:
    done = subprocess.run(["git", *args], cwd=cwd, env=ENV, input=stdin, capture_output=True, check=True, timeout=600)
    return done.stdout.decode().strip()


def make_source(folder: Path, jobs: int) -> tuple[Path, str]:
    """A work tree with `jobs` specs at HEAD; returns it and the commit. Job number n has seed n."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for number in range(jobs):
        (folder / "jobs" / f"job{number}.yaml").write_text(SPEC.format(name=f"job{number}", seed=number))
    git("init", "-q", "--initial-branch=main", str(folder))
    git("add", ".", cwd=folder)
    git("commit", "-qm", "jobs", cwd=folder)
    return folder, git("rev-parse", "HEAD", cwd=folder)


def runs_of(commit: str, ledger_url: str, first_seed: int, count: int) -> Iterator[tuple[Run, str]]:
    """Runs and the text of their specs; two of one job never share a seed."""
    for seed in range(first_seed, first_seed + count):
        text = SPEC.format(name=f"job{seed}", seed=seed)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if seed < 1000:  # of these somebody may ask for the real digest
            digest = loads(text.encode(), f"jobs/job{seed}.yaml").digest
        yield Run(job=f"job{seed}", commit=commit, spec_digest=digest, ledger_url=ledger_url), text


def write_runs(
    remote: Path,
    runs: Iterator[tuple[Run, str]],
    *,
    closed: bool,
    pod: Callable[[Run], tuple[str, str]],
    log_bytes: int,
) -> None:
    """Branch and claim of each run, one commit an event, with a log and a metrics chunk beside those of the pod.

    `pod` gives a run's pod and volume id. A closed run's claim is at its tip.
    """
    now_s = time.time()
    command = ["git", "-C", str(remote), "fast-import", "--quiet"]
    with subprocess.Popen(command, env=ENV, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number, (run, text) in enumerate(runs):
            chunk = os.urandom(log_bytes // 2).hex().encode()
            for piece in _commits(run, text, closed, pod(run), chunk, now_s - 600 + number % 60):
                process.stdin.write(piece)
        process.stdin.close()
        assert process.wait(600) == 0


def _commits(run: Run, text: str, closed: bool, ids: tuple[str, str], chunk: bytes, began_s: float) -> Iterator[bytes]:
    ref, claim = RUNS + run.id, CLAIMS + claim_of(run.id)
    record = {
        "job": run.job,
        "spec_path": f"jobs/{run.job}.yaml",
        "spec_digest": run.spec_digest,
        "commit": run.commit,
        "trigger": "push",
        "resource_prefix": run.resource_prefix,
        "candidates": [{"gpu": "NVIDIA A40", "data_center": f"EU-{n}", "usd_per_hour": 0.5} for n in range(8)],
        "budget": {"max_usd": 9, "max_hours": 8},
        "limits": {},
    }
    yield _commit(ref, None, {"spec.yaml": text.encode(), "run.json": json.dumps(record).encode()}, began_s)
    yield f"reset {claim}\nfrom {ref}\n\n".encode()
    prev = None
    for seq, state in enumerate(_FINISHED if closed else _ACTIVE, 1):
        control = state in ("claimed", "provisioning", "provisioned", "destroying", "closed")
        draft = EventDraft(
            state=state,
            writer="control" if control else "pod",
            attempt=1,
            message="what a person reads of it, in a line",
            data=_data(state, ids, began_s),
        )
        name, raw = encode(draft, seq=seq, prev=prev, now_s=began_s + seq)
        prev, files = hashlib.sha256(raw).hexdigest(), {name: raw}
        if not control:
            files |= {f"logs/{seq:06d}.log": chunk, f"metrics/{seq:06d}.jsonl": b'{"step": 1, "loss": 0.5}\n' * 40}
        if state == "closed":
            receipt = {"run_id": run.id, "outcome": "succeeded", "billed_usd": 1.0, "billed_is_final": True}
            files["receipt.json"] = json.dumps(receipt).encode()
        yield _commit(ref, ref, files, began_s + seq)
    if closed:
        yield f"reset {claim}\nfrom {ref}\n\n".encode()


def _data(state: str, ids: tuple[str, str], began_s: float) -> dict[str, object]:
    rung = {"usd_per_hour": 0.5, "volume_usd_per_hour": 0.01, "deadline_epoch_s": began_s + 8 * 3600}
    if state == "provisioning":
        return {"rungs": [{"gpu": "NVIDIA A40", "data_center": f"EU-{n}", "tier": "SECURE", **rung} for n in range(8)]}
    if state == "provisioned":
        return {"pod_id": ids[0], "volume_id": ids[1], "gpu": "NVIDIA A40", "data_center": "EU-SE-1", **rung}
    return {"outcome": "succeeded"} if state in ("destroying", "closed") else {}


def _commit(ref: str, parent: str | None, files: dict[str, bytes], at_s: float) -> bytes:
    parts = [f"commit {ref}\ncommitter b <b@b> {int(at_s)} +0000\ndata 1\nx\n".encode()]
    if parent is None:
        parts.insert(0, f"reset {ref}\n\n".encode())
    for path, raw in files.items():
        parts.append(f"M 100644 inline {path}\ndata {len(raw)}\n".encode() + raw + b"\n")
    return b"".join([*parts, b"\n"])


def median_s(work: Callable[[], object], times: int = 5) -> float:
    """Median seconds of several calls."""
    taken = []
    for _ in range(times):
        began_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began_s)
    return statistics.median(taken)

"""The start command and the boot archive: infra/start.py."""

import ast
import base64
import gzip
import io
import os
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from pod_bench import POD_KEY, Api

from infra.launch import make_launch
from infra.plugin import PluginProgram
from infra.start import MAX_BOOT_BYTES, POD_PACE, boot_archive, boot_env, cloud_env, pod_env, start_args
from pushtrain.cloud import PodRequest
from pushtrain.errors import SpecError
from pushtrain.limits import Limits as RunLimits
from pushtrain.limits import pod_env as limits_env
from pushtrain.placement import Candidate
from pushtrain.pod.context import read_context
from pushtrain.pod.place import PLACES
from pushtrain.pod.watchdog import Limits as WatchdogLimits
from pushtrain.run import Run
from pushtrain.settings import Settings
from pushtrain.spec import job_spec

ROOT = Path(__file__).resolve().parent.parent
RUN = Run(job="fake", commit="a" * 40, spec_digest="b" * 64, ledger_url="https://user:canary-secret@host/o/ledger.git")


def some_env(**environ: str) -> dict[str, str]:
    return pod_env(
        RUN,
        attempt=2,
        spec_path="jobs/fake.yaml",
        source_url="https://canary-secret@host/o/r.git",
        deadline_epoch_s=1234567890.9,
        stall_s=600,
        environ=environ,
    )


def test_the_archive_is_the_same_bytes_every_time_and_at_every_place() -> None:
    code = "import hashlib, infra.start as s; print(hashlib.sha256(s.boot_env().encode()).hexdigest())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=cwd,
            env={"PYTHONPATH": str(ROOT), "TZ": zone, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for cwd, zone, seed in ((ROOT, "UTC", "1"), (ROOT.parent, "Asia/Tokyo", "2"))
    }
    assert len(seen) == 1
    assert boot_archive() == boot_archive()


def test_the_archive_fits_and_holds_what_its_modules_import() -> None:
    assert len(boot_env()) <= MAX_BOOT_BYTES
    archive = zipfile.ZipFile(io.BytesIO(gzip.decompress(base64.b64decode(boot_env()))))
    names = set(archive.namelist())
    for name in names:
        for node in ast.walk(ast.parse(archive.read(name))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pushtrain."):
                assert f"{(node.module or '').replace('.', '/')}.py" in names | {"pushtrain/pod.py"}, name


def test_the_archive_holds_the_modules_less_their_words_line_by_line() -> None:
    archive = zipfile.ZipFile(io.BytesIO(boot_archive()))
    for name in archive.namelist():
        if name == "__main__.py":
            continue
        whole, bare = (ROOT / name).read_text(), archive.read(name).decode()
        assert len(bare.splitlines()) == len(whole.splitlines())
        assert _without_words(ast.parse(bare)) == _without_words(ast.parse(whole)), name
        assert len(bare) < len(whole) or name == "pushtrain/pod/__init__.py"


def _without_words(tree: ast.Module) -> str:
    """The program with the line of every statement; what stands for a docstring counts as none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr):
            said = node.body[0].value
            if isinstance(said, ast.Constant) and (said.value is ... or isinstance(said.value, str)):
                node.body = node.body[1:]
    places = [(type(node).__name__, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return f"{ast.dump(tree)} {places}"


def test_an_image_whose_python_is_too_old_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "app").write_bytes(boot_archive())
    code = "import runpy, sys; sys.version_info = (3, 9); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "app")], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("the image's python3 is too old for pushtrain")


def test_everything_on_the_pod_is_standard_library_and_python_3_10() -> None:
    for path in (*(ROOT / "pushtrain" / "pod").glob("*.py"), ROOT / "pushtrain" / "ledger.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in sys.stdlib_module_names or top == "pushtrain", f"{path.name} imports {name}"
            assert not (isinstance(node, ast.ImportFrom) and node.module == "datetime" and _uses(node, "UTC")), (
                path.name
            )


def _uses(node: ast.ImportFrom, name: str) -> bool:
    return any(alias.name == name for alias in node.names)


def test_the_command_line_is_one_bash_argument_and_holds_no_value() -> None:
    bash, flag, script = shlex.split(start_args())
    assert (bash, flag) == ("bash", "-c")
    assert "'" not in script and "\n" not in script
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


def test_the_environment_is_the_documented_table_and_nothing_else() -> None:
    env = some_env(
        RUNPOD_API_BASE_URL="https://api.runpod.io/",
        HF_ENDPOINT="https://huggingface.co",
        RUNPOD_API_KEY="canary-secret",
    )
    assert env == {
        "PUSHTRAIN_RUN_ID": RUN.id,
        "PUSHTRAIN_ATTEMPT": "2",
        "PUSHTRAIN_COMMIT": "a" * 40,
        "PUSHTRAIN_SPEC_PATH": "jobs/fake.yaml",
        "PUSHTRAIN_SOURCE_URL": "https://host/o/r.git",
        "PUSHTRAIN_LEDGER_URL": "https://host/o/ledger.git",
        "PUSHTRAIN_DEADLINE_EPOCH_S": "1234567890",
        "PUSHTRAIN_STALL_S": "600",
        "PUSHTRAIN_BOOT": boot_env(),
        "HF_HUB_DISABLE_XET": "1",
    }
    documented = (ROOT / "docs" / "architecture.md").read_text()
    assert all(f"`{name}`" in documented for name in (*env, *POD_PACE))


def test_the_pods_pace_and_every_limit_reach_its_watchdog() -> None:
    given = {name: str(number) for number, name in enumerate(POD_PACE, 7)}
    env = some_env(**given)
    assert {name: env[name] for name in POD_PACE} == given
    asked = RunLimits(environment_s=101, first_step_s=102, step_gap_s=103, upload_s=104)
    context = read_context({**env, **limits_env(asked), "PUSHTRAIN_SOURCE_URL": "file:///r"})
    limits = WatchdogLimits.starting(wall_s=0, monotonic_s=0, context=context)
    assert list(limits.phase_s.values()) == [float(given["PUSHTRAIN_LIMIT_BOOT_S"]), 101, 102, 103, 104]
    assert (context.tick_s, context.grace_s, limits.stall_s) == (8, 9, 600)


def test_other_addresses_than_the_public_ones_travel_to_the_pod() -> None:
    env = some_env(RUNPOD_API_BASE_URL="http://127.0.0.1:9/", HF_ENDPOINT="http://127.0.0.1:8")
    assert (env["RUNPOD_API_BASE_URL"], env["HF_ENDPOINT"]) == ("http://127.0.0.1:9", "http://127.0.0.1:8")


@pytest.mark.parametrize("name", sorted(PLACES))
def test_an_address_with_the_path_that_a_pod_adds_itself_is_told_without_it(name: str) -> None:
    said = PLACES[name]
    for host, wanted in ((said.public_api, None), ("http://127.0.0.1:9", "http://127.0.0.1:9")):
        for url in (host, f"{host}/", f"{host}{said.api_path}", f"{host}{said.api_path}/"):
            environ = {said.base_url: url}
            env = some_env(**environ) if name == "runpod" else cloud_env(name, environ)
            assert env.get(said.base_url) == wanted, url


@pytest.mark.parametrize("python", ["missing", "broken"])
def test_a_pod_without_a_working_python_is_terminated_by_curl_and_its_first_process_stays(
    tmp_path: Path, python: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "base64", "gunzip", "gzip", "sh", "mktemp", "curl", "sleep"):
        (tools / name).symlink_to(next(Path(d, name) for d in ("/usr/bin", "/bin") if Path(d, name).exists()))
    if python == "broken":
        (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
        (tools / "python3").chmod(0o755)
    api = Api(statuses=lambda number: 500)
    env = {
        **some_env(RUNPOD_API_BASE_URL=api.url),
        "PATH": str(tools),
        "TMPDIR": str(tmp_path),
        "RUNPOD_POD_ID": "pod1",
        "RUNPOD_API_KEY": POD_KEY,
        "PUSHTRAIN_POD_TICK_S": "0.05",
    }
    first = subprocess.Popen(
        shlex.split(start_args()), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    seen: set[bytes] = set()
    try:
        give_up = time.monotonic() + 150
        while len(api.calls) < 6 and time.monotonic() < give_up:
            seen |= command_lines()
        assert first.poll() is None
    finally:
        os.killpg(first.pid, 9)
        output = first.communicate()[0]
        api.close()
    assert api.calls[:2] == [
        ("POST", "/v2/pods/pod1/action", '{"action":"terminate"}'),
        ("DELETE", "/v2/pods/pod1", ""),
    ]
    assert len(api.calls) >= 6
    assert all(header["authorization"] == f"Bearer {POD_KEY}" for header in api.headers)
    assert all(header["user-agent"].startswith("pushtrain-pod") for header in api.headers)
    assert any(line.startswith(b"curl") for line in seen)
    assert POD_KEY.encode() not in b"".join(seen) + output


def command_lines() -> set[bytes]:
    lines = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                lines.add((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return lines


def launched(command: dict[str, object], publish: dict[str, str] | None = None, **environ: str) -> PodRequest:
    """What a command's pod is asked for; with RunPod's own plugin the program still holds its plan."""
    document = {
        **{"version": 1, "name": "job", "task": "command", "command": {"run": ["true"], **command}},
        **{"compute": {"gpus": ["NVIDIA A40"], "ports": ["8888/http", "22/tcp"]}},
        **{"budget": {"max_hours": 2, "max_usd": 1}, **({"publish": publish} if publish else {})},
    }
    settings = Settings(root=ROOT, ledger_url="u", source_url="u", state_dir=ROOT, ledger_token=None)
    chosen = {"PUSHTRAIN_RUNPOD_PROVIDER": "pulumi-runpod", **environ}
    place = Candidate(
        gpu="NVIDIA A40", data_center="EU-SE-1", tier="SECURE", usd_per_hour=0.4, gpu_memory_gb=48, stock="HIGH"
    )
    program = make_launch(settings, chosen)(RUN, job_spec(document), place, attempt=1, deadline_epoch_s=1.0)
    assert isinstance(program, PluginProgram) and program.plan.pod is not None
    return program.plan.pod


def test_a_commands_pod_knows_its_task_its_ports_and_its_limits() -> None:
    pod = launched({"silence_minutes": 5})
    assert pod.ports == ("8888/http", "22/tcp") and pod.env["PUSHTRAIN_PORTS"] == "8888/http,22/tcp"
    assert (pod.env["PUSHTRAIN_TASK"], pod.env["PUSHTRAIN_STALL_S"]) == ("command", "300")
    assert pod.env["PUSHTRAIN_LIMIT_FIRST_STEP_S"] == pod.env["PUSHTRAIN_LIMIT_STEP_GAP_S"] == str(720 * 3600)


def test_a_commands_pod_has_the_secrets_it_needs_by_name_and_no_other() -> None:
    publish = {"repo": "org/name"}
    assert launched({}).secret_env == ("PUSHTRAIN_LEDGER_TOKEN",)
    assert launched({"artifacts": ["x"]}, publish).secret_env == ("HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN")
    pod = launched({"secrets": ["WANDB_API_KEY"]}, WANDB_API_KEY="canary-secret")
    assert pod.secret_env == ("WANDB_API_KEY", "PUSHTRAIN_LEDGER_TOKEN")
    assert "canary-secret" not in str(pod)


def test_nothing_is_rented_for_a_command_whose_secret_is_not_set() -> None:
    with pytest.raises(SpecError, match=r"command\.secrets: WANDB_API_KEY is not set") as caught:
        launched({"secrets": ["HF_TOKEN", "WANDB_API_KEY"]}, HF_TOKEN="canary-secret")
    assert "a secret of the environment gpu" in (caught.value.hint or "")

"""The checks over a repository: specs, their data files, each other. Real git, no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pushtrain.check import CheckReport, check
from pushtrain.errors import SpecError

SPEC = """\
version: 1
name: {name}
model: {{id: Qwen/Qwen3-8B}}
data: {{path: {path}}}
compute: {{gpus: [{gpus}]}}
budget: {{max_hours: 1, max_usd: 1}}
publish: {{repo: org/{name}}}
suspend: {suspend}
"""
ROW = json.dumps({"prompt": "2 + 2 =", "completion": " 4"}) + "\n"


@pytest.fixture(autouse=True)
def git_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A work tree with one good job, committed."""
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q")
    job(root, "support")
    data(root, ROW)
    commit(root)
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, timeout=150)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "a commit")


def job(root: Path, name: str, path: str = "data/x.jsonl", gpus: str = "NVIDIA A40", suspend: str = "false") -> Path:
    file = root / "jobs" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(SPEC.format(name=name, path=path, gpus=gpus, suspend=suspend))
    return file


def data(root: Path, text: str, name: str = "data/x.jsonl") -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)


def only_problem(root: Path, *paths: Path) -> SpecError:
    report = check(paths, root)
    assert len(report.problems) == 1, report
    return report.problems[0]


def test_a_committed_job_with_its_data_is_fine(root: Path) -> None:
    report = check([], root)
    assert [spec.name for spec in report.specs] == ["support"]
    assert (report.problems, report.warnings) == ((), ())


def test_paths_pick_the_jobs_that_are_checked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = root / "jobs" / "support.yaml", root / "jobs" / "other.yaml"
    assert check([good, Path("jobs/support.yaml")], root) == check([], root)
    job(root, "other", gpus="abacus")
    assert only_problem(root, other).where == "jobs/other.yaml:5:18"
    monkeypatch.chdir(root)
    assert len(check([], Path()).problems) == 1


def test_a_spec_outside_of_jobs_is_a_warning_for_nothing_ever_starts_it(root: Path) -> None:
    text = job(root, "other").read_text()
    for path in ("other.yaml", "jobs/more/other.yaml"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    (root / "jobs/more/settings.yaml").write_text("colour: blue\n")  # no spec: a command's own file, say
    said = check([], root).warnings
    assert said == ("jobs/more/other.yaml: is not in jobs/ itself: nothing ever starts it",)
    (root / "jobs/other.yaml").unlink()
    assert "other.yaml: is not in jobs/ itself: nothing ever starts it" in check([root / "other.yaml"], root).warnings


def test_what_a_cloud_puts_beside_a_budget_is_said_at_its_keys(root: Path) -> None:
    file = job(root, "support", gpus="NVIDIA L4], cloud: [vast, modal")
    file.write_text(file.read_text().replace("max_hours: 1", "max_hours: 25"))
    said = [line for line in check([file], root).warnings if line.startswith("jobs/support.yaml:6:")]
    assert [("traffic" in line, "after 24 h" in line) for line in said] == [(True, False), (False, True)]
    file.write_text(file.read_text().replace("max_hours: 25", "max_hours: 24").replace("[vast, modal]", "modal"))
    assert check([file], root).warnings == ()


def test_both_endings_of_yaml_are_checked(root: Path) -> None:
    job(root, "other", gpus="abacus").rename(root / "jobs" / "other.yml")
    assert only_problem(root).where == "jobs/other.yml:5:18"


def test_every_problem_of_every_file_is_reported(root: Path) -> None:
    job(root, "broken").write_text("name: [")
    job(root, "worse", gpus="abacus, [1]", path="../x.jsonl")
    report = check([], root)
    assert [str(problem.where).split(":")[0] for problem in report.problems] == [
        "jobs/broken.yaml",
        "jobs/worse.yaml",
        "jobs/worse.yaml",
    ]
    assert [spec.name for spec in report.specs] == ["support"]


def test_two_specs_of_one_name_are_refused(root: Path) -> None:
    (root / "more").mkdir()
    twin = root / "more" / "support.yaml"
    twin.write_text((root / "jobs" / "support.yaml").read_text())
    problem = only_problem(root, root / "jobs" / "support.yaml", twin)
    assert problem.where == "more/support.yaml:2:7"
    assert "the name 'support' is taken by jobs/support.yaml" in str(problem)


def test_a_name_that_is_not_the_file_name_is_refused(root: Path) -> None:
    job(root, "support").rename(root / "jobs" / "renamed.yaml")
    problem = only_problem(root)
    assert problem.where == "jobs/renamed.yaml:2:7"
    assert "name is 'support', but the file is renamed.yaml" in str(problem)


def test_an_unknown_gpu_is_reported_with_the_nearest_names(root: Path) -> None:
    job(root, "support", gpus="NVIDIA A40, RTX 4090")
    problem = only_problem(root)
    assert problem.where == "jobs/support.yaml:5:30"
    assert "compute.gpus[1]: 'RTX 4090' is not a GPU type" in str(problem)
    assert "did you mean 'NVIDIA GeForce RTX 4090'" in (problem.hint or "")
    assert "live list decides" in (problem.hint or "")


@pytest.mark.parametrize(
    ("gpu", "why"),
    [
        ("AMD Instinct MI300X OAM", "built for CUDA, this is an AMD GPU"),
        ("MI300X", "built for CUDA, this is an AMD GPU"),
        ("Tesla V100-SXM2-32GB", "compute capability 7.5"),
        ("v100", "compute capability 7.5"),
    ],
)
def test_a_gpu_that_no_run_can_use_is_refused_with_the_reason(root: Path, gpu: str, why: str) -> None:
    problem = only_problem(root, job(root, "support", gpus=gpu))
    assert problem.where == "jobs/support.yaml:5:18"
    assert f"{gpu!r} cannot be used" in str(problem) and why in str(problem)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ("tiers: [SECURE]", ""),
        ("tiers: [SECURE, COMMUNITY]", "the next attempt starts from step 0"),
        ("tiers: [SECURE, COMMUNITY]", "on COMMUNITY nothing survives a lost pod"),
        ("cloud: vast", "at Vast.ai nothing survives a lost pod"),
        ("cloud: any", "at Vast.ai nothing survives a lost pod"),
        (
            "cloud: [runpod, lambda], volume: {name: models, keep: true}",
            "another one at each of RunPod and Lambda Cloud",
        ),
        ("cloud: [runpod, vast], tiers: [COMMUNITY, SECURE]", "on COMMUNITY at RunPod and at Vast.ai nothing survives"),
        ("tiers: [COMMUNITY], data_centers: [EU-SE-1]", "in none of compute.data_centers"),
    ],
)
def test_what_community_machines_mean_is_said_before_anything_is_rented(root: Path, compute: str, said: str) -> None:
    path = job(root, "support")
    path.write_text(path.read_text().replace("compute: {", f"compute: {{{compute}, "))
    report = check([path], root)
    assert not report.problems
    warnings = [warning for warning in report.warnings if ":5:" in warning]
    assert len(warnings) == bool(said) and said in "".join(warnings)


def test_a_tier_named_twice_is_refused(root: Path) -> None:
    path = job(root, "support")
    path.write_text(path.read_text().replace("compute: {", "compute: {tiers: [SECURE, SECURE], "))
    assert "names a tier twice" in str(only_problem(root, path))


def test_the_clouds_own_list_of_gpus_replaces_the_known_one(root: Path) -> None:
    job(root, "support", gpus="NVIDIA Z900")
    assert not check([], root, gpu_names=["NVIDIA Z900"]).problems
    assert check([], root, gpu_names=["NVIDIA Z901"]).problems[0].hint == (
        "did you mean 'NVIDIA Z901'? pushtrain/gpus.py has the known ids; at run time the cloud's live list decides"
    )


def test_a_data_file_that_is_not_there_is_reported(root: Path) -> None:
    job(root, "support", path="data/gone.jsonl")
    problem = only_problem(root)
    assert problem.where == "jobs/support.yaml:4:14"
    assert "data.path 'data/gone.jsonl' is not there" in str(problem)


def test_a_data_path_that_leaves_the_repository_is_reported(root: Path) -> None:
    job(root, "support", path="../x.jsonl")
    assert "must be a relative path inside the repository" in str(only_problem(root))


@pytest.mark.parametrize("suspend", ["false", "true"])
def test_a_symlink_out_of_the_repository_is_reported(root: Path, suspend: str) -> None:
    secret = root.parent / "secret.jsonl"
    secret.write_text('{"password": "canary-secret-outside"}\n')
    (root / "data" / "link.jsonl").symlink_to(secret)
    job(root, "support", path="data/link.jsonl", suspend=suspend)
    commit(root)
    problem = only_problem(root)
    assert "leaves the repository" in str(problem)
    assert "canary" not in f"{problem}{problem.hint}"


def test_a_symlink_inside_the_repository_needs_its_target_in_the_commit(root: Path) -> None:
    (root / "data" / "link.jsonl").symlink_to("x.jsonl")
    job(root, "support", path="data/link.jsonl")
    commit(root)
    assert not check([], root).problems
    data(root, ROW, "data/new.jsonl")
    (root / "data" / "link.jsonl").unlink()
    (root / "data" / "link.jsonl").symlink_to("new.jsonl")
    git(root, "add", "data/link.jsonl")
    git(root, "commit", "-q", "-m", "the link alone")
    assert "is not in the commit" in str(only_problem(root))


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_data_file_that_is_not_committed_is_reported(root: Path, is_staged: bool) -> None:
    data(root, ROW, "data/new.jsonl")
    job(root, "support", path="data/new.jsonl")
    if is_staged:
        git(root, "add", "data/new.jsonl")
    problem = only_problem(root)
    assert problem.where == "jobs/support.yaml:4:14"
    assert "data.path 'data/new.jsonl' is not in the commit" in str(problem)
    assert "git add data/new.jsonl" in (problem.hint or "")


def test_a_repository_without_a_commit_has_no_data_file(root: Path) -> None:
    git(root, "update-ref", "-d", "HEAD")
    assert "there is no commit yet" in str(only_problem(root))


def test_a_data_file_changed_since_the_commit_is_a_warning(root: Path) -> None:
    data(root, ROW * 2)
    report = check([], root)
    assert not report.problems
    assert "has changes that are not in the commit" in report.warnings[0]


def test_a_folder_inside_a_work_tree_is_a_repository_too(root: Path) -> None:
    inner = root / "inner"
    inner.mkdir()
    job(inner, "support")
    data(inner, ROW)
    assert "is not in the commit" in str(only_problem(inner))
    commit(root)
    assert not check([], inner).problems


def test_without_git_only_the_files_are_checked(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    root.mkdir()
    job(root, "support")
    data(root, ROW)
    assert not check([], root).problems


def test_a_suspended_job_may_wait_for_its_data(root: Path) -> None:
    job(root, "support", path="data/gone.jsonl", suspend="true")
    report = check([], root)
    assert [spec.name for spec in report.specs] == ["support"]
    assert not report.problems
    assert report.warnings[0].startswith("jobs/support.yaml:4:14: data.path 'data/gone.jsonl' is not there")
    data(root, ROW, "data/gone.jsonl")
    assert "is not in the commit" in check([], root).warnings[0]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (ROW * 2 + '{"prompt": "x"}\n', "data/x.jsonl:3", "row 3: 'completion' is missing"),
        (ROW + '{"text": "x"}\n', "data/x.jsonl:2", "row 2: has the form text"),
        (ROW + "{broken\n", "data/x.jsonl:2", "row 2: is not JSON"),
        ("", "data/x.jsonl", "the dataset is empty"),
    ],
)
def test_a_wrong_row_is_reported_at_its_line(root: Path, text: str, where: str, message: str) -> None:
    data(root, text)
    commit(root)
    problem = only_problem(root)
    assert problem.where == where
    assert str(problem).startswith(f"{where}: {message}")


def test_a_dataset_of_the_hub_needs_no_file(root: Path) -> None:
    job(root, "support").write_text(
        (root / "jobs/support.yaml").read_text().replace("path: data/x.jsonl", "source: hf://datasets/a/b")
    )
    assert check([], root).specs[0].data.source == "hf://datasets/a/b"


def test_a_repository_without_jobs_is_a_warning(tmp_path: Path) -> None:
    assert check([], tmp_path) == CheckReport(specs=(), problems=(), warnings=("jobs/: there is no job spec",))


def test_a_report_is_json(root: Path) -> None:
    job(root, "broken", gpus="abacus")
    document = json.loads(json.dumps(check([], root).as_json()))
    assert [spec["name"] for spec in document["specs"]] == ["support"]
    assert document["problems"][0]["where"] == "jobs/broken.yaml:5:18"


def test_checking_imports_neither_torch_nor_pulumi_nor_the_hub() -> None:
    code = (
        "import sys, pushtrain.check\n"
        "heavy = {'torch', 'pulumi', 'huggingface_hub', 'datasets', 'transformers', 'git', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.strip() == "[]"


def test_rows_need_the_standard_library_only() -> None:
    code = "import sys, pushtrain.rows; print('pydantic' in sys.modules, 'ruamel.yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.split() == ["False", "False"]


COMMAND = """\
version: 1
name: speedrun
task: command
command: {{run: {run}, workdir: {workdir}}}
compute: {{gpus: [NVIDIA A40]}}
budget: {{max_hours: 1, max_usd: 1}}
"""


def command(root: Path, run: str, *, workdir: str = ".", more: str = "", script: str = "#!/bin/sh\n") -> CheckReport:
    """The check of a command; `tools/run.sh` is committed and executable."""
    (root / "tools").mkdir(exist_ok=True)
    (root / "tools" / "run.sh").write_text(script)
    (root / "tools" / "run.sh").chmod(0o755)
    (root / "jobs" / "speedrun.yaml").write_text(COMMAND.format(run=run, workdir=workdir) + more)
    commit(root)
    return check([root / "jobs" / "speedrun.yaml"], root)


@pytest.mark.parametrize("run", ["tools/run.sh", "[python3, -m, train]", "[bash, tools/run.sh]", "[/usr/bin/env]"])
def test_a_command_of_the_commit_is_fine(root: Path, run: str) -> None:
    report = command(root, run)
    assert (report.problems, report.warnings) == ((), ()) and report.specs


@pytest.mark.parametrize(
    ("run", "script", "message", "hint"),
    [
        ("tools/gone.sh", "#!/bin/sh\n", "'tools/gone.sh' is no file here", "a list runs any program"),
        ("tools", "#!/bin/sh\n", "'tools' is no file here", "a list"),
        ("tools/run.sh", "echo hi\n", "has no #! line", "run: [bash, tools/run.sh]"),
        ("tools/run.sh", "#!/bin/sh\r\n", "has Windows line ends", "autocrlf"),
    ],
)
def test_a_script_that_could_not_be_started_is_a_problem(
    root: Path, run: str, script: str, message: str, hint: str
) -> None:
    (problem,) = command(root, run, script=script).problems
    assert problem.where == "jobs/speedrun.yaml:4:16"
    assert message in str(problem) and hint in (problem.hint or "")


def test_a_script_has_to_be_executable_and_in_the_commit(root: Path) -> None:
    command(root, "tools/run.sh")
    (root / "tools" / "run.sh").chmod(0o644)
    (problem,) = check([root / "jobs" / "speedrun.yaml"], root).problems
    assert "is not executable" in str(problem)
    (root / "tools" / "new.sh").write_text("#!/bin/sh\n")
    (root / "tools" / "new.sh").chmod(0o755)
    (root / "jobs" / "speedrun.yaml").write_text(COMMAND.format(run="tools/new.sh", workdir="."))
    (problem,) = check([root / "jobs" / "speedrun.yaml"], root).problems
    assert "is not in the commit" in str(problem)


def test_what_may_be_meant_otherwise_is_said_of_a_command(root: Path) -> None:
    (problem,) = command(root, "[bash, x.sh]", workdir="gone").problems
    assert "command.workdir 'gone' is no folder here" in str(problem)
    said = "\n".join(command(root, "[bash, run/x.sh]", more="suspend: true\n").warnings)
    assert "'run/x.sh' is not in '.' here" in said
    (root / "jobs" / "speedrun.yaml").write_text(
        COMMAND.format(run="['true']", workdir=".")
        .replace("workdir: .", "artifacts: [out/*]")
        .replace("compute: {", "compute: {ports: [80/http], ")
    )
    said = "\n".join(check([root / "jobs" / "speedrun.yaml"], root).warnings)
    assert "lost with the run's volume" in said and "open to the whole internet" in said

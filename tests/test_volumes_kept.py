"""Kept volumes through the real reconcile, client, engine and ledger: made once, shared, and deleted by nobody."""

from pathlib import Path

import pytest
from climb_world import World

from infra.simulator.state import Pod, Volume
from pushtrain.cloud import Live
from pushtrain.errors import NoCapacity, SpecError
from pushtrain.placement import ladder
from pushtrain.pod.context import read_context
from pushtrain.pod.environment import trainer_env
from pushtrain.pod.shared import left_by_finished
from pushtrain.reconcile import tick
from pushtrain.refs import CLAIMS, RUNS, claim_of, look
from pushtrain.run import KEPT_PREFIX, is_kept, kept_prefix, kept_volume_name, ledger_prefix, resource_prefix
from pushtrain.spec import job_spec
from pushtrain.sweep import remove_orphans, survey
from pushtrain.teardown import remove

LEDGER = "https://git.example/me/runs.git"
NAME = kept_volume_name("models", LEDGER)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


def kept_job(world: World, name: str = "job", *, size_gb: int = 100, more: str = "", **budget: float) -> None:
    world.job(name, more=more, volume=f"name: models, keep: true, size_gb: {size_gb}", **budget)


def volumes(world: World) -> list[Volume]:
    return world.runpod.account.live_volumes()


def pods(world: World) -> list[Pod]:
    return world.runpod.account.live_pods()


def test_its_name_is_seen_by_nothing_that_looks_for_leftovers() -> None:
    run = "job-01234567-89abcdef"
    assert f"{KEPT_PREFIX}{ledger_prefix(LEDGER)[3:9]}-models" == NAME and is_kept(NAME)
    assert NAME.startswith(kept_prefix(LEDGER)) and not NAME.startswith(kept_prefix("https://git.example/other.git"))
    assert not NAME.startswith(ledger_prefix(LEDGER)) and not is_kept(resource_prefix(run, LEDGER) + "-v")
    # A mark is six hexadecimal digits: whatever the ledger's URL, it is never `keep-…`.
    assert not any(KEPT_PREFIX.startswith(ledger_prefix(f"https://git.example/{number}.git")) for number in range(50))
    for wrong in ("", "-models", "Models", "a" * 32, "models\n", "a/b"):
        with pytest.raises(ValueError):
            kept_volume_name(wrong, LEDGER)


def test_two_jobs_share_it_and_it_outlives_both_while_their_pods_and_budgets_go(world: World) -> None:
    kept_job(world)
    kept_job(world, "other")
    assert world.tick().failures == []
    (kept,) = volumes(world)
    assert (kept.name, kept.size_gb) == (NAME, 100)
    assert {pod.volume_id for pod in pods(world)} == {kept.id} and len(pods(world)) == 2
    assert {pod.env["PUSHTRAIN_VOLUME_SHARED"] for pod in pods(world)} == {"1"}
    (said,) = world.events("provisioned")
    assert (said.data["kept_volume_id"], said.data["volume_id"], said.data["volume_usd_per_hour"]) == (kept.id, "", 0.0)

    for name in ("job", "other"):
        world.say("finished", name=name)
    report = world.tick()
    assert report.closed == {world.record(name).run_id: "succeeded" for name in ("job", "other")}
    assert (volumes(world), pods(world)) == ([kept], [])
    receipt = world.record().receipt
    assert receipt is not None and (receipt["proof"]["pods"], receipt["proof"]["volumes"]) == (0, 0)
    assert receipt["volumes"] == [], "a run does not ask for the bill of what all share"
    (line,) = receipt["kept"]
    assert (line["id"], line["why"], line["usd_per_month"], line["in_this_cost"]) == (
        kept.id,
        "kept on purpose",
        7.0,
        False,
    )
    (closed,) = world.events("closed")
    assert f"volumes 0; ${receipt['cost_usd']:.4f}" in closed.message
    assert "kept on purpose" in closed.message and "$7.00 a month" in closed.message

    # Weeks and machines later, with no run at all: neither a tick nor a sweep by hand touches it.
    world.checkout.jobs.clear()
    world.sleep(30 * 86400)
    assert world.tick().swept == []
    control = world.control()
    found = survey(control)
    assert (found.orphans, found.owned, [it.id for it in found.kept]) == (Live(pods=(), volumes=()),) * 2 + ([kept.id],)
    assert remove_orphans(control, found.orphans, wait_s=1.0) == []
    assert volumes(world) == [kept]


@pytest.mark.parametrize("how", ["cancelled", "lost", "refused", "engine", "by hand"])
def test_however_a_run_ends_its_kept_volume_stays(world: World, how: str) -> None:
    kept_job(world)
    world.tick()
    (kept,) = volumes(world)
    control = world.control()
    if how == "cancelled":
        world.checkout.jobs.clear()
        world.tick()
    elif how == "lost":
        world.runpod.account.terminate_pod(pods(world)[0].id, world.runpod.now_s)
        world.tick()
        assert [pod.volume_id for pod in pods(world)] == [kept.id], "the next attempt goes on where the first was"
    elif how == "refused":
        world.runpod.account.terminate_pod(pods(world)[0].id, world.runpod.now_s)
        world.runpod.refuse = lambda path, body: (400, "no longer any instances available") if "pods" in path else None
        world.tick()
        assert world.record().last.state == "waiting"
    elif how == "engine":
        # The stack of whichever machine brought it up: destroyed by the engine alone, and by one without its state.
        for machine in sorted(world.folder.iterdir()):
            engine = type(control.engine)(machine / "stacks", lambda name: control.cloud)  # type: ignore[call-arg]
            engine.destroy(world.run().stack)
        assert pods(world) == []
    else:
        everything = control.cloud.find("")
        remove(control, everything)
        assert pods(world) == []
    assert volumes(world) == [kept]
    world.checkout.jobs.clear()
    world.tick()
    assert world.record().is_over and volumes(world) == [kept]


def test_a_runs_own_volume_beside_a_kept_one_goes_as_ever(world: World) -> None:
    kept_job(world)
    world.job("plain")
    world.tick()
    own = [volume for volume in volumes(world) if not is_kept(volume.name)]
    assert len(own) == 1 and len(volumes(world)) == 2
    world.say("finished", name="plain")
    world.tick()
    assert [volume.name for volume in volumes(world)] == [NAME]
    receipt = world.record("plain").receipt
    assert receipt is not None and "kept" not in receipt and receipt["volumes"] == [own[0].id]


def test_it_pins_the_pods_to_its_data_center_and_grows_but_never_shrinks(world: World) -> None:
    made = world.runpod.account.create_volume(NAME, 50, "CA-MTL-1", None, world.runpod.now_s)
    kept_job(world)
    world.tick()
    (pod,) = pods(world)
    assert (pod.data_center, pod.volume_id, made.size_gb) == ("CA-MTL-1", made.id, 100)
    (planned,) = world.events("provisioning")
    assert {rung["data_center"] for rung in planned.data["rungs"]} == {"CA-MTL-1"}
    kept_job(world, "small", size_gb=20)
    world.tick()
    assert [it.size_gb for it in volumes(world)] == [100]


def test_a_spec_that_allows_only_another_data_center_is_wrong_and_does_not_wait(world: World) -> None:
    world.runpod.account.create_volume(NAME, 50, "CA-MTL-1", None, world.runpod.now_s)
    kept_job(world, more="data_centers: [EU-SE-1]")
    failure = world.fails(SpecError)
    assert "CA-MTL-1" in str(failure) and "pushtrain volumes copy models EU-SE-1" in str(failure.hint)
    world.tick()
    assert world.record().is_over and pods(world) == [] and len(volumes(world)) == 1


def test_a_place_that_refuses_keeps_the_volume_and_the_run_waits_for_that_place(world: World) -> None:
    """Removing it could take what another run has put there meanwhile."""
    kept_job(world)
    world.runpod.refuse = lambda path, body: (400, "no longer any instances available") if "pods" in path else None
    world.tick()
    (kept,) = volumes(world)
    assert world.record().last.state == "waiting"
    (planned,) = world.events("provisioning")
    assert {rung["data_center"] for rung in planned.data["rungs"]} == {kept.data_center}
    spec = world.checkout.jobs["job"].spec
    with pytest.raises(NoCapacity) as nothing:
        ladder(spec, [], volume_data_center=kept.data_center)
    assert "pushtrain volumes copy models" in str(nothing.value.hint)
    world.runpod.refuse = lambda path, body: None
    world.sleep(120)
    world.tick()
    assert [pod.volume_id for pod in pods(world)] == [kept.id]


def test_one_that_somebody_deleted_under_a_run_is_made_anew_where_it_was(world: World) -> None:
    kept_job(world)
    world.tick()
    (first,) = volumes(world)
    world.runpod.account.terminate_pod(pods(world)[0].id, world.runpod.now_s)
    world.runpod.account.delete_volume(first.id, world.runpod.now_s)
    world.tick()
    (second,) = volumes(world)
    assert second.id != first.id and second.data_center == first.data_center
    assert [pod.volume_id for pod in pods(world)] == [second.id]


def test_another_ledgers_kept_volume_of_the_same_name_is_not_ours(world: World) -> None:
    other = kept_volume_name("models", "https://git.example/other/runs.git")
    theirs = world.runpod.account.create_volume(other, 50, "CA-MTL-1", None, world.runpod.now_s)
    kept_job(world)
    world.tick()
    (pod,) = pods(world)
    assert pod.volume_id != theirs.id and {it.name for it in volumes(world)} == {NAME, other}
    assert [it.name for it in survey(world.control()).kept] == [NAME]
    remove(world.control(), world.control().cloud.find(""))
    assert theirs in volumes(world)


def test_a_crash_right_after_the_create_is_adopted_with_its_kept_volume(world: World) -> None:
    kept_job(world)
    control = world.control()

    class Killed(Exception):
        pass

    real = control.ledger.append

    def append(run_id: str, **what):  # type: ignore[no-untyped-def]
        if any(event.state == "provisioned" for event in what.get("events") or ()):
            raise Killed
        return real(run_id, **what)

    control.ledger.append = append  # type: ignore[method-assign]
    with pytest.raises(Killed):
        tick(control)
    assert len(pods(world)) == 1
    world.tick()
    (said,) = world.events("provisioned")
    assert said.data["kept_volume_id"] == volumes(world)[0].id and len(pods(world)) == len(volumes(world)) == 1


def test_a_pod_clears_what_finished_runs_left_and_nothing_else(tmp_path: Path) -> None:
    over, waits_for_its_bill, active, own, unknown = (f"job{number}-01234567-89abcdef" for number in range(5))
    for name in (over, waits_for_its_bill, active, own, unknown):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    tips = {run_id: f"tip of {run_id}" for run_id in (over, waits_for_its_bill, active, own)}
    claims = {CLAIMS + claim_of(run_id): tip if run_id == over else "first" for run_id, tip in tips.items()}
    known = look({**{RUNS + run_id: tip for run_id, tip in tips.items()}, **claims})
    assert left_by_finished(tmp_path, known, own) == [tmp_path / over]
    assert left_by_finished(tmp_path, known, over) == [] and left_by_finished(tmp_path / "none", known, own) == []


@pytest.mark.parametrize("shared", [False, True])
def test_on_a_shared_volume_only_what_bears_two_writers_is_shared(tmp_path: Path, shared: bool) -> None:
    environ = {
        "PUSHTRAIN_RUN_ID": "job-01234567-89abcdef",
        "PUSHTRAIN_ATTEMPT": "1",
        "PUSHTRAIN_COMMIT": "0" * 40,
        "PUSHTRAIN_SPEC_PATH": "jobs/job.yaml",
        "PUSHTRAIN_SOURCE_URL": "https://git.example/jobs.git",
        "PUSHTRAIN_LEDGER_URL": LEDGER,
        "PUSHTRAIN_DEADLINE_EPOCH_S": "1",
        "PUSHTRAIN_STALL_S": "1",
        "PUSHTRAIN_WORKSPACE": str(tmp_path),
        **({"PUSHTRAIN_VOLUME_SHARED": "1"} if shared else {}),
    }
    context = read_context(environ)
    env = trainer_env(context, environ)
    own = tmp_path / "runs" / "job-01234567-89abcdef"
    assert env["HF_HOME"] == str(tmp_path / ".cache" / "huggingface")
    assert context.checkout == (own if shared else tmp_path) / "source" / ("0" * 40)
    for name, folder in (
        ("TRITON_CACHE_DIR", "triton"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
        ("CUDA_CACHE_PATH", "cuda"),
    ):
        assert env[name] == str((own if shared else tmp_path) / ".cache" / folder)
    assert ("HF_DATASETS_CACHE" in env and "HF_MODULES_CACHE" in env) == shared


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"keep": True}, "needs a name"),
        ({"name": "models"}, "would do nothing without keep"),
        ({"name": "Models", "keep": True}, "pattern"),
        ({"name": "a" * 32, "keep": True}, "pattern"),
    ],
)
def test_what_a_spec_may_not_say(volume: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        job_spec(document(volume=volume))


def test_a_community_machine_takes_no_kept_volume() -> None:
    with pytest.raises(ValueError, match="take no network volume"):
        job_spec(document(tiers=["COMMUNITY"], volume={"name": "models", "keep": True}))


def document(**compute: object) -> dict[str, object]:
    return {
        "version": 1,
        "name": "job",
        "model": {"id": "org/base"},
        "data": {"path": "data/x.jsonl"},
        "compute": {"gpus": ["NVIDIA A40"], **compute},
        "budget": {"max_hours": 1, "max_usd": 1},
        "publish": {"repo": "org/job"},
    }

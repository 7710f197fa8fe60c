"""The sweep: whose things are, told by cloud and ledger alone; and nothing is touched that may be at work."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
from whole import World, end

from pushtrain.cloud import Live
from pushtrain.control import Control
from pushtrain.errors import LedgerError
from pushtrain.reconcile import tick
from pushtrain.run import ledger_prefix
from pushtrain.sweep import survey

pytest_plugins = ("whole",)


def test_without_the_ledger_everything_is_listed_and_nothing_removed(world: World) -> None:
    world.orders(steps=2000, step_s=0.05)
    world.write_job()
    world.push()
    world.tick()
    world.wait_for_step(1)
    (pod,) = world.control().cloud.find("").pods
    remote, away = world.folder / "remote.git", world.folder / "away.git"
    remote.rename(away)
    assert not survey(_with_ledger(world.control(), ledger_url="file:///nowhere.git")).owned  # nothing bears that mark
    done = world.cli("sweep", "--yes", "--json")
    listed = json.loads(done.stdout)
    assert done.returncode == 4 and "remote.git" in done.stderr, done
    assert (listed["orphans"], len(listed["owned"]), listed["ledger"]) == ([], 2, False)
    with pytest.raises(LedgerError):
        world.tick()
    assert pod.id in world.said[-1] and "left alone" in world.said[-1]
    away.rename(remote)

    # With it: what a run owns is named as such, and stays; without any state of an engine, too.
    world.env["PUSHTRAIN_STATE_DIR"] = str(world.folder / "state-of-a-laptop")
    found = survey(world.control())
    assert [it.id for it in found.owned.pods] == [pod.id] and not found.orphans and found.failure is None
    assert world.cli("cancel", "job").returncode == 0
    shutil.rmtree(world.folder / "state")
    done = world.cli("sweep", "--copies", "--json")
    assert (done.returncode, json.loads(done.stdout)["copies"]) == (0, []), done
    world.assert_nothing_left()


def test_what_was_claimed_a_moment_ago_by_somebody_else_is_not_swept(world: World) -> None:
    """The cloud is listed, then the ledger read. The other way round this pod would have no owner."""
    world.orders(steps=1000, step_s=0.05)
    world.push("no job yet")
    control = world.control()

    class Overtaken:
        """Between the start of our tick and the answer of the cloud another reconcile claims and provisions a run."""

        def __init__(self) -> None:
            self.cloud = control.cloud

        def find(self, prefix: str) -> Live:
            control.cloud = self.cloud
            world.write_job()
            world.push()
            other = world.control()
            tick(other)
            return self.cloud.find(prefix)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.cloud, name)

    control.cloud = Overtaken()  # type: ignore[assignment]
    assert tick(control).swept == []
    (pod,) = world.control().cloud.find("").pods
    assert world.cli("cancel", "job").returncode == 0
    assert [it["id"] for it in world.pods_made(world.record("job"))] == [pod.id]
    world.assert_nothing_left()


def test_an_orphan_volume_that_its_pod_still_holds_goes_with_it_and_names_that_look_alike_stay(world: World) -> None:
    world.push("no job")
    mark = ledger_prefix(f"file://{world.folder}/remote.git")
    alike = [mark[:-1], mark.upper(), f"x{mark}job-1-v", mark.replace("pt-", "pt_"), f"pt-{'0' * 6}-job"]
    for name in alike:
        _volume(world, name)
    volume = _volume(world, f"{mark}gone-0123abcd-4567cdef-v")
    pod = {"name": f"{mark}gone-0123abcd-4567cdef-a1", "image": "x", "gpu": {"id": "NVIDIA A40"}}
    mounts = {"network": [{"volumeId": volume, "path": "/workspace"}]}
    world.simulator.request("POST", "/v2/pods", json=pod | {"mounts": mounts}).raise_for_status()
    assert world.cli("sweep").returncode == 4
    world.simulator.fault("volume_busy", times=2)
    done = world.cli("sweep", "--yes")
    assert done.returncode == 0 and "not removed yet" in done.stderr, done.stderr
    control = world.control()
    assert {it.name for it in control.cloud.find("").volumes} == set(alike)
    _remove(control)

    # What the cloud will not let go is named, by the verb and by a tick.
    _volume(world, f"{mark}gone-0123abcd-4567cdef-v")
    world.simulator.fault("volume_busy", times=None)
    done = world.cli("sweep", "--yes", PUSHTRAIN_TEARDOWN_WAIT_S="0.5")
    assert done.returncode == 4 and "gone-0123abcd" in done.stderr, done.stderr
    control.clock = _quick(control)
    report = tick(control)
    assert report.exit_code == 4 and report.swept == []
    world.simulator.request("DELETE", "/_simulator/faults")
    assert len(world.tick().swept) == 1
    world.assert_nothing_left()


def test_a_branch_that_no_run_wrote_keeps_no_other_run_from_being_looked_after(world: World) -> None:
    world.write_job()
    world.push()
    world.tick()
    world.until(lambda record: record.last.state == "finished", ticks=False)
    ledger = world.control().ledger
    broken = "broken-01234567-89abcdef"
    world.git("push", "-q", "origin", f"HEAD:refs/heads/runs/{broken}")
    _volume(world, f"{ledger_prefix(ledger.url)}broken-01234567-89abcdef-v")
    done = world.cli("reconcile")
    assert done.returncode == 3 and broken in done.stderr, done.stderr
    records = ledger.read_all({run_id: tip for run_id, tip in ledger.refs().items() if run_id != broken})
    (record,) = records.values()
    assert end(record) == ("succeeded", "")
    found = survey(world.control())  # nobody knows whether it is at work
    assert len(found.owned.volumes) == 1 and not found.orphans and found.failure is None
    world.git("push", "-q", "origin", f":refs/heads/runs/{broken}")
    assert world.tick().swept
    world.assert_nothing_left()


def _with_ledger(control: Control, *, ledger_url: str) -> Control:
    return replace(control, settings=replace(control.settings, ledger_url=ledger_url))


def _volume(world: World, name: str) -> str:
    body = {"name": name, "size": 10, "dataCenter": "EU-SE-1"}
    return str(world.simulator.request("POST", "/v2/network-volumes", json=body).raise_for_status().json()["id"])


def _remove(control: Control) -> None:
    for volume in control.cloud.find("").volumes:
        control.cloud.delete_volume(volume.id)


def _quick(control: Control):  # type: ignore[no-untyped-def]
    """A clock on which a second of sleep is a minute."""
    slept = [0.0]
    real = control.clock

    def sleep(seconds: float) -> None:
        slept[0] += seconds * 60

    control.sleep = sleep
    return lambda: real() + slept[0]

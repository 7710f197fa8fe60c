"""A reconcile that follows, and what ends it: nothing left to do, or a push that asks for something else."""

import pytest
from whole import World, end

from pushtrain.gitcmd import git

pytest_plugins = ("whole",)


def test_a_following_reconcile_makes_way_for_the_next_push_which_may_cancel(world: World) -> None:
    world.orders(steps=1000, step_s=0.1)
    world.write_job()
    world.push()
    checkout = world.folder / "checkout-of-the-first-action"
    git(["clone", "-q", world.env["PUSHTRAIN_SOURCE_URL"], str(checkout)], env=world.env)
    follower = world.start_cli("reconcile", "--follow", cwd=checkout)
    world.wait_for_step(1)

    world.write_job(more="suspend: true\n")
    world.push("stop it")
    out, err = follower.communicate(timeout=150)
    assert follower.returncode == 0, err
    assert "the default branch moved" in out + err
    assert world.record("job").receipt is None

    assert world.cli("reconcile").returncode == 0
    assert end(world.record("job")) == ("cancelled", "Suspended")
    world.assert_nothing_left()


@pytest.mark.parametrize("verb", [("reconcile", "--follow"), ("run", "job")])
def test_following_ends_with_the_run(world: World, verb: tuple[str, ...]) -> None:
    world.write_job()
    world.push()
    done = world.cli(*verb)
    assert done.returncode == 0, done.stderr
    assert world.record("job").receipt is not None
    world.assert_nothing_left()

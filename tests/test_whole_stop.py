"""Being stopped from outside at any moment: a cancelled Action, Ctrl-C, SIGTERM; a cancel beside a live reconcile."""

import random
import signal
import subprocess
import time

from whole import World, end

from pushtrain.events import broken_links
from pushtrain.signals import INTERRUPTED

pytest_plugins = ("whole",)

# A cancelled step gets SIGTERM 7.5 s after SIGINT, and SIGKILL 2.5 s later (GitHub's workflow-cancellation page). The
# tests run on machines many times slower than a runner; what would wait for a cloud or a pod waits for minutes.
UNTIL_SIGTERM_S = 8 * 7.5


def test_a_cancelled_action_ends_in_time_wherever_it_is_and_the_next_one_goes_on(world: World) -> None:
    moments = random.Random(5)
    world.orders(steps=80, step_s=0.05, hold_at=60)
    world.write_job()
    world.push()
    for number in (signal.SIGINT, signal.SIGTERM) * 2:
        process = world.start_cli("reconcile", "--follow")
        _say(process, "engine:")
        time.sleep(moments.uniform(0.0, 1.5))
        process.send_signal(number)
        _, said = process.communicate(timeout=UNTIL_SIGTERM_S)
        assert "Traceback" not in said, said
        assert process.returncode == INTERRUPTED, said
        assert f"{number.name}: stopped" in said and "the next reconcile goes on" in said, said
    world.let_go()
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr
    record = world.record("job")
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    assert broken_links(record.events) == []
    world.assert_nothing_left()


def test_a_run_in_the_foreground_is_cancelled_by_sigterm_and_let_go_by_a_second_one(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job()
    world.push()
    process = world.start_cli("run", "job")
    world.wait_for_step(1)
    world.simulator.fault("volume_busy", times=None)
    process.send_signal(signal.SIGTERM)
    world.until(lambda record: record.last.state == "destroying", ticks=False)  # which cannot end now
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=UNTIL_SIGTERM_S)
    assert process.returncode == INTERRUPTED and "run `pushtrain cancel job`" in said and "Traceback" not in said, said
    assert not world.record("job").is_over
    world.simulator.request("DELETE", "/_simulator/faults")
    done = world.cli("cancel", "job")
    assert done.returncode == 0, done.stderr
    assert end(world.record("job")) == ("cancelled", "Interrupted")
    world.assert_nothing_left()


def test_a_cancel_beside_a_following_reconcile_gives_one_receipt(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job()
    world.push()
    following = world.start_cli("reconcile", "--follow")
    world.wait_for_step(1)
    done = world.cli("cancel", "job")
    _, said = following.communicate(timeout=150)
    assert (done.returncode, following.returncode) == (0, 0), (done.stderr, said)
    record = world.record("job")
    assert end(record) == ("cancelled", "CancelledByHand") and len(world.pods_made(record)) == 1
    assert "Traceback" not in said
    world.assert_nothing_left()


def _say(process: "subprocess.Popen[str]", words: str) -> None:
    """Read on until the process has said it; its pipe is at its end when it never does."""
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), words

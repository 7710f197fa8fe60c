"""A cache of the ledger that was cut off, mixed up, locked or filled to the brim: it is made anew, nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from git_world import RUN_ID, Remote, claim, event

from pushtrain.errors import LedgerUnavailable
from pushtrain.events import broken_links
from pushtrain.ledger import Ledger


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    made = Remote(tmp_path)
    made.url = made.file_url
    made.show("config", "uploadpack.allowFilter", "true")  # as at GitHub: what is large stays there until it is read
    return made


def states(ledger: Ledger) -> list[str]:
    record = ledger.read(RUN_ID)
    assert broken_links(record.events) == []
    return [event.state for event in record.events]


def cache_of(remote: Remote) -> Path:
    (folder,) = (remote.folder / "cache").glob("*.git")
    return folder


def objects(cache: Path) -> list[Path]:
    return [path for path in (cache / "objects").rglob("*") if path.is_file()]


def truncate_objects(cache: Path) -> None:
    for path in objects(cache):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:7])


def empty_objects(cache: Path) -> None:
    for path in objects(cache):
        path.chmod(0o644)
        path.write_bytes(b"")


def lose_objects(cache: Path) -> None:
    for path in objects(cache):
        path.unlink()


def scramble_objects(cache: Path) -> None:
    for path in objects(cache):
        path.chmod(0o644)
        path.write_bytes(os.urandom(path.stat().st_size))


def empty_head(cache: Path) -> None:
    (cache / "HEAD").write_text("")


def empty_refs(cache: Path) -> None:
    for path in (cache / "refs").rglob("*"):
        if path.is_file():
            path.write_text("")


def scramble_config(cache: Path) -> None:
    (cache / "config").write_text("[core\nbare")


def lose_half(cache: Path) -> None:
    shutil.rmtree(cache / "refs")
    shutil.rmtree(cache / "objects")


def leave_locks(cache: Path) -> None:
    """As a git that was killed in the middle: its process is gone, its writer's word is still there."""
    cache.with_suffix(".writer").write_text("writing")
    for name in (
        "HEAD.lock",
        "packed-refs.lock",
        "refs/pushtrain/new.lock",
        f"refs/pushtrain/seen/heads/runs/{RUN_ID}.lock",
    ):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).touch()
    (cache / "objects" / "pack" / "tmp_pack_x").write_bytes(b"x" * 1000)


DAMAGES = [
    truncate_objects,
    empty_objects,
    lose_objects,
    scramble_objects,
    empty_head,
    empty_refs,
    scramble_config,
    lose_half,
    leave_locks,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_cache_heals_itself(remote: Remote, damage: Callable[[Path], None]) -> None:
    writer, reader = remote.ledger(), remote.ledger()
    claim(writer)
    large = os.urandom(10_000).hex().encode()
    writer.append(RUN_ID, events=[event("booting")], log=large)
    record = reader.read(RUN_ID)
    damage(cache_of(remote))
    assert reader.text(record, "logs") == (large, 1)
    damage(cache_of(remote))
    writer.append(RUN_ID, events=[event("training")], log=b"two\n")
    damage(cache_of(remote))
    fresh = remote.ledger()
    assert states(fresh) == ["claimed", "booting", "training"]
    damage(cache_of(remote))
    claim(fresh, "job-01234567-00000001")
    damage(cache_of(remote))
    assert fresh.text(fresh.read(RUN_ID), "logs") == (large + b"two\n", 2)
    fresh.append(RUN_ID, log=b"three\n")
    assert not list(cache_of(remote).rglob("tmp_pack_x"))
    assert not list((remote.folder / "cache").glob("*.broken"))


def test_an_append_whose_answer_was_lost_is_found_without_the_cache(tmp_path: Path) -> None:
    remote = Remote(tmp_path)  # by ssh, whose answers can be lost
    ledger = remote.ledger()
    claim(ledger)
    remote.order("mute")
    with pytest.raises(LedgerUnavailable):
        ledger.append(RUN_ID, events=[event("training")], log=b"once\n")
    truncate_objects(cache_of(remote))
    ledger.append(RUN_ID, events=[event("training")], log=b"once\n")
    assert states(ledger) == ["claimed", "training"]


def test_a_full_disk_costs_time_and_nothing_else(remote: Remote, tmp_path: Path) -> None:
    """Every file a git of ours writes here ends at 8 KiB, as on a disk that is full."""
    ledger = remote.ledger()
    claim(ledger)
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    real = shutil.which("git")
    shim.write_text(
        f'#!/bin/bash\ncase "$1" in push) ;; *) [ -e {tmp_path}/full ] && ulimit -f 8 ;; esac\nexec {real} "$@"\n'
    )
    shim.chmod(0o755)
    remote.env["PATH"] = f"{shim.parent}:{remote.env['PATH']}"
    ledger, full = remote.ledger(), tmp_path / "full"
    full.touch()
    noise = os.urandom(30_000).hex().encode()
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            ledger.append(RUN_ID, events=[event("training")], log=noise)
    left = sum(path.stat().st_size for path in (remote.folder / "cache").rglob("*") if path.is_file())
    assert left < 200_000, "what failed does not pile up"
    full.unlink()
    ledger.append(RUN_ID, events=[event("training")], log=noise)
    assert states(ledger) == ["claimed", "training"]
    assert ledger.text(ledger.read(RUN_ID), "logs")[0] == noise


def test_a_cache_that_cannot_be_written_is_unavailable_not_a_crash(remote: Remote) -> None:
    claim(remote.ledger("elsewhere"))
    (remote.folder / "cache").write_text("a file where a folder should be")
    with pytest.raises(LedgerUnavailable, match="cache") as caught:
        remote.ledger().append(RUN_ID, events=[event("training")])
    assert caught.value.hint
    (remote.folder / "cache").unlink()
    remote.ledger().append(RUN_ID, events=[event("training")])


_WRITER = """\
import os, sys
from pathlib import Path
from pushtrain.errors import LedgerUnavailable
from pushtrain.events import EventDraft
from pushtrain.ledger import Ledger
url, cache, run_id = sys.argv[1:]
ledger = Ledger(url, cache_dir=Path(cache), environ=os.environ)
for turn in range(10_000):
    ledger.append(run_id, events=[EventDraft(state="training", writer="pod", attempt=1, message=str(turn))])
    print(turn, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_cache_that_works(remote: Remote) -> None:
    """Python and git together, as when a container is stopped."""
    ledger = remote.ledger()
    claim(ledger)
    command = [sys.executable, "-c", _WRITER, remote.url, str(remote.folder / "cache"), RUN_ID]
    env = remote.env | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for turn in range(4):
        writer = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True)
        assert writer.stdout is not None and writer.stdout.readline()
        time.sleep(0.013 * turn)
        os.killpg(writer.pid, signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
        ledger.append(RUN_ID, events=[event("lost", message=str(turn))])
    record = remote.ledger("elsewhere").read(RUN_ID)
    assert broken_links(record.events) == []
    assert [event.message for event in record.events if event.state == "lost"] == ["0", "1", "2", "3"]

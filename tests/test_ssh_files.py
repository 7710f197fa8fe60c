"""`pushtrain cp` and `sync` with the real rsync and scp, against a real sshd, also over the end of a pod."""

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ssh_world import has_door, needs_clients
from whole import World

from pushtrain.errors import SshError, UsageError
from pushtrain.ssh.copying import Ways, carry
from pushtrain.ssh.places import read_places
from pushtrain.ssh.session import Line, open_line, run_client

pytest_plugins = ("whole", "ssh_world")
pytestmark = [
    needs_clients,
    pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed here"),
    pytest.mark.timeout(600),
]
STRANGE = 'it\'s a "strange" $(name) ümlaut *?[1];&|\\ -x.txt'


def volume(guest: World) -> Path:
    (path,) = (guest.simulator.state_dir / "volumes").iterdir()
    return path


def line_of(guest: World) -> Line:
    return open_line(guest.repository, guest.env, guest.said.append)


def ways(*, has_rsync: bool = True, run: Callable[[list[str]], int] = run_client) -> Ways:
    return Ways(has_rsync=has_rsync, progress=False, run=run)


@pytest.mark.parametrize("has_rsync", [True, False], ids=["rsync", "scp"])
def test_a_file_with_any_name_goes_there_and_comes_back(guest: World, tmp_path: Path, has_rsync: bool) -> None:
    line, way = open_line(guest.repository, guest.env, guest.said.append), f"by-{has_rsync}"
    (tmp_path / STRANGE).write_text("one")
    (volume(guest) / way).mkdir()
    carry(line, read_places([str(tmp_path / STRANGE)], f"job:{way}/"), ways(has_rsync=has_rsync), wait_s=20)
    assert (volume(guest) / way / STRANGE).read_text() == "one"
    carry(line, read_places([f"job:{way}/{STRANGE}"], f"{tmp_path}/back/"), ways(has_rsync=has_rsync), wait_s=20)
    assert (tmp_path / "back" / STRANGE).read_text() == "one"


def test_the_verbs_copy_a_folder_and_make_one_like_another(guest: World, tmp_path: Path) -> None:
    for name in ("a/b/deep.txt", "a/top.txt", "a/skip.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    first = guest.cli("sync", str(tmp_path / "a"), "job:new/folder", "--exclude", "*.tmp")
    assert first.returncode == 0, first
    there = volume(guest) / "new" / "folder"
    assert sorted(it.name for it in there.iterdir()) == ["b", "top.txt"]
    (there / "extra").touch()
    (tmp_path / "a" / "skip.tmp").unlink()
    assert guest.cli("sync", str(tmp_path / "a"), "job:new/folder", "--delete").returncode == 0
    assert not (there / "extra").exists()
    assert guest.cli("cp", "job:new/folder/b/deep.txt", "job:new/folder/top.txt", str(tmp_path / "got")).returncode == 0
    assert sorted(it.name for it in (tmp_path / "got").iterdir()) == ["deep.txt", "top.txt"]


def test_what_cannot_be_copied_is_said_before_anything_is_sent(guest: World, tmp_path: Path) -> None:
    line = open_line(guest.repository, guest.env, guest.said.append)
    with pytest.raises(UsageError, match="is not here"):
        carry(line, read_places([str(tmp_path / "nothing")], "job:x"), ways(), wait_s=0)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        copy = replace(read_places([str(tmp_path / "file")], "job:x"), contents=True)
        carry(line, copy, ways(), wait_s=0)
    missing = guest.cli("cp", "job:no/such/file", str(tmp_path / "x"))
    assert missing.returncode == 3 and "No such file" in missing.stderr and "exit code 23" in missing.stderr


def test_an_upload_that_a_lost_pod_cuts_goes_on_with_the_next_attempt(guest: World, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"".join(hashlib.sha256(str(it).encode()).digest() * 1024 for it in range(1024)))
    said: list[str] = []
    sizes: list[int] = []

    def slowly(argv: list[str]) -> int:
        there = volume(guest) / "big"
        sizes.append(there.stat().st_size if there.exists() else 0)
        slow = ["--bwlimit=4M"] if len(sizes) == 1 else []
        return subprocess.run([argv[0], *slow, *argv[1:]], timeout=170, check=False).returncode

    line = open_line(guest.repository, guest.env, said.append)
    arguments = (line, read_places([str(big)], "job:"), ways(run=slowly))
    copying = threading.Thread(target=carry, args=arguments, kwargs={"wait_s": 30})
    copying.start()
    guest.until(lambda record: (volume(guest) / "big").exists() and (volume(guest) / "big").stat().st_size > 2**20)
    guest.simulator.fault("lost_pod", seconds=0.0)
    guest.until(lambda record: has_door(record) and record.last.attempt == 2)
    copying.join(150)
    assert not copying.is_alive(), said
    assert (volume(guest) / "big").read_bytes() == big.read_bytes()
    assert len(sizes) >= 2 and sizes[-1] > 2**20, "what the lost pod had taken was there for the second time"
    assert any("broke; going on" in text for text in said), said


class Slow:
    """Runs rsync, slowly the first time; notes before each time what `look` says."""

    def __init__(self, look: Callable[[], int]) -> None:
        self.look, self.seen = look, list[int]()

    def __call__(self, argv: list[str]) -> int:
        self.seen.append(self.look())
        slow = ["--bwlimit=4M"] if len(self.seen) == 1 else []
        return subprocess.run([argv[0], *slow, *argv[1:]], timeout=170, check=False).returncode


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_download_and_a_sync_that_a_lost_pod_cuts_go_on_with_the_next_attempt(guest: World, tmp_path: Path) -> None:
    content = b"".join(hashlib.sha256(f"of {it}".encode()).digest() * 1024 for it in range(1024))
    mine, got, there = tmp_path / "mine", tmp_path / "got", volume(guest)
    for folder, names in ((mine, ("big", "z/last")), (there / "out", ("big",)), (there / "like", ("extra", "z/old"))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if name == "big" else name.encode())
    up, down = Slow(lambda: size(there / "like" / "big")), Slow(lambda: size(got / ".pushtrain-partial" / "big"))
    like = replace(read_places([str(mine)], "job:like"), contents=True, delete=True)
    before = guest.record("job").last.attempt
    copies = [
        threading.Thread(target=carry, args=(line_of(guest), copy, ways(run=run)), kwargs={"wait_s": 60})
        for copy, run in ((like, up), (read_places(["job:out/big"], f"{got}/"), down))
    ]
    for it in copies:
        it.start()
    guest.until(lambda _: up.look() > 2**20 and got.exists() and any(size(it) > 2**20 for it in got.iterdir()))
    guest.simulator.fault("lost_pod", seconds=0.0)
    guest.until(lambda record: has_door(record) and record.last.attempt > before)
    for it in copies:
        it.join(150)
        assert not it.is_alive(), guest.said
    assert sorted(str(it.relative_to(there / "like")) for it in (there / "like").rglob("*")) == ["big", "z", "z/last"]
    assert (there / "like" / "big").read_bytes() == content == (got / "big").read_bytes()
    assert [it.name for it in got.iterdir()] == ["big"], "what was kept of the first time is used up"
    for slow in (up, down):
        assert len(slow.seen) >= 2 and slow.seen[-1] > 2**20, "what the lost pod had sent was there the second time"


def test_a_pod_without_rsync_is_copied_to_by_scp_and_a_sync_says_what_to_do(guest: World, tmp_path: Path) -> None:
    """Its shell says 127; that is all that differs from a pod that has one."""

    def without(argv: list[str]) -> int:
        named = ["--rsync-path=rsync-is-not-here"] if argv[0] == "rsync" else []
        at = argv.index("--")
        return run_client([*argv[:at], *named, *argv[at:]])

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("a")
    line = line_of(guest)
    carry(line, read_places([str(tmp_path / "mine" / "a")], "job:by-scp"), ways(run=without), wait_s=60)
    carry(line, read_places(["job:by-scp"], f"{tmp_path}/back"), ways(run=without), wait_s=60)
    assert (tmp_path / "back").read_text() == "a"
    assert sum("by scp, since the pod's image has no rsync" in text for text in guest.said) == 2
    for source, target in ((str(tmp_path / "mine"), "job:like"), ("job:like", str(tmp_path / "like"))):
        with pytest.raises(SshError, match="the pod's image does not have") as refused:
            carry(line, replace(read_places([source], target), contents=True), ways(run=without), wait_s=60)
        assert refused.value.reason == "NoRsync"
        assert "pushtrain ssh job -- apt-get install -y rsync" in str(refused.value.hint) and "pushtrain cp" in str(
            refused.value.hint
        )

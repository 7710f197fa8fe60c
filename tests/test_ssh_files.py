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

from pushtrain.errors import SshError
from pushtrain.ssh.copying import Ways, carry
from pushtrain.ssh.places import read_places
from pushtrain.ssh.session import open_line, run_client

pytest_plugins = ("whole", "ssh_world")
pytestmark = [needs_clients, pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed here")]
STRANGE = 'it\'s a "strange" $(name) ümlaut *?[1];&|\\ -x.txt'


def volume(guest: World) -> Path:
    (path,) = (guest.simulator.state_dir / "volumes").iterdir()
    return path


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
    with pytest.raises(SshError, match="is not here"):
        carry(line, read_places([str(tmp_path / "nothing")], "job:x"), ways(), wait_s=0)
    (tmp_path / "file").touch()
    with pytest.raises(SshError, match="is no folder"):
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
        return subprocess.run([argv[0], *slow, *argv[1:]], timeout=60, check=False).returncode

    line = open_line(guest.repository, guest.env, said.append)
    arguments = (line, read_places([str(big)], "job:"), ways(run=slowly))
    copying = threading.Thread(target=carry, args=arguments, kwargs={"wait_s": 30})
    copying.start()
    guest.until(lambda record: (volume(guest) / "big").exists() and (volume(guest) / "big").stat().st_size > 2**20)
    guest.simulator.fault("lost_pod", seconds=0.0)
    guest.until(lambda record: has_door(record) and record.last.attempt == 2)
    copying.join(60)
    assert not copying.is_alive(), said
    assert (volume(guest) / "big").read_bytes() == big.read_bytes()
    assert len(sizes) >= 2 and sizes[-1] > 2**20, "what the lost pod had taken was there for the second time"
    assert any("broke; going on" in text for text in said), said

"""The managed part of ~/.ssh/config: the user's file is never damaged, and the real ssh reads what is written."""

import os
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ssh_world import needs_clients

from pushtrain.ssh import config
from pushtrain.ssh.client import SshFiles, pin, write_private
from pushtrain.ssh.endpoint import Endpoint

MINE = "# mine\nHost work\n    HostName work.example\n    User me"
RUN = "job-0123abcd-0123abcd"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return {"HOME": str(tmp_path)}


def user_file(environ: dict[str, str]) -> Path:
    return Path(environ["HOME"], ".ssh", "config")


def endpoint(run_id: str = RUN, port: int = 10022, *, proxy: bool = False) -> Endpoint:
    return Endpoint(
        run_id=run_id,
        attempt=1,
        pod_id="p",
        host="1.2.3.4",
        port=port,
        user="root",
        host_key="" if proxy else "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQr",
        proxy=proxy,
    )


def write(environ: dict[str, str], found: Endpoint, mark: str = "pt-aaaaaa-") -> None:
    config.update(environ, {found.run_id: config.entry(found, pin(found, environ), mark)})


@pytest.mark.parametrize("before", ["", MINE, MINE + "\n", "Host *\n\tForwardAgent yes\n"])
def test_the_line_goes_to_the_top_once_and_away_again_to_the_byte(environ: dict[str, str], before: str) -> None:
    user_file(environ).write_text(before)
    assert config.include(environ) and not config.include(environ)
    text = user_file(environ).read_text()
    assert text.count(config.INCLUDE) == 1 and text.endswith(before) and "Host" not in text.split(config.INCLUDE)[0]
    assert config.remove(environ) and not config.remove(environ)
    assert user_file(environ).read_text() == before


def test_the_mode_of_the_users_file_and_a_link_to_it_stay(environ: dict[str, str], tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text(MINE)
    real.chmod(0o640)
    user_file(environ).symlink_to(real)
    config.include(environ)
    assert user_file(environ).is_symlink() and config.INCLUDE in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [it.name for it in tmp_path.iterdir() if ".new" in it.name] == []


def test_a_file_that_is_not_there_is_made_for_its_owner_alone(environ: dict[str, str]) -> None:
    config.include(environ)
    assert stat.S_IMODE(user_file(environ).stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_file_as_it_was(environ: dict[str, str]) -> None:
    user_file(environ).write_text(MINE)
    if os.getuid() == 0:
        # root writes everywhere but over a folder
        (user_file(environ).parent / f"config.{os.getpid()}-{threading.get_ident()}.new").mkdir()
    else:
        user_file(environ).parent.chmod(0o500)
    try:
        with pytest.raises(OSError):
            config.include(environ)
    finally:
        user_file(environ).parent.chmod(0o700)
    assert user_file(environ).read_text() == MINE


def test_nothing_is_written_where_nobody_asked(environ: dict[str, str]) -> None:
    write(environ, endpoint())
    assert not config.managed(environ).exists() and not user_file(environ).exists()


def test_entries_are_replaced_dropped_with_their_run_and_kept_for_another_ledger(environ: dict[str, str]) -> None:
    config.include(environ)
    write(environ, endpoint(port=1))
    write(environ, endpoint(port=2))
    write(environ, endpoint("other-0123abcd-0123abcd"), mark="pt-bbbbbb-")
    assert config.hosts(environ, "pt-aaaaaa-") == [RUN]
    text = config.managed(environ).read_text()
    assert text.count("Port ") == 2 and "Port 2\n" in text
    config.update(environ, {}, [RUN])
    assert config.hosts(environ, "pt-aaaaaa-") == []
    assert config.hosts(environ, "pt-bbbbbb-") == ["other-0123abcd-0123abcd"]
    assert not (Path(environ["HOME"]) / ".ssh/pushtrain/hosts" / RUN).exists()


def test_many_at_once_lose_no_entry(environ: dict[str, str]) -> None:
    config.include(environ)
    runs = [f"job{number}-0123abcd-0123abcd" for number in range(8)]
    threads = [threading.Thread(target=write, args=(environ, endpoint(run_id))) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert config.hosts(environ, "pt-aaaaaa-") == runs


def test_the_name_of_a_job_is_the_run_of_it_that_was_reached_last(environ: dict[str, str]) -> None:
    config.include(environ)
    later = "job-99999999-99999999"
    for run_id in (RUN, later, "job-2-0123abcd-0123abcd"):
        write(environ, endpoint(run_id))
    lines = [line for line in config.managed(environ).read_text().splitlines() if line.startswith("Host ")]
    assert lines == [
        f"Host pushtrain-{RUN}",
        "Host pushtrain-job-2-0123abcd-0123abcd pushtrain-job-2",
        f"Host pushtrain-{later} pushtrain-job",
    ]


@needs_clients
@pytest.mark.parametrize("proxy", [False, True], ids=["direct", "proxy"])
def test_the_real_ssh_reads_it_and_the_users_hosts_are_as_before(environ: dict[str, str], proxy: bool) -> None:
    user_file(environ).write_text(MINE)
    config.include(environ)
    found = endpoint(proxy=proxy)
    entry = config.entry(found, SshFiles(known_hosts=Path("/a b/100%/hosts"), identity=Path("/a b/key")), "pt-aaaaaa-")
    config.update(environ, {RUN: entry})
    # ssh takes ~ from the user database, not from HOME.
    plain = user_file(environ).read_text().replace("~/", f"{environ['HOME']}/")
    user_file(environ).write_text(plain)
    said = _resolved(user_file(environ), f"pushtrain-{RUN}")
    assert {"hostname 1.2.3.4", "port 10022", "user root", "userknownhostsfile /a b/100%/hosts"} <= said, said
    assert "identityfile /a b/key" in said and ("stricthostkeychecking true" in said) is not proxy
    assert {"hostname work.example", "user me", "stricthostkeychecking ask"} <= _resolved(user_file(environ), "work")


def _resolved(file: Path, host: str) -> set[str]:
    done = subprocess.run(["ssh", "-G", "-F", str(file), host], capture_output=True, text=True, timeout=150, check=True)
    return {line.strip() for line in done.stdout.replace('"', "").splitlines()}


def test_what_several_threads_write_at_once_is_whole(tmp_path: Path) -> None:
    """Two copies at once pin the same host key."""
    path, texts = tmp_path / "hosts", [f"{number}\n" * 1000 for number in range(4)]

    def write(text: str) -> None:
        for _ in range(25):
            write_private(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert [it.name for it in tmp_path.iterdir()] == ["hosts"]

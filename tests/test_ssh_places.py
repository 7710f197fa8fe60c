"""Names of files for cp and sync: what is here and what there, and the lines that rsync and scp are given."""

from pathlib import Path

import pytest

from pushtrain.errors import UsageError
from pushtrain.ssh.client import SshFiles
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.places import Copy, here, on_pod, read_places, rsync_argv, scp_argv

POD = Endpoint(
    run_id="job-0123abcd-0123abcd",
    attempt=1,
    pod_id="p1",
    host="1.2.3.4",
    port=10022,
    user="root",
    host_key="ssh-ed25519 AAAA",
    folder="/workspace",
)
FILES = SshFiles(known_hosts=Path("/home/me/with space/hosts"), identity=None)


def test_one_side_is_on_a_pod() -> None:
    assert read_places(["a", "b"], "job:data/") == Copy(run="job", here=("a", "b"), there=("data/",), up=True)
    assert read_places(["job:x", "job:y"], ".") == Copy(run="job", here=(".",), there=("x", "y"), up=False)


@pytest.mark.parametrize(
    ("sources", "target"),
    [(["a"], "b"), (["job:a"], "job:b"), (["job:a", "other:b"], "."), (["job:a", "b"], "."), (["./job:a"], "b")],
)
def test_anything_else_is_refused(sources: list[str], target: str) -> None:
    with pytest.raises(UsageError, match="one side has to be RUN:path"):
        read_places(sources, target)


def test_relative_paths_there_count_from_the_volume() -> None:
    assert on_pod(POD, "data/x") == "/workspace/data/x" and on_pod(POD, "/tmp/x") == "/tmp/x"
    assert on_pod(POD, "") == "/workspace/"


def test_no_name_is_taken_for_an_option_or_a_host() -> None:
    assert [here(name) for name in ("-rf", "a:b", "/x", "../y", ".")] == ["./-rf", "./a:b", "/x", "../y", "."]
    argv = rsync_argv(read_places(["-rf"], "job:x"), POD, FILES, progress=False)
    assert argv[argv.index("--") + 1 :] == ["./-rf", "root@1.2.3.4:/workspace/x"]


def test_folders_are_made_before_the_first_byte_with_their_name_quoted() -> None:
    argv = rsync_argv(read_places(["a"], "job:it's/new/b"), POD, FILES, progress=False)
    assert """--rsync-path=mkdir -p '/workspace/it'"'"'s/new' && rsync""" in argv


def test_scp_is_kept_from_taking_a_name_for_a_pattern() -> None:
    argv = scp_argv(read_places(["job:a*[1]"], "."), POD, FILES)
    assert argv[-2:] == [r"root@1.2.3.4:/workspace/a\*\[1\]", "."]

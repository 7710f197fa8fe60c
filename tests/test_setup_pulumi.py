"""The Pulumi CLI from a loopback release server: checked, unpacked safely, in place whole or not at all."""

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra import setup_pulumi as setup
from infra.setup_pulumi import VERSION, setup_pulumi
from infra.simulator.loopback import Listener, Reply, Request
from pushtrain.errors import EngineError

ARCHIVE = f"pulumi-v{VERSION}-linux-x64.tar.gz"
CHECKSUMS = f"pulumi-{VERSION}-checksums.txt"


@dataclass
class Releases:
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def publish(self, archive: bytes, *, sha256: str | None = None) -> None:
        digest = sha256 or hashlib.sha256(archive).hexdigest()
        other = f"{'0' * 64}  pulumi-v{VERSION}-darwin-x64.tar.gz\n"
        self.files = {ARCHIVE: archive, CHECKSUMS: f"{other}{digest}  {ARCHIVE}\n".encode()}


@pytest.fixture
def releases() -> Iterator[Releases]:
    made = Releases()

    def answer(request: Request) -> Reply:
        name = request.path.rpartition("/")[2]
        made.asked.append(name)
        return Reply(body=made.files[name]) if name in made.files else Reply(status=404)

    with Listener(answer) as listener:
        made.url = f"{listener.url}/releases/sdk"
        yield made


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def release(version: str = VERSION, **extra: str) -> bytes:
    """An archive as Pulumi's are: one folder, programs in it. `extra` are more members, by path."""
    buffer = io.BytesIO()
    program = f"#!/bin/sh\necho v{version}\n"
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        for path, text in {"pulumi/pulumi": program, "pulumi/pulumi-language-python": "#!/bin/sh\n", **extra}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text), 0o755
            files.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_the_release_is_checked_and_unpacked_once(releases: Releases, tmp_path: Path) -> None:
    releases.publish(release())
    said: list[str] = []
    folder = setup_pulumi(tmp_path / "tools" / "pulumi", url=releases.url, say=said.append)
    assert folder == tmp_path / "tools" / "pulumi"
    answer = subprocess.run([folder / "pulumi", "version"], capture_output=True, text=True, check=True)
    assert answer.stdout == f"v{VERSION}\n" and (folder / "pulumi-language-python").stat().st_mode & 0o111
    assert hashlib.sha256(releases.files[ARCHIVE]).hexdigest() in "\n".join(said), "it is not said what was checked"
    assert [path.name for path in folder.parent.iterdir()] == ["pulumi"]

    releases.asked.clear()
    assert setup_pulumi(folder, url=releases.url, say=said.append) == folder
    assert releases.asked == [] and "already" in said[-1]


def test_another_version_is_replaced_only_by_one_that_works(releases: Releases, tmp_path: Path) -> None:
    folder = tmp_path / "pulumi"
    folder.mkdir()
    (folder / "pulumi").write_text("#!/bin/sh\necho v3.1.0\n")
    (folder / "pulumi").chmod(0o755)
    releases.publish(release("3.2.0"))
    with pytest.raises(EngineError, match=r"says version 3\.2\.0"):
        setup_pulumi(folder, url=releases.url, say=print)
    assert "v3.1.0" in (folder / "pulumi").read_text()
    releases.publish(release())
    setup_pulumi(folder, url=releases.url, say=print)
    assert VERSION in (folder / "pulumi").read_text() and [it.name for it in tmp_path.iterdir()] == ["pulumi"]


def _truncated(releases: Releases) -> None:
    whole = release()
    releases.publish(whole[:-40], sha256=hashlib.sha256(whole).hexdigest())


def _no_archive(releases: Releases) -> None:
    releases.publish(release())
    del releases.files[ARCHIVE]


def _other_platforms_only(releases: Releases) -> None:
    releases.publish(release())
    releases.files[CHECKSUMS] = b"%s  pulumi-v%s-linux-arm64.tar.gz\n" % (b"1" * 64, VERSION.encode())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda it: None, "answered 404"),
        (_no_archive, "answered 404"),
        (_truncated, "was published"),
        (_other_platforms_only, "no SHA-256 of"),
        (lambda it: it.publish(b"no archive at all"), "cannot be unpacked"),
        (lambda it: it.publish(release(**{"../outside": "x"})), "cannot be unpacked"),
        (lambda it: it.publish(release(version="")), "says version nothing"),
    ],
    ids=["no release", "no archive", "truncated", "other platforms", "no gzip", "climbs out", "silent"],
)
def test_what_is_not_the_release_is_refused_and_nothing_stays(
    broken: Callable[[Releases], None], said: str, releases: Releases, tmp_path: Path
) -> None:
    broken(releases)
    with pytest.raises(EngineError, match=said) as refused:
        setup_pulumi(tmp_path / "tools" / "pulumi", url=releases.url, say=print)
    assert refused.value.reason == "SetupFailed"
    assert not list((tmp_path / "tools").iterdir()) and [it.name for it in tmp_path.iterdir()] == ["tools"]


def test_offline_and_unknown_machines_are_told_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="cannot be reached") as refused:
        setup_pulumi(tmp_path / "pulumi", url="http://127.0.0.1:1/releases", say=print)
    assert "PUSHTRAIN_ENGINE=embedded" in (refused.value.hint or "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EngineError, match="no release for linux on riscv64"):
        setup_pulumi(tmp_path / "pulumi", say=print)


def test_a_folder_with_something_else_in_it_is_left_alone(releases: Releases, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    releases.publish(release())
    with pytest.raises(EngineError, match="holds something else"):
        setup_pulumi(tmp_path, url=releases.url, say=print)
    assert [it.name for it in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.publish(release())
    monkeypatch.setattr(setup, "_MAX_UNPACKED_BYTES", 10)
    with pytest.raises(EngineError, match="unpacks to more than"):
        setup_pulumi(tmp_path / "a", url=releases.url, say=print)
    monkeypatch.setattr(setup, "_MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(EngineError, match="no release of Pulumi"):
        setup_pulumi(tmp_path / "a", url=releases.url, say=print)


def test_the_verb_prints_the_line_for_a_shell_and_nothing_else_on_stdout(releases: Releases, tmp_path: Path) -> None:
    for name in ("linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"):
        archive = release()
        releases.files[f"pulumi-v{VERSION}-{name}.tar.gz"] = archive
        line = f"{hashlib.sha256(archive).hexdigest()}  pulumi-v{VERSION}-{name}.tar.gz\n"
        releases.files[CHECKSUMS] = releases.files.get(CHECKSUMS, b"") + line.encode()
    verb = [sys.executable, "-m", "pushtrain", "setup-pulumi", "--dir", "tools/here", "--url", releases.url]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        verb,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    shell = subprocess.run(
        ["sh", "-c", f"{done.stdout}pulumi version"], capture_output=True, text=True, timeout=150, check=True
    )
    assert shell.stdout == f"v{VERSION}\n"


def test_the_workflow_installs_the_version_that_is_tested() -> None:
    workflow = (Path(__file__).parents[1] / ".github" / "workflows" / "train.yml").read_text()
    assert f"pulumi-version: {VERSION}\n" in workflow

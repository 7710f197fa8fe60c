"""Every way to end one's own pod, one at a time, against what images and clouds do to it."""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pod_bench import POD_KEY, Api

from pushtrain.pod import terminate
from pushtrain.pod.terminate import Target, cloud_epoch_s, read_target, terminate_for_ever, terminate_once


@pytest.fixture
def make_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    made: list[Api] = []
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no runpodctl of this machine

    def make(**options: object) -> Api:
        made.append(Api(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for api in made:
        api.close()


def target(api: Api, **changes: str) -> Target:
    given = {"RUNPOD_API_BASE_URL": api.url, "RUNPOD_POD_ID": "pod1", "RUNPOD_API_KEY": POD_KEY}
    return read_target(given | changes, first=Path("/nowhere"))


def ways(said: list[str]) -> dict[str, str]:
    """way → answer, of lines `terminate pod ID: way: answer`."""
    return {way: answer for _, way, answer in (line.split(": ", 2) for line in said)}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 502])
def test_a_refusal_of_any_kind_leads_to_the_next_way(make_api: Callable[..., Api], status: int) -> None:
    api, said = make_api(statuses=lambda number: status), list[str]()
    assert not terminate_once(target(api), said.append)
    assert ways(said) == {
        "action terminate": f"HTTP {status}",
        "delete": f"HTTP {status}",
        "runpodctl": "not installed",
        "graphql": f"HTTP {status}",
        "action stop": f"HTTP {status}",
    }
    assert [(method, path) for method, path, _ in api.calls] == [
        ("POST", "/v2/pods/pod1/action"),
        ("DELETE", "/v2/pods/pod1"),
        ("POST", "/graphql"),
        ("POST", "/v2/pods/pod1/action"),
    ]
    assert all(header["authorization"] == f"Bearer {POD_KEY}" for header in api.headers), "and nothing is read first"


def test_the_first_way_that_is_accepted_is_enough_until_the_last_resorts(make_api: Callable[..., Api]) -> None:
    api, said = make_api(), list[str]()
    assert terminate_once(target(api), said.append) and len(api.calls) == 1
    assert terminate_once(target(api), said.append, last_resorts=True) and len(api.calls) == 5


@pytest.mark.parametrize(
    ("body", "answer"),
    [(b'{"data":{"podTerminate":null}}', "accepted"), (b'{"errors":[{"message":"no"}],"data":null}', "refused")],
)
def test_graphql_says_no_with_status_200(make_api: Callable[..., Api], body: bytes, answer: str) -> None:
    api, said = make_api(statuses=lambda number: 200 if number == 3 else 500, answer=body), list[str]()
    assert terminate_once(target(api), said.append) == (answer == "accepted")
    assert ways(said)["graphql"] == answer


def test_a_missing_key_or_id_is_looked_up_at_the_first_process(tmp_path: Path) -> None:
    first = tmp_path / "environ"
    first.write_bytes(b"RUNPOD_POD_ID=pod1\0RUNPOD_API_KEY=key1\0RUNPOD_API_BASE_URL=http://h/\0torn")
    found = read_target({"RUNPOD_API_KEY": "key2"}, first)
    assert (found.pod_id, found.api_key, found.base_url) == ("pod1", "key2", "http://h")
    assert read_target({}, tmp_path / "none").base_url == "https://api.runpod.io"
    assert read_target({"RUNPOD_POD_ID": "a", "RUNPOD_API_KEY": "b"}, first).base_url == "https://api.runpod.io"


def test_a_pod_without_key_and_id_still_tries_what_is_left(make_api: Callable[..., Api]) -> None:
    api, said = make_api(statuses=lambda number: 401), list[str]()
    assert not terminate_once(target(api, RUNPOD_POD_ID="", RUNPOD_API_KEY=" "), said.append)
    assert len(api.calls) == 4 and "RUNPOD_POD_ID is not set" in said[0]


def test_runpods_own_command_is_a_way(
    make_api: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "runpodctl"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/seen\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    said: list[str] = []
    assert terminate_once(target(make_api(statuses=lambda number: 500)), said.append)
    assert (tmp_path / "seen").read_text() == "pod delete pod1\n" and ways(said)["runpodctl"] == "accepted"
    command.write_text("#!/bin/sh\necho certificate signed by unknown authority >&2\nexit 1\n")
    assert not terminate_once(target(make_api(statuses=lambda number: 500)), said.append)
    assert ways(said)["runpodctl"] == "exit code 1: certificate signed by unknown authority"


def test_proxy_variables_of_an_image_are_no_way_before_the_straight_one(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert terminate_once(target(api), lambda text: None) and len(api.calls) == 1


def test_where_there_is_no_straight_way_the_proxy_is_one(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, said = make_api(), list[str]()
    monkeypatch.setenv("http_proxy", proxy.url)
    lost = target(proxy, RUNPOD_API_BASE_URL="http://127.0.0.1:9")
    assert terminate_once(lost, said.append)
    assert proxy.calls == [("POST", "http://127.0.0.1:9/v2/pods/pod1/action", '{"action": "terminate"}')]


def test_a_name_server_or_an_api_that_never_answers_holds_up_nothing(make_api: Callable[..., Api]) -> None:
    api, said = make_api(), list[str]()
    api.is_open.clear()
    hanging = Target(base_url=api.url, pod_id="pod1", api_key=POD_KEY, patience_s=0.2)
    assert not terminate_once(hanging, said.append)
    answers = ways(said)
    assert "timed out" in answers["action terminate"] and "timed out" in answers["action stop"]
    said.clear()
    nowhere = Target(base_url="http://name.invalid", pod_id="pod1", api_key=POD_KEY, patience_s=0.2)
    assert not terminate_once(nowhere, said.append) and len(said) == 5
    assert POD_KEY not in str(said) + repr(hanging)


def test_no_request_follows_a_redirect(make_api: Callable[..., Api]) -> None:
    elsewhere, said = make_api(), list[str]()
    api = make_api(statuses=lambda number: 302, location=f"{elsewhere.url}/v2/pods/pod1")
    assert not terminate_once(target(api), said.append)
    assert len(api.calls) == 4 and not elsewhere.calls and ways(said)["delete"] == "HTTP 302"


class Enough(BaseException):
    pass


def test_whatever_goes_wrong_it_is_tried_again(make_api: Callable[..., Api]) -> None:
    api, said = make_api(statuses=lambda number: 500), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            raise MemoryError("nothing at all works")
        if len(said) == 8:
            raise Enough

    with pytest.raises(Enough):
        terminate_for_ever(target(api), say, tick_s=0.001)
    assert said[1] == "terminate: MemoryError: nothing at all works" and len(api.calls) >= 4


def test_the_clouds_time_is_in_any_answer_and_none_is_none(make_api: Callable[..., Api]) -> None:
    api = make_api(ahead_s=-7200.0)
    found = cloud_epoch_s(api.url, 5)
    assert found is not None and abs(found - (time.time() - 7200)) < 5
    assert not api.calls, "no key was sent for it"
    api.is_open.clear()
    assert cloud_epoch_s(api.url, 0.2) is None
    assert cloud_epoch_s("http://127.0.0.1:9", 0.2) is None and cloud_epoch_s("no url", 0.2) is None


TLS = """
import sys
from pathlib import Path
from pushtrain.pod import terminate
bundle, missing, last_resorts, url = sys.argv[1:]
terminate.BUNDLES = (bundle,)
if missing:
    sys.modules["certifi"] = sys.modules["pip"] = sys.modules["pip._vendor"] = None
target = terminate.Target(base_url=url, pod_id="pod1", api_key="key1", patience_s=5)
print(terminate.terminate_once(target, print, last_resorts=bool(last_resorts)))
"""


@pytest.mark.parametrize(
    ("bundle", "missing", "last_resorts", "accepted"),
    [
        ("own", "yes", "", True),  # a bundle where Python does not look
        ("", "yes", "", False),  # no certificate at all: not before the last resorts
        ("", "yes", "yes", True),
        ("other", "yes", "yes", False),  # certificates, but not for this server: it is somebody else's
        ("", "", "yes", False),  # the same with those that pip or certifi bring
    ],
)
def test_certificates_that_an_image_has_elsewhere_or_not_at_all(
    tmp_path: Path, certificate: Path, bundle: str, missing: str, last_resorts: str, accepted: bool
) -> None:
    api = Api()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "own.pem")
    api.wrap(tls)
    env = {"PATH": "/nowhere", "SSL_CERT_FILE": "/nowhere/file", "SSL_CERT_DIR": "/nowhere/dir"}
    env["PYTHONPATH"] = str(Path(terminate.__file__).parents[2])
    path = str(certificate / f"{bundle}.crt") if bundle else "/nowhere"
    url = api.url.replace("http://127.0.0.1", "https://localhost")
    done = subprocess.run(
        [sys.executable, "-c", TLS, path, missing, last_resorts, url],
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    api.close()
    assert done.stdout.splitlines()[-1] == str(accepted), done.stdout
    assert bool(api.calls) == accepted, "a server that is not trusted gets no key"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("own", "other"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", "/CN=localhost", "-days", "2"]
        command += ["-addext", "subjectAltName=DNS:localhost"]
        if subprocess.run(command, cwd=folder, capture_output=True, env=dict(os.environ), check=False).returncode:
            pytest.skip("openssl makes the certificates of this test")
        (folder / f"{name}.pem").write_text((folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text())
    return folder

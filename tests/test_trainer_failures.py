"""Foreign exceptions become reasons a person can act on."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import ALICE, USERS, Hub, point_client_at, running_server
from huggingface_hub import HfApi

from infra.simulator.hub_store import HubStore
from pushtrain.errors import PushtrainError, SpecError
from trainer.failures import (
    HubForbidden,
    HubUnreachable,
    ModelNotFound,
    RevisionNotFound,
    exit_code,
    hub_errors,
    retried,
    translate,
)


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "OutOfMemory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "OutOfMemory"),
        (
            RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"),
            "OutOfMemory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "DiskFull"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "DiskFull"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "DiskFull"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "GpuUnavailable"),
        (
            ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install -U bitsandbytes`"),
            "GpuUnavailable",
        ),
        (
            RuntimeError("Attempted to use bitsandbytes native library functionality but it's not available."),
            "GpuUnavailable",
        ),
        (KeyError("surprise"), "TrainingFailed"),
    ],
)
def test_an_exception_gets_the_reason_a_person_acts_on(error: Exception, reason: str) -> None:
    failure = translate(error)
    assert failure.reason == reason
    assert exit_code(failure) == 1


def test_the_cause_counts_where_a_library_wraps_it() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/workspace/x")
        except OSError as full:
            raise RuntimeError("could not save") from full
    except RuntimeError as wrapped:
        assert translate(wrapped).reason == "DiskFull"


def test_the_query_of_a_signed_url_is_left_out() -> None:
    failure = translate(RuntimeError("cannot PUT 'https://hub.test/lfs/a?X-Signature=canary-secret&expires=9' twice"))
    assert str(failure) == "RuntimeError: cannot PUT 'https://hub.test/lfs/a' twice"


def test_our_own_errors_stay_what_they_are() -> None:
    error = SpecError("bad", where="jobs/a.yaml:1:1")
    assert translate(error) is error
    assert exit_code(error) == 2


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_server() as server:
        point_client_at(server.url, tmp_path / "client", monkeypatch)
        yield server.serve(HubStore(tmp_path / "hub", USERS))


def caught(hub: Hub, repo: str, revision: str = "main", token: str | bool = ALICE) -> PushtrainError:
    with pytest.raises(PushtrainError) as error, hub_errors("model it", missing=ModelNotFound):
        hub.api(token).model_info(repo, revision=revision)
    return error.value


def test_what_the_hub_answers_becomes_a_reason(hub: Hub) -> None:
    hub.alice.create_repo("demo/here")
    assert isinstance(caught(hub, "demo/absent"), ModelNotFound)
    assert isinstance(caught(hub, "demo/here", revision="v9"), RevisionNotFound)
    assert isinstance(caught(hub, "demo/here", token="canary-secret-nobody"), HubForbidden)
    hub.store.set_fault("hub_down", 1)
    assert isinstance(caught(hub, "demo/here"), HubUnreachable)


def test_a_gated_model_says_what_to_accept(hub: Hub, tmp_path: Path) -> None:
    hub.alice.create_repo("demo/gated")
    hub.alice.upload_file(repo_id="demo/gated", path_in_repo="config.json", path_or_fileobj=b"{}")
    hub.alice.update_repo_settings("demo/gated", gated="manual")
    with pytest.raises(HubForbidden) as error, hub_errors("model demo/gated", missing=ModelNotFound):
        HfApi(endpoint=hub.url, token=False).hf_hub_download("demo/gated", "config.json", cache_dir=tmp_path / "cache")
    assert "accept" in str(error.value.hint)


def test_nobody_listening_is_unreachable(unused: None = None) -> None:
    with pytest.raises(HubUnreachable), hub_errors("model it", missing=ModelNotFound):
        HfApi(endpoint="http://127.0.0.1:9", token=False).model_info("demo/tiny")


def test_retries_wait_as_told_and_end() -> None:
    waited: list[float] = []
    calls = iter([HubUnreachable("1"), HubUnreachable("2"), None])

    def action() -> str:
        if (error := next(calls)) is not None:
            raise error
        return "done"

    assert retried(action, (1.0, 2.0, 3.0), waited.append) == "done"
    assert waited == [1.0, 2.0]


def test_what_will_not_pass_is_not_tried_again() -> None:
    waited: list[float] = []

    def action() -> None:
        raise HubForbidden("no")

    with pytest.raises(HubForbidden):
        retried(action, (1.0,), waited.append)
    assert waited == []

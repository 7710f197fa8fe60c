"""Copies of checkpoints that runs left behind: found by the ledger alone, kept for a week, and no others touched."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hub_server import ALICE, USERS, Hub, running_server
from huggingface_hub import HfApi
from s3_server import Bucket, bucket

from infra.simulator.hub_store import HubStore
from pushtrain.copies.bucket import KEYS, access_to, prefix_of
from pushtrain.copies.leftover import KEPT_DAYS, leftovers, remove
from pushtrain.errors import SpecError
from pushtrain.events import Event
from pushtrain.ledger import RunRecord

SPEC = """\
version: 1
name: job
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute: {{gpus: [NVIDIA A40]}}
budget: {{max_hours: 2, max_usd: 1}}
publish: {{repo: alice/job{publish}}}
"""
ON_HUB, IN_BUCKET = ", hub_strategy: checkpoint", ", checkpoints: 's3://copies/team'"
SECRET = "canary-secret-of-the-copies"
NOW_S = 1_800_000_000.0


@pytest.fixture
def store() -> Iterator[Bucket]:
    with bucket("copies", access_key="AKIDCOPIES", secret_key=SECRET) as served:
        yield served


@pytest.fixture
def environ(store: Bucket) -> dict[str, str]:
    return {
        f"{KEYS}ACCESS_KEY_ID": store.access_key,
        f"{KEYS}SECRET_ACCESS_KEY": store.secret_key,
        f"{KEYS}ENDPOINT_URL": store.url,
    }


def record(name: str, publish: str, outcome: str | None = "failed", days: float = KEPT_DAYS + 1) -> RunRecord:
    """A run that was closed so many days ago; `outcome` None: still active."""
    time = datetime.fromtimestamp(NOW_S - days * 86400, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    state = "training" if outcome is None else "closed"
    event = Event(
        seq=1, time=time, state=state, writer="control", attempt=1, reason="", message="",
        data={"outcome": outcome}, prev=None, digest="",
    )  # fmt: skip
    receipt: Any = None if outcome is None else {"outcome": outcome}
    spec = SPEC.format(publish=publish).encode()
    return RunRecord(run_id=name, tip="", run={}, spec=spec, events=(event,), result=None, receipt=receipt, paths={})


def test_in_a_bucket_what_is_old_enough_goes_and_nothing_else(store: Bucket, environ: dict[str, str]) -> None:
    runs = [
        record("old-1", IN_BUCKET),
        record("young-1", IN_BUCKET, days=KEPT_DAYS - 0.1),
        record("active-1", IN_BUCKET, outcome=None),
        record("done-1", IN_BUCKET, outcome="succeeded", days=0.0),
        record("bare-1", ""),
        record("gone-1", IN_BUCKET),
    ]
    names = ("old-1", "young-1", "active-1", "done-1", "bare-1", "old-10", "somebody-1")
    for name in names:
        for file in ("COMPLETE.json", "adapter.bin"):
            store.objects[f"team/{name}/checkpoint-5/{file}"] = b"x"
    store.unfinished["u1"] = ("team/old-1/checkpoint-6/adapter.bin", {1: b"x"})
    found, troubles = leftovers(runs, environ, NOW_S)
    assert [(it.run_id, it.outcome) for it in found] == [("old-1", "failed"), ("done-1", "succeeded")]
    assert not troubles and "s3://copies/team/old-1/ (failed 8 days ago)" in found[0].words
    for it in found:
        remove(it, environ)
        remove(it, environ)
    assert {key.split("/")[1] for key in store.objects} == {"young-1", "active-1", "bare-1", "old-10", "somebody-1"}
    assert store.unfinished == {} and store.refused == []
    first = next(key for method, key in store.requests if method == "DELETE" and "old-1/" in key and "5" in key)
    assert first.endswith("COMPLETE.json")


def test_on_the_hub_the_branch_of_a_closed_run_goes(tmp_path: Path) -> None:
    with running_server() as server:
        hub = server.serve(HubStore(tmp_path / "hub", USERS))
        _branches(hub, "main", "checkpoint/old-1", "checkpoint/young-1", "checkpoint/somebody-1", "run/old-1")
        environ = {"HF_ENDPOINT": hub.url, "HF_TOKEN": ALICE}
        runs = [record("old-1", ON_HUB), record("young-1", ON_HUB, days=1.0), record("gone-1", ON_HUB)]
        found, troubles = leftovers(runs, environ, NOW_S)
        assert [it.run_id for it in found] == ["old-1"] and not troubles
        assert "branch checkpoint/old-1 of alice/job" in found[0].words
        remove(found[0], environ)
        remove(found[0], environ)
        left = {it.name for it in hub.alice.list_repo_refs("alice/job").branches}
        assert left == {"main", "checkpoint/young-1", "checkpoint/somebody-1", "run/old-1"}
        assert leftovers(runs, environ, NOW_S) == ([], [])
        nowhere = replace(runs[0], spec=runs[0].spec.replace(b"alice/job", b"alice/none"))
        assert leftovers([nowhere], environ, NOW_S) == ([], [])


def test_a_place_that_does_not_answer_is_said_and_keeps_no_other_from_being_looked_at(
    store: Bucket, environ: dict[str, str]
) -> None:
    store.objects["team/old-2/checkpoint-5/COMPLETE.json"] = b"x"
    found, troubles = leftovers(
        [record("old-1", ON_HUB), record("old-2", IN_BUCKET)], environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}, NOW_S
    )
    assert [it.run_id for it in found] == ["old-2"] and [it.exit_code for it in troubles] == [3]
    _, missing = leftovers([record("old-2", IN_BUCKET)], {}, NOW_S)
    assert f"{KEYS}ACCESS_KEY_ID" in str(missing[0])


def test_copies_of_a_run_whose_spec_nobody_reads_any_more_are_said_to_be_nobody_s_known() -> None:
    unread = replace(record("old-1", IN_BUCKET), spec=b"task: dance\n")
    started = replace(unread.events[0], state="provisioned")
    assert leftovers([unread], {}, NOW_S) == ([], []), "without a pod there is nothing"
    found, troubles = leftovers([replace(unread, events=(started, *unread.events))], {}, NOW_S)
    assert not found and [it.exit_code for it in troubles] == [2]
    assert "old-1: copies of its checkpoints were not looked for" in str(troubles[0])


def test_where_a_run_s_copies_lie() -> None:
    assert [prefix_of(url, "r-1") for url in ("s3://b", "s3://b/", "s3://b/x/y", "s3://b/x/")] == [
        "r-1/", "r-1/", "x/y/r-1/", "x/r-1/",
    ]  # fmt: skip
    keys = {f"{KEYS}ACCESS_KEY_ID": "a", f"{KEYS}SECRET_ACCESS_KEY": SECRET}
    amazon, other = access_to("s3://b/x", keys), access_to("s3://b/x", keys | {f"{KEYS}ENDPOINT_URL": "https://r2/"})
    assert (amazon.bucket, amazon.url, amazon.region) == ("b", "", "us-east-1")
    assert (other.url, other.region) == ("https://r2", "auto") and SECRET not in repr(other)
    with pytest.raises(SpecError, match="SECRET_ACCESS_KEY is not set"):
        access_to("s3://b", {f"{KEYS}ACCESS_KEY_ID": "a"})


def _branches(hub: Hub, *names: str) -> None:
    api: HfApi = hub.alice
    api.create_repo("alice/job", private=True)
    for name in names:
        if name != "main":
            api.create_branch("alice/job", branch=name)

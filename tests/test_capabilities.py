"""What a cloud can and cannot do: one piece of data behind check, plan, placement and docs/clouds.md."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from infra.clouds import CLIENTS, connect, connect_all
from infra.clouds.modal.shapes import LONGEST_S
from infra.simulator.others import OTHERS
from infra.start import _ENDS
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD, CloudName, losing
from pushtrain.capability_table import table
from pushtrain.errors import CloudAuthFailed, RequestRejected, SpecError
from pushtrain.fleet import Fleet, member
from pushtrain.pod.place import PLACES
from pushtrain.pod.terminate import _WAYS
from pushtrain.prices import storage_usd_per_month
from pushtrain.redact import SECRET_NAMES
from pushtrain.spec import JobSpec
from pushtrain.spec.compute import Compute, named_clouds
from pushtrain.spec.file import loads
from pushtrain.spec.unmet import outlived, unmet

PAGE = Path(__file__).parent.parent / "docs" / "clouds.md"
BOTH = {"RUNPOD_API_KEY": "rpa_0123456789abcdef", "VAST_API_KEY": "0123456789abcdef"}
KEYS = {can.key_name: "0123456789abcdef" for can in CLOUDS.values()} | {"MODAL_TOKEN_ID": "ak-0123456789abcdef"}


def test_the_table_of_the_page_is_what_the_code_says() -> None:
    _, _, after = PAGE.read_text(encoding="utf-8").partition(f"\n\n{table()[0]}\n")
    written = [table()[0], *after.partition("\n\n")[0].splitlines()]
    assert written == table(), "the table should be\n" + "\n".join(table())


def test_each_cloud_has_a_client_of_that_name_and_steps_to_a_first_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, can in CLOUDS.items():
        assert connect(name, KEYS).name == name
        _, _, steps = page.partition(f"\n## {can.title}\n")
        assert [line[:3] for line in steps.partition("\n## ")[0].splitlines() if line[:1].isdigit()] == [
            f"{number}. " for number in range(1, 6)
        ]


def test_what_a_spec_may_name_is_what_has_data() -> None:
    assert list(get_args(CloudName)) == list(CLOUDS)
    assert named_clouds("any") == list(CLOUDS) and named_clouds("vast") == ["vast"]
    with pytest.raises(SpecError):
        connect("cumulus", KEYS)


def test_a_cloud_is_in_every_table() -> None:
    """docs/architecture.md, "How to add a cloud"."""
    others = [name for name in CLOUDS if name != DEFAULT_CLOUD]
    assert list(CLIENTS) == list(PLACES) == list(_WAYS) == list(_ENDS) == list(CLOUDS) and list(OTHERS) == others
    workflow = (PAGE.parents[1] / ".github" / "workflows" / "train.yml").read_text(encoding="utf-8")
    for name, can in CLOUDS.items():
        assert can.pod is PLACES[name] and can.pod.cloud == name
        assert can.key_name in SECRET_NAMES and f"{can.key_name}: ${{{{ secrets.{can.key_name} }}}}" in workflow
        assert not can.pod.api_key or can.pod.api_key in SECRET_NAMES
        assert can.own_disk_usd == storage_usd_per_month("DISK", 1, name)


def test_on_runpod_only_community_machines_lose_what_was_written() -> None:
    assert losing("runpod", ["SECURE", "COMMUNITY"]) == ["COMMUNITY"] and losing("runpod", ["SECURE"]) == []
    assert list(unmet("runpod", tiers=["SECURE"], keeps_volume=True, data_centers=True, template=True)) == []
    (said,) = unmet("runpod", tiers=["SECURE", "COMMUNITY"], keeps_volume=True)
    assert said == "tiers has COMMUNITY, whose machines take no network volume: volume.keep needs SECURE"


def test_only_a_budget_of_more_hours_than_a_pod_may_live_is_warned_of() -> None:
    assert CLOUDS["modal"].longest_s == 86400 == LONGEST_S
    assert [name for name in CLOUDS if outlived(name, max_hours=24.1, restart=True)] == ["modal"]
    assert outlived("modal", max_hours=24, restart=True) is None
    assert "goes on" in str(outlived("modal", max_hours=120, restart=True))
    assert "fails" in str(outlived("modal", max_hours=120, restart=False))


def test_what_vast_does_not_have_is_an_error_of_the_spec() -> None:
    assert losing("vast", ["SECURE", "COMMUNITY"]) == ["SECURE", "COMMUNITY"]
    asked = {"tiers": ["SECURE"], "keeps_volume": True, "data_centers": True, "template": True}
    said = list(unmet("vast", **asked, ports=["22/tcp", "8888/http"]))  # type: ignore[arg-type]
    assert [line.partition(" ")[0].rstrip(":") for line in said] == ["tiers", "data_centers", "template", "ports"]
    for changed in ({"data_centers": ["EU-SE-1"]}, {"template": "abc"}, {"ports": ["8888/http"]}):
        with pytest.raises(ValidationError, match=r"Vast\.ai"):
            Compute.model_validate({"cloud": "vast", "gpus": ["NVIDIA A40"], **changed})
    assert Compute.model_validate({"cloud": "vast", "gpus": ["NVIDIA A40"], "ports": ["8888/tcp"]}).cloud == "vast"


def test_what_jarvislabs_does_not_have_is_an_error_of_the_spec() -> None:
    there = {"cloud": "jarvislabs", "gpus": ["NVIDIA L4"], "data_centers": ["india-noida-01"], "ports": ["8888/http"]}
    taken = Compute.model_validate(there)
    assert taken.asked_image is None and taken.image_in_words == "the image of JarvisLabs' framework pytorch"
    for changed, said in (
        ({"image": "acme/train:1"}, "no image of one's own"),
        ({"template": "abc"}, "template"),
        ({"ports": ["22/tcp"]}, "opens no such ports: ask for /http"),
        ({"tiers": ["COMMUNITY"]}, "does not rent out"),
        ({"volume": {"size_gb": 4096}}, "2048 GB at most"),
        ({"data_centers": ["EU-SE-1"]}, "look like india-noida-01"),
    ):
        with pytest.raises(ValidationError, match=said):
            Compute.model_validate({**there, **changed})
    assert storage_usd_per_month("STANDARD", 10, "jarvislabs") == storage_usd_per_month("STANDARD", 50, "jarvislabs")


def test_an_image_is_told_for_each_cloud_that_may_get_the_pod() -> None:
    either = Compute.model_validate({"cloud": ["runpod", "jarvislabs"], "gpus": ["NVIDIA L4"]})
    framework = "the image of JarvisLabs' framework pytorch"
    assert either.asked_image is None and either.image_in_words == f"{either.image} or {framework}"
    assert (either.at("runpod").asked_image, either.at("jarvislabs").asked_image) == (either.image, None)
    assert either.at("jarvislabs").image_in_words == framework


def test_one_key_is_one_client_and_both_are_a_fleet_that_knows_whose_id_it_is() -> None:
    runpod, vast = ({name: BOTH[name]} for name in BOTH)
    assert [connect_all(environ).name for environ in (runpod, vast, BOTH)] == ["runpod", "vast", "fleet"]
    both = connect_all(BOTH)
    assert isinstance(both, Fleet) and list(both.members) == ["runpod", "vast"]
    assert member(both, "vast").name == "vast" and member(connect_all(runpod), "runpod").name == "runpod"
    for missing in (connect_all(runpod), connect_all(vast)):
        with pytest.raises(CloudAuthFailed, match="_API_KEY is not set"):
            member(missing, "vast" if missing.name == "runpod" else "runpod")
    with pytest.raises(CloudAuthFailed, match="RUNPOD_API_KEY"):
        connect_all({})
    with pytest.raises(RequestRejected):
        both.offers()


def test_what_modal_does_not_have_is_an_error_of_the_spec_and_its_volumes_cost_what_modal_takes() -> None:
    asked = {"data_centers": True, "template": True, "ports": ["22/tcp", "8888/http"], "ssh": True}
    said = [line.partition(" ")[0].rstrip(":") for line in unmet("modal", tiers=["SECURE"], **asked)]  # type: ignore[arg-type]
    assert said == ["data_centers", "template", "ports", "ports", "ssh"] and losing("modal", ["SECURE"]) == []
    with pytest.raises(ValidationError, match="Modal"):
        Compute.model_validate({"cloud": "modal", "gpus": ["NVIDIA L4"], "ssh": True})
    with pytest.raises(SpecError, match="nobody can log in at Modal"):
        _session("modal")
    assert _session("runpod").task == "session"
    assert Compute.model_validate({"cloud": "modal", "gpus": ["NVIDIA L4"]}).ssh, "the default asks, and gets nothing"
    assert storage_usd_per_month("STANDARD", 100, "modal") == pytest.approx(9.0)
    assert storage_usd_per_month("STANDARD", 100) == pytest.approx(7.0)


def _session(cloud: str) -> JobSpec:
    text = (PAGE.parents[1] / "jobs" / "dev-session.yaml").read_text(encoding="utf-8")
    return loads(text.replace("cloud: runpod ", f"cloud: {cloud} "), "jobs/dev-session.yaml", check_name=False)

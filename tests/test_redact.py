"""No secret survives `redact`, in whatever spelling, and what is no secret stays."""

import json

import pytest

from pushtrain.redact import SECRET_NAMES, redact, secret_values

CANARY = "canary-secret-0123"


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_value_of_every_secret_variable_is_masked(name: str) -> None:
    assert redact(f"a {CANARY} b{CANARY}", {name: CANARY}) == "a *** b***"
    assert redact(f"a {CANARY} b", {name: f" {CANARY}\n"}) == "a *** b"


@pytest.mark.parametrize(
    "value", ['canary-"quoted"', "canary-back\\slash", "canary-ünïcode", "canary a/b+c&d", "canary\nx"]
)
def test_a_value_is_masked_in_text_in_json_and_in_a_url(value: str) -> None:
    environ = {"PULUMI_CONFIG_PASSPHRASE": value}
    for document in (json.dumps({"a": value}), json.dumps({"a": value}, ensure_ascii=False)):
        masked = redact(document, environ)
        assert json.loads(masked) == {"a": "***"}
    assert redact(f"<{value}>", environ) == "<***>"
    from urllib.parse import quote

    assert "canary" not in redact(f"https://host/?q={quote(value, safe='')}", environ)


def test_a_value_inside_another_leaves_no_rest() -> None:
    environ = {"HF_TOKEN": CANARY, "GITHUB_TOKEN": CANARY + "-longer"}
    assert secret_values(environ) == [CANARY + "-longer", CANARY]
    assert redact(f"{CANARY}-longer {CANARY}", environ) == "*** ***"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:canary-secret@host/x",
        "https://user:canary-secret@with-at@host/x",
        "GET /x?api_key=canary-secret&b=1",
        "Authorization: Bearer canary-secret-0123456789",
        "authorization: basic Y2FuYXJ5LXNlY3JldA==canary",
        "key rpa_canary0123456789",
        "hf_canary0123456789 and ghp_canary0123456789 and github_pat_canary0123456789",
        "pul-canary0123456789",
    ],
)
def test_what_has_the_shape_of_a_secret_is_masked_without_being_known(text: str) -> None:
    masked = redact(text, {})
    assert "canary" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text",
    [
        "loss 2.5 at step 3, tokens_per_s 100",
        "see https://github.com/owner/repo.git and git@github.com:owner/repo",
        "a commit 0123456789abcdef0123456789abcdef01234567",
        "the token was refused; set HF_TOKEN",
        "",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, {"HF_TOKEN": "", "GITHUB_TOKEN": "abc"}) == text

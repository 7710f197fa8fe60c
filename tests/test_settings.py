"""Settings of a work tree: from its remote and the environment; nothing secret in a URL."""

from pathlib import Path

import pytest
from git import Repo

from pushtrain.errors import PushtrainError, SpecError
from pushtrain.settings import Settings, load_settings


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "repo"
    Repo.init(root).close()
    return root


def origin(root: Path, url: str) -> None:
    with Repo(root) as repo, repo.config_writer() as config:
        config.set_value('remote "origin"', "url", url)


def test_the_origin_is_source_and_ledger(root: Path) -> None:
    origin(root, "https://github.com/o/r.git")
    settings = load_settings(root, {})
    assert (settings.source_url, settings.ledger_url) == ("https://github.com/o/r.git",) * 2
    assert (settings.root, settings.state_dir, settings.ledger_token) == (root, root / ".pushtrain", None)
    assert settings.tick_s == Settings.tick_s


def test_the_environment_comes_first(root: Path) -> None:
    origin(root, "https://github.com/o/r.git")
    settings = load_settings(
        root,
        {
            "PUSHTRAIN_SOURCE_URL": "git@host:o/r.git",
            "PUSHTRAIN_LEDGER_URL": "ssh://git@host/o/runs",
            "PUSHTRAIN_STATE_DIR": "state",
            "PUSHTRAIN_TICK_S": "2.5",
        },
    )
    assert (settings.source_url, settings.ledger_url) == ("git@host:o/r.git", "ssh://git@host/o/runs")
    assert (settings.state_dir, settings.tick_s) == (root / "state", 2.5)
    assert load_settings(root, {"PUSHTRAIN_SOURCE_URL": "git@host:o/r.git"}).ledger_url == "git@host:o/r.git"


def test_a_folder_below_the_work_tree_is_the_same_work_tree(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    origin(root, "../remote.git")
    assert load_settings(root / "a" / "b", {}) == load_settings(root, {})


@pytest.mark.parametrize(
    "url", ["https://u:canary-secret@h/o/r", "https://canary-secret@h/o/r", "https://u:canary@secret@h/o/r"]
)
def test_no_credential_stays_in_a_url(root: Path, url: str) -> None:
    origin(root, url)
    settings = load_settings(root, {"PUSHTRAIN_LEDGER_URL": url})
    assert (settings.source_url, settings.ledger_url) == ("https://h/o/r",) * 2
    assert "canary" not in str(settings)


@pytest.mark.parametrize("url", ["../remote.git", "./../remote.git", "{0}/remote.git", "{0}/x/../remote.git"])
def test_every_way_to_write_a_folder_is_one_url(root: Path, url: str) -> None:
    origin(root, url.format(root.parent))
    assert load_settings(root, {}).ledger_url == f"file://{root.parent.resolve()}/remote.git"


def test_a_token_goes_to_the_host_it_is_for(root: Path) -> None:
    tokens = {"GITHUB_TOKEN": "canary-secret-github"}
    origin(root, "https://github.com/o/r")
    assert load_settings(root, tokens).ledger_token == "canary-secret-github"
    assert load_settings(root, {**tokens, "PUSHTRAIN_LEDGER_TOKEN": " mine\n"}).ledger_token == "mine"
    origin(root, "https://gitlab.example/o/r")
    assert load_settings(root, tokens).ledger_token is None
    assert load_settings(root, {**tokens, "GITHUB_SERVER_URL": "https://gitlab.example"}).ledger_token is not None
    assert load_settings(root, {"PUSHTRAIN_LEDGER_TOKEN": "mine"}).ledger_token == "mine"
    assert "mine" not in repr(load_settings(root, {"PUSHTRAIN_LEDGER_TOKEN": "mine"}))


def test_without_a_remote_it_says_what_to_do(root: Path) -> None:
    with pytest.raises(PushtrainError, match="no git remote") as caught:
        load_settings(root, {})
    assert caught.value.reason == "NoRemote"
    assert "git remote add origin" in (caught.value.hint or "")


@pytest.mark.parametrize("folder", ["plain", "plain/gone"])
def test_outside_a_work_tree_it_says_so(root: Path, folder: str) -> None:
    (root.parent / "plain").mkdir()
    with pytest.raises(SpecError, match="not inside a git work tree"):
        load_settings(root.parent / folder, {})


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
@pytest.mark.parametrize("name", ["PUSHTRAIN_TICK_S", "PUSHTRAIN_BOOT_LIMIT_S", "PUSHTRAIN_TEARDOWN_WAIT_S"])
def test_a_time_that_is_none_is_named(root: Path, name: str, value: str) -> None:
    origin(root, "https://h/o/r")
    with pytest.raises(PushtrainError, match=name):
        load_settings(root, {name: value})

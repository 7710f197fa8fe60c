"""Names of a run: computed, bounded, and one mark for one ledger."""

import random
import string

import pytest

from pushtrain.run import RUN_ID, Run, ledger_prefix, resource_prefix, spec_digest
from pushtrain.spec import NAME

SHA = "0123456789abcdef0123456789abcdef01234567"
URL = "https://github.com/owner/repo"


def run(job: str = "job", commit: str = SHA, digest: str = "89abcdef" * 8, url: str = URL) -> Run:
    return Run(job=job, commit=commit, spec_digest=digest, ledger_url=url)


def job_names() -> list[str]:
    """Random names the spec accepts: every length, dashes anywhere, some that look like the end of a run id."""
    rng = random.Random(5)
    letters = string.ascii_lowercase + string.digits
    names = ["".join(rng.choices(letters + "---", k=length)) for length in range(1, 42) for _ in range(8)]
    return [name for name in [*names, "a", "a" * 41, "a-01234567-89abcdef", "0-0", "a-"] if NAME.fullmatch(name)]


def test_every_name_fits_and_leads_back_to_the_job() -> None:
    for job in job_names():
        it = run(job)
        match = RUN_ID.fullmatch(it.id)
        assert match is not None
        assert (match["job"], match["commit"], match["spec"]) == (job, SHA[:8], "89abcdef")
        assert len(it.pod_name(999_999)) <= 60
        assert it.resource_prefix == resource_prefix(it.id, URL)
        assert it.pod_name(1).startswith(it.resource_prefix + "-")
        assert it.volume_name.startswith(it.resource_prefix + "-")
        assert it.resource_prefix.startswith(ledger_prefix(URL))


def test_no_two_runs_share_a_name() -> None:
    jobs = set(job_names())
    runs = [run(job, digest=spec_digest({"name": job})) for job in jobs] + [run(digest="1" * 64), run(commit="f" * 40)]
    for names in ({it.id for it in runs}, {it.resource_prefix for it in runs}, {it.stack for it in runs}):
        assert len(names) == len(runs)


@pytest.mark.parametrize(
    "text",
    [
        "job-01234567-89abcdef\n",
        "\njob-01234567-89abcdef",
        "job-01234567-89ABCDEF",
        "job-0123456-89abcdef",
        "-job-01234567-89abcdef",
        "job_1-01234567-89abcdef",
        "../x-01234567-89abcdef",
        "a" * 42 + "-01234567-89abcdef",
        "",
    ],
)
def test_what_is_no_run_id_names_nothing(text: str) -> None:
    assert RUN_ID.fullmatch(text) is None
    with pytest.raises(ValueError, match="not a run id"):
        resource_prefix(text, URL)


@pytest.mark.parametrize(
    "url",
    [
        f"{URL}.git",
        f"{URL}/",
        f"{URL}.git/",
        " https://github.com/owner/repo\n",
        "https://user:pass@github.com/owner/repo.git",
        "https://x-access-token:p@ss@github.com/owner/repo",
        "https://github.com:443/owner/repo",
        "https://GitHub.com/Owner/Repo",
        "ssh://git@github.com/owner/repo.git",
        "ssh://git@github.com:22/owner/repo",
        "git@github.com:owner/repo.git",
        "git@github.com:/owner/repo",
        "github.com:owner/repo",
    ],
)
def test_one_repository_has_one_mark_however_its_url_is_written(url: str) -> None:
    assert ledger_prefix(url) == ledger_prefix(URL)


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/owner/repo-runs",
        "https://gitlab.com/owner/repo",
        "https://github.com:8443/owner/repo",
        "https://github.com/other/repo",
        "file:///owner/repo",
    ],
)
def test_two_repositories_have_two_marks(url: str) -> None:
    assert ledger_prefix(url) != ledger_prefix(URL)


def test_a_folder_has_one_mark_and_keeps_its_capitals() -> None:
    assert ledger_prefix("file:///srv/Ledger.git") == ledger_prefix("/srv/Ledger/") == ledger_prefix("/srv/Ledger")
    assert ledger_prefix("/srv/Ledger") != ledger_prefix("/srv/ledger")


def test_a_digest_is_of_what_is_meant_not_of_how_it_is_written() -> None:
    assert spec_digest({"a": 1, "b": [1, 2]}) == spec_digest({"b": [1, 2], "a": 1})
    assert len({spec_digest(it) for it in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1]}, {"a": 1, "b": None})}) == 5

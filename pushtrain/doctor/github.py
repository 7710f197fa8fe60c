"""What GitHub itself has to hold: the branch, the environment with its secrets, Actions that are off in the ledger."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pushtrain.capabilities import CLOUDS
from pushtrain.doctor.finding import Check, Finding, Place
from pushtrain.doctor.hub import published
from pushtrain.doctor.tools import train_workflow, wanted_keys
from pushtrain.errors import GitHubError, GitHubNotFound, GitHubRefused
from pushtrain.github.client import PUBLIC_API, GitHub, part

_LOG_IN = "GITHUB_TOKEN=$(gh auth token) pushtrain doctor"
# A rule of one of these keeps a plain push off the branch.
_CLOSING = ("pull_request", "update")


def branch_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Whether a plain push can start a job. Raises GitHubError."""
    branch = train_workflow(place.root).branch
    repo, github = _opened(place, place.settings.source_url)
    if github is None:
        yield _unseen(check, place.settings.source_url, repo)
        return
    fix = f"https://github.com/{repo}/settings/rules/new?target=branch: require a pull request for {branch}"
    rules = list(github.pages(f"rules/branches/{part(branch)}"))
    kinds = {str(rule.get("type")) for rule in rules if isinstance(rule, Mapping)}
    if not kinds & set(_CLOSING):
        if github.get(f"branches/{part(branch)}").get("protected"):
            message = f"{branch} has a classic protection; whom it lets through cannot be seen"
            yield check.warning(message, fix)
        else:
            yield check.wrong(f"whoever may push can push to {branch}: a job needs no review there", fix)
        return
    yield check.ok(f"{branch} takes {'pull requests only' if 'pull_request' in kinds else 'no plain push'}")
    if {"non_fast_forward", "deletion"} - kinds:
        message = f"{branch} can be rewritten or deleted by who may bypass a pull request"
        yield check.warning(message, f"https://github.com/{repo}/settings/rules: block force pushes and deletions")
    approval = place.wanted and place.wanted.policy.policy and place.wanted.policy.policy.approval
    last_push = [(rule.get("parameters") or {}).get("require_last_push_approval") for rule in rules]
    if approval and not any(last_push):
        message = "the policy asks for approvals, and nothing requires one of the most recent push"
        yield check.warning(message, f"https://github.com/{repo}/settings/rules: the box of that name")


def environment_findings(place: Place, check: Check) -> Iterator[Finding]:
    """The environment of train.yml: there, for one branch only, with what is needed in it. Raises GitHubError."""
    train = train_workflow(place.root)
    repo, github = _opened(place, place.settings.source_url)
    if github is None:
        yield _unseen(check, place.settings.source_url, repo)
        return
    name, at = train.environment, f"environments/{part(train.environment)}"
    page = f"https://github.com/{repo}/settings/environments"
    try:
        found = github.get(at)
    except GitHubNotFound:
        fix = f'gh api -X PUT repos/{repo}/{at} -F "deployment_branch_policy[protected_branches]=false" '
        fix += '-F "deployment_branch_policy[custom_branch_policies]=true"'
        message = f"there is no environment {name}: GitHub would make one that every branch may use"
        yield check.wrong(message, fix)
        return
    yield _branches_of(check, github, found, name, train.branch, repo)
    try:
        yield from _secrets(place, check, github, at, name)
    except (GitHubRefused, GitHubNotFound):
        yield check.unknown("this token may not list the names of secrets", f"{page}, or {_LOG_IN} as an admin")
    try:
        enabled = github.get("actions/variables/PUSHTRAIN_ENABLED").get("value")
    except GitHubNotFound:
        enabled = None
    except GitHubRefused:
        yield check.unknown("this token may not read variables", f"{_LOG_IN} as an admin")
        return
    if enabled != "true":
        fix = "gh variable set PUSHTRAIN_ENABLED --body true"
        yield check.warning("PUSHTRAIN_ENABLED is not 'true': train.yml does nothing yet", fix)
    else:
        yield check.ok("train.yml is switched on")


def ledger_repository_findings(place: Place, check: Check) -> Iterator[Finding]:
    """A ledger of its own has Actions off: what a pod pushes there then starts nothing. Raises GitHubError."""
    if place.settings.ledger_url == place.settings.source_url:
        yield check.warning(
            "the ledger is the repository itself: the pod's token may push branches of it",
            "a second repository, and PUSHTRAIN_LEDGER_URL (README, step 2)",
        )
        return
    repo, github = _opened(place, place.settings.ledger_url)
    if github is None:
        yield _unseen(check, place.settings.ledger_url, repo)
        return
    fix = f"gh api -X PUT repos/{repo}/actions/permissions -F enabled=false"
    try:
        enabled = github.get("actions/permissions").get("enabled")
    except (GitHubRefused, GitHubNotFound):
        yield check.unknown(f"this token may not see whether Actions are off in {repo}", f"{_LOG_IN} as an admin")
        return
    if enabled:
        yield check.wrong(f"Actions are on in {repo}: a pod's token could push a workflow that runs", fix)
    else:
        yield check.ok(f"Actions are off in {repo}")


def bypass(place: Place, token: str) -> tuple[str, bool | None]:
    """The branch that trains, and whether `token` can push to it past its rules; None where GitHub does not say.

    A ruleset says `current_user_can_bypass` of whoever asks, so it is the pod's own token that asks.
    """
    branch, repo = train_workflow(place.root).branch, repository(place.settings.source_url, place.environ)
    if repo is None:
        return branch, None
    github = _client(place, repo, token)
    try:
        rules = [it for it in github.pages(f"rules/branches/{part(branch)}") if it.get("type") in _CLOSING]
        if not rules:
            return branch, None if github.get(f"branches/{part(branch)}").get("protected") else True
        said = [github.get(f"rulesets/{int(it['ruleset_id'])}").get("current_user_can_bypass") for it in rules]
    except (GitHubError, KeyError, ValueError):
        return branch, None
    finally:
        github.close()
    return branch, False if "never" in said else True if all(it in ("always", "exempt") for it in said) else None


def repository(url: str, environ: Mapping[str, str]) -> str | None:
    """OWNER/NAME of a URL on that GitHub, by https or ssh."""
    host = urlsplit(environ.get("GITHUB_SERVER_URL") or "https://github.com").netloc
    match = re.fullmatch(rf"(?:https?://|ssh://git@|git@){re.escape(host)}[/:]([^/]+/[^/]+?)(?:\.git)?/?", url)
    return match[1] if match else None


def _opened(place: Place, url: str) -> tuple[str | None, GitHub | None]:
    token, repo = place.environ.get("GITHUB_TOKEN", "").strip(), repository(url, place.environ)
    return repo, _client(place, repo, token) if token and repo else None


def _client(place: Place, repo: str, token: str) -> GitHub:
    return GitHub(repo, token=token, api_url=place.environ.get("GITHUB_API_URL") or PUBLIC_API, retries=1)


def _unseen(check: Check, url: str, repo: str | None) -> Finding:
    if repo is None:
        return check.unknown(f"{url} is not on GitHub: its rules are not looked at")
    return check.unknown(f"without GITHUB_TOKEN nobody can see it of {repo}", _LOG_IN)


def _branches_of(
    check: Check, github: GitHub, found: Mapping[str, Any], name: str, branch: str, repo: str | None
) -> Finding:
    policy = found.get("deployment_branch_policy")
    page = f"https://github.com/{repo}/settings/environments"
    if not policy:
        message = f"every branch may use the environment {name}: who may push could take its secrets"
        return check.wrong(message, f"{page}: deployment branches, {branch} only")
    if policy.get("protected_branches"):
        return check.ok(f"{name} is for protected branches only")
    at = f"environments/{part(name)}/deployment-branch-policies"
    allowed = [str(it.get("name")) for it in github.get(at, per_page=100).get("branch_policies", [])]
    if allowed != [branch]:
        said = ", ".join(allowed) or "no branch"
        fix = f"{page}, or: gh api -X POST repos/{repo}/{at} -f name={branch}"
        return check.wrong(f"{name} is for {said}, and has to be for {branch} alone", fix)
    reviewed = any(it.get("type") == "required_reviewers" for it in found.get("protection_rules") or [])
    return check.ok(f"{name} is for {branch} alone{', with reviewers' if reviewed else ''}")


def _secrets(place: Place, check: Check, github: GitHub, at: str, name: str) -> Iterator[Finding]:
    needed = {"PUSHTRAIN_LEDGER_TOKEN", *wanted_keys(place.specs)}
    if any(published(spec) for spec in place.specs):
        needed.add("HF_TOKEN")
    there = _names(github.get(f"{at}/secrets", per_page=100))
    for absent in sorted(needed - there):
        yield check.wrong(f"{name} has no secret {absent}", f"gh secret set {absent} --env {name}")
    for spec in place.specs:
        if len(several := spec.compute.clouds) > 1 and not any(
            there.issuperset(CLOUDS[it].key_names) for it in several
        ):
            some = " or ".join(" and ".join(CLOUDS[it].key_names) for it in several)
            fix = f"gh secret set {CLOUDS[several[0]].key_name} --env {name}, or another's"
            yield check.wrong(f"{name} has the key of no cloud that {spec.name} may go to: {some}", fix)
    if needed <= there:
        yield check.ok(f"{name} has {', '.join(sorted(needed))}")
    ours = needed | {key for can in CLOUDS.values() for key in can.key_names}
    for loose in sorted(ours & _names(github.get("actions/secrets", per_page=100))):
        message = f"{loose} is a secret of the whole repository: a workflow on any branch can read it"
        yield check.wrong(message, f"gh secret delete {loose}")


def _names(answer: Mapping[str, Any]) -> set[str]:
    return {str(it.get("name")) for it in answer.get("secrets", [])}

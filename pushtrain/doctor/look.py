"""All checks side by side: each on a thread of its own, none waits for another, none holds the answer up for ever."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pushtrain.capabilities import CLOUDS
from pushtrain.desired import desired
from pushtrain.doctor.clouds import cloud_findings, ssh_findings
from pushtrain.doctor.finding import SPEC, Check, Finding, Place
from pushtrain.doctor.github import branch_findings, environment_findings, ledger_repository_findings
from pushtrain.doctor.hub import hub_findings
from pushtrain.doctor.ledger import ledger_findings, source_findings
from pushtrain.doctor.services import engine_findings, volume_findings
from pushtrain.doctor.tools import tool_findings, workflow_findings
from pushtrain.errors import PushtrainError
from pushtrain.redact import redact
from pushtrain.settings import NO_REMOTE, Settings, load_settings

LIMIT_S = 90.0
Work = Callable[[Place, Check], Iterator[Finding]]


def look(root: Path, environ: Mapping[str, str], limit_s: float = LIMIT_S) -> list[Finding]:
    """Every finding, in the order of CHECKS. Raises PushtrainError outside a git work tree."""
    settings = _settings(root, environ)
    try:
        wanted = desired(settings.root)
    except PushtrainError:
        wanted = None
    return carried_out(CHECKS, Place(settings=settings, environ=environ, wanted=wanted), limit_s)


def _settings(root: Path, environ: Mapping[str, str]) -> Settings:
    """Without a remote its URLs are empty: what needs none is looked at all the same."""
    try:
        return load_settings(root, environ)
    except PushtrainError as failure:
        if failure.reason != NO_REMOTE:
            raise
    told = load_settings(root, {**environ, "PUSHTRAIN_SOURCE_URL": "file:///no-remote"})
    has_ledger = bool(environ.get("PUSHTRAIN_LEDGER_URL"))
    return replace(told, source_url="", ledger_url=told.ledger_url if has_ledger else "")


def carried_out(checks: Mapping[str, Work], place: Place, limit_s: float) -> list[Finding]:
    """What each check found within `limit_s`; one that takes longer keeps what it has said, and that it is not done."""
    found: dict[str, list[Finding]] = {name: [] for name in checks}

    def run(name: str, work: Work) -> None:
        for it in _guarded(work, place, Check(name)):
            found[name].append(it)

    threads = {
        name: threading.Thread(target=run, args=(name, work), name=f"doctor: {name}", daemon=True)
        for name, work in checks.items()
    }
    for thread in threads.values():
        thread.start()
    end_s = time.monotonic() + limit_s
    for name, thread in threads.items():
        thread.join(max(0.0, end_s - time.monotonic()))
        if thread.is_alive():
            late = Check(name).wrong(f"not done within {limit_s:g} s", "see whether it can be reached, then look again")
            found[name] = [*found[name], late]
    return [it for each in found.values() for it in each]


def _guarded(work: Work, place: Place, check: Check) -> Iterator[Finding]:
    """A failure of one check is a finding of that check."""
    try:
        needs_source, needs_ledger = work in NEED_SOURCE, work in NEED_LEDGER
        if (needs_source and not place.settings.source_url) or (needs_ledger and not place.settings.ledger_url):
            yield check.unknown("not looked at: there is no git remote")
            return
        yield from work(place, check)
    except PushtrainError as failure:
        said = redact(str(failure), place.environ)
        yield check.wrong(said, redact(failure.hint or "", place.environ), failure.exit_code)
    except Exception as bug:  # noqa: BLE001  the other checks still have something to say
        said = redact(f"the check itself failed: {type(bug).__name__}: {bug}", place.environ)
        yield check.wrong(said, "a bug of pushtrain: report it with this line", 1)


def job_findings(place: Place, check: Check) -> Iterator[Finding]:
    wanted = place.wanted or desired(place.root)
    for problem in wanted.problems:
        yield check.wrong(str(problem), problem.hint or "pushtrain check", SPEC)
    for rule in wanted.policy.problems:
        yield check.wrong(f"{rule.where}: {rule.message}", rule.hint or "pushtrain check", SPEC)
    held = len(wanted.jobs) - len(place.specs)
    more = f", {held} of them suspended" if held else ""
    if not wanted.problems and not wanted.policy.problems:
        yield check.ok(f"{len(wanted.jobs)} at HEAD{more}; the policy can be read")
    if not wanted.policy.exists:
        yield check.warning("there is no pushtrain-policy.yaml: nothing limits what a job may cost", "pushtrain init")


CHECKS: Mapping[str, Work] = {
    "tools": tool_findings,
    "jobs": job_findings,
    "workflows": workflow_findings,
    **dict.fromkeys(CLOUDS, cloud_findings),
    "hub": hub_findings,
    "ledger": ledger_findings,
    "source": source_findings,
    "ssh": ssh_findings,
    "volumes": volume_findings,
    "branch": branch_findings,
    "environment": environment_findings,
    "ledger's Actions": ledger_repository_findings,
    "engine": engine_findings,
}


NEED_SOURCE: tuple[Work, ...] = (branch_findings, environment_findings)
NEED_LEDGER: tuple[Work, ...] = (ledger_findings, ledger_repository_findings)


def shown(findings: Sequence[Finding]) -> str:
    wrong = sum(it.verdict == "wrong" for it in findings)
    warnings = sum(it.verdict == "warning" for it in findings)
    unknown = sum(it.verdict == "unknown" for it in findings)
    return f"{wrong} wrong, {warnings} to make safer, {unknown} that cannot be told from here"

"""One tick: make the world match HEAD. Level-triggered: running it twice, late, or after a crash anywhere is safe.

    desired  every spec in jobs/ at HEAD          observed  what the cloud lists, then every branch runs/* of the ledger
    claim    specs nobody has claimed             advance   each run without a receipt, as far as it goes now
    sweep    what carries this ledger's mark and no active run owns

The cloud is listed before the ledger is read, always: what is listed and unclaimed is then really unowned, and a pod
that is not listed had already written its last word.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from pushtrain.claim import claim_new
from pushtrain.cloud import Live, Pod, Volume
from pushtrain.control import Control
from pushtrain.desired import Desired
from pushtrain.errors import CloudAuthFailed, LedgerError, PushtrainError, StackLocked
from pushtrain.events import EventDraft
from pushtrain.fleet import Listing, cloud_of, listing
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import Step, next_step
from pushtrain.lookup import read_each
from pushtrain.provision import adopt, provision
from pushtrain.receipt import settle
from pushtrain.redact import redact
from pushtrain.rented import note_unnamed
from pushtrain.run import RESOURCE_PREFIX, RUN_ID, Run
from pushtrain.several import clouds_of, found_again, left_at, look_again
from pushtrain.signs import last_step_s, look
from pushtrain.source import Source
from pushtrain.spec.file import loads
from pushtrain.sweep import of_ledger, remove_orphans, tell_spare
from pushtrain.teardown import destroy, names, remove_late
from pushtrain.twins import attempt_of, one_pod

# How often a silent pod's log is read, and a run without a place is tried again, by one process.
LOOK_EVERY_S = TRY_EVERY_S = 60.0
# How long one tick waits for what it sweeps: the next one goes on.
SWEEP_WAIT_S = 10.0


@dataclass(kw_only=True)
class Tick:
    """What one tick did. `failures` hold everything that went wrong; the worst one gives the exit code. `waiting` are
    the active runs that only wait for a place, with the time since when. `commit` is HEAD's, `records` what the ledger
    said of every run that was looked at, before anything was done."""

    commit: str = ""
    records: dict[str, RunRecord] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    waiting: dict[str, float] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)
    failures: list[PushtrainError] = field(default_factory=list)

    @property
    def is_worth_following(self) -> bool:
        """Some active run does more than wait for a place."""
        return bool(set(self.active) - set(self.waiting))

    @property
    def exit_code(self) -> int:
        failed_run = any(outcome == "failed" for outcome in self.closed.values())
        return max([failure.exit_code for failure in self.failures] + [1 if failed_run else 0])


def tick(control: Control, *, only: str | None = None, may_claim: bool = True) -> Tick:
    """One pass over everything; with `only`, over the runs of one job (nothing else is claimed, advanced or swept).

    Raises LedgerUnavailable or CloudError when desired and observed state cannot be known: then nothing was done. Where
    one of several clouds does not answer, that is a failure, and its runs alone are left as they are.
    """
    wanted = control.source.desired()
    report = Tick(commit=wanted.commit)
    report.failures += [problem for problem in wanted.problems if only is None or f"/{only}." in f"/{problem.where}"]
    there = listing(control.cloud, RESOURCE_PREFIX)
    live = of_ledger(control, there.live)
    report.failures += there.away.values()
    for name, listed in there.by_cloud.items():
        control.uptimes.note(name, of_ledger(control, listed).pods)
    try:
        look = control.ledger.look()
        tips = look.open_runs
        if may_claim and control.may_rent:
            tips |= claim_new(control, wanted, look, report.failures, only)
        records, unreadable = read_each(control.ledger, tips)
        report.records = records
        control.hear(records)
        report.failures += unreadable.values()
    except LedgerError:
        if live:
            control.say(f"nobody can tell whose they are, so they are left alone: {names(live)}")
        raise
    shares = {name: _shares(listed) for name, listed in there.by_cloud.items()}
    for record in records.values():
        if only is None and record.is_over:
            with _reported(report, CloudAuthFailed):  # without the cloud's key: the next tick asks again
                settle(control.at(record), record)
        if record.is_over or (only and record.run.get("job") != only):
            continue
        outcome = None if _is_away(control, record, there) else _guarded(control, record, wanted, shares, report)
        if outcome:
            report.closed[record.run_id] = outcome
        else:
            report.active.append(record.run_id)
    report.waiting = {run_id: control.waiting_s[run_id] for run_id in report.active if run_id in control.waiting_s}
    owners = [run_id for run_id, record in records.items() if not record.is_over] + [*unreadable]
    for name, listed in there.by_cloud.items() if only is None else ():
        with _reported(report):
            left = left_at(control, listed, owners, records, cloud=name)
            report.swept += remove_orphans(control.at(name), left, wait_s=SWEEP_WAIT_S)
        with _reported(report):
            tell_spare(control.at(name), listed.volumes)
    _forget_closed(control, owners, report)
    return report


def _forget_closed(control: Control, owners: Collection[str], report: Tick) -> None:
    """Another reconcile, with an engine state of its own, closed a run whose stack this one had brought up. Which cloud
    it is on that engine knows; what is listed by its name is looked for at all."""
    for run in [run for run_id, run in control.stacks.items() if run_id not in owners]:
        for one in control.each():
            with _reported(report):
                remove_late(one, run)


@contextmanager
def _reported(report: Tick, kind: type[PushtrainError] = PushtrainError) -> Iterator[None]:
    """A failure of that kind is the tick's, and the rest of the tick goes on."""
    try:
        yield
    except kind as failure:
        report.failures.append(failure)


def _is_away(control: Control, record: RunRecord, there: Listing) -> bool:
    """Whether no cloud of a run answered: what it lists of the run nobody knows, and absent is not gone."""
    names = clouds_of(record)
    failure = None if any(name in there.by_cloud for name in names) else there.away.get(names[0])
    if failure is not None:
        control.say(f"{record.run_id}: left alone: {failure.reason}: {redact(str(failure))}")
    return failure is not None


def run_of(record: RunRecord, ledger_url: str) -> Run:
    """The identity of a recorded run."""
    run, match = record.run, RUN_ID.fullmatch(record.run_id)
    retry = int((match["retry"] if match else None) or 1)
    return Run(
        job=run["job"],
        commit=run["commit"],
        spec_digest=run["spec_digest"],
        ledger_url=ledger_url,
        retry=retry,
        replay=json.dumps(run["replay"], sort_keys=True) if run.get("replay") else "",
    )


def _shares(live: Live) -> dict[str, Live]:
    """What is listed by whose it is: resource prefix → pods and volumes. Each name is looked at once."""
    pods, volumes = defaultdict[str, list[Pod]](list), defaultdict[str, list[Volume]](list)
    for pod in live.pods:
        pods[pod.name.rpartition("-")[0]].append(pod)
    for volume in live.volumes:
        volumes[volume.name.rpartition("-")[0]].append(volume)
    return {owner: Live(pods=tuple(pods[owner]), volumes=tuple(volumes[owner])) for owner in {*pods, *volumes}}


def _guarded(
    control: Control, record: RunRecord, wanted: Desired, shares: Mapping[str, Mapping[str, Live]], report: Tick
) -> str | None:
    """One run's trouble never keeps another from being looked after; the tick reports it and exits non-zero."""
    nothing = Live(pods=(), volumes=())
    try:
        run = run_of(record, control.settings.ledger_url)
        listed = {name: share.get(run.resource_prefix, nothing) for name, share in shares.items()}
        record = found_again(control, run, record, listed)
        return _advance(control.at(record), run, record, wanted, listed.get(cloud_of(record), nothing))
    except PushtrainError as failure:
        control.say(f"{record.run_id}: {failure.reason}: {redact(str(failure))}")
        if isinstance(failure, StackLocked) and failure.passing:
            control.say(f"{record.run_id}: {failure.hint}")
        else:
            report.failures.append(failure)
        return None


def _advance(control: Control, run: Run, record: RunRecord, wanted: Desired, live: Live) -> str | None:
    """Carry out steps until the run has to wait (None) or is closed (its outcome). `live` is what is listed of it."""
    while True:
        control = control.at(record)
        if not record.is_over and adopt(control, run, record, live):
            record = control.ledger.read(record.run_id)
        step = _next(control, run, record, wanted, live)
        if step.kind == "over":
            remove_late(control, run)
            return str((record.receipt or {}).get("outcome", ""))
        if step.kind == "watch":
            return None
        if step.kind == "destroy":
            return destroy(control, run, record, step) or None
        if step.kind == "lost":
            _give_up_attempt(control, run, record, live, step)
        elif step.kind == "cancel":
            said = EventDraft(state="cancelled", writer="control", attempt=step.attempt, reason=step.reason)
            control.ledger.append(run.id, events=[said])
        elif not _try_to_provision(control, run, record, live, step):
            return None
        live, record = look_again(control, run, record)


def _next(control: Control, run: Run, record: RunRecord, wanted: Desired, live: Live) -> Step:
    """What to do now; a pod that says nothing is looked at, once a minute, and one that is in no list by its id."""
    attempt = max(event.attempt for event in record.events)
    pods = one_pod(control, run, attempt, live)
    decide = partial(
        next_step,
        record,
        pods=pods,
        is_stopped=any(attempt_of(run, pod) == attempt and not pod.is_alive for pod in live.pods),
        cancel_reason=_cancel_reason(control, record, wanted),
        now_s=control.clock(),
        limits=control.limits(record),
    )
    step = decide()
    pod_id = next((str(it.data["pod_id"]) for it in reversed(record.events) if it.state == "provisioned"), "")
    if step.kind == "lost" and pod_id and not pods and (late := control.cloud.read_pod(pod_id)) and late.is_alive:
        decide = partial(decide, pods=[late])
        step = decide()
    if step.kind != "look":
        return step
    if control.clock() < control.looked_s.get(run.id, 0.0) + LOOK_EVERY_S:
        return Step(kind="watch", attempt=step.attempt)
    control.looked_s[run.id] = control.clock()
    stepped_s = last_step_s(control.ledger, record)
    restarts = control.uptimes.restarts(control.cloud.name, pod_id)
    return decide(signs=look(control.cloud, pod_id, restarts=restarts, stepped_s=stepped_s))


def _try_to_provision(control: Control, run: Run, record: RunRecord, live: Live, step: Step) -> bool:
    now_s = control.clock()
    if not control.may_rent:
        return False
    if record.last.state == "waiting" and now_s < control.tried_s.get(run.id, 0.0) + TRY_EVERY_S:
        return False
    control.tried_s[run.id] = now_s
    control.waiting_s.pop(run.id, None)
    spec = loads(record.spec, str(record.run["spec_path"]), check_name=False)
    return provision(control, run, spec, record, live=live, attempt=step.attempt)


def _give_up_attempt(control: Control, run: Run, record: RunRecord, live: Live, step: Step) -> None:
    """The pod is gone, or as good as gone: make sure of it, keep what the cloud still has of its log, say so."""
    known = [str(it.data["pod_id"]) for it in record.events if (it.state, it.attempt) == ("provisioned", step.attempt)]
    listed = {pod.id: pod for pod in live.pods if pod.name == run.pod_name(step.attempt)}
    note_unnamed(control, run.id, known, list(listed.values()))
    for pod_id in dict.fromkeys([*known, *listed]):
        control.cloud.terminate(pod_id)
    lost = EventDraft(state="lost", writer="control", attempt=step.attempt, reason=step.reason, message=step.message)
    control.ledger.append(run.id, events=[lost])
    control.say(f"{run.id}: attempt {step.attempt} lost ({step.reason}): {step.message}")


def _cancel_reason(control: Control, record: RunRecord, wanted: Desired) -> str | None:
    """Why HEAD no longer asks for this run; None when it does. Runs started by hand answer only to `cancel`, and a
    checkout older than the run has nothing to say about it."""
    reason = _unwanted(record, wanted)
    if reason is not None and is_behind(control.source, wanted.commit, record):
        control.say(
            f"{record.run_id}: left alone ({reason}): this checkout, {wanted.commit[:8]}, is older than the run"
        )
        return None
    return reason


def is_behind(source: Source, head: str, record: RunRecord) -> bool:
    """True when the run's commit came after `head`: then some other reconcile has the newer checkout.

    By ancestry where the clone is deep enough to tell, else by the commits' own dates.
    """
    commit = str(record.run["commit"])
    if source.descends(head, commit):
        return False
    return source.descends(commit, head) or source.committed_epoch_s(head) < int(
        record.run.get("committed_epoch_s") or 0
    )


def _unwanted(record: RunRecord, wanted: Desired) -> str | None:
    run = record.run
    if run.get("trigger") in ("hand", "replay"):
        return None
    job = wanted.jobs.get(run["job"])
    if job is None:
        return None if run["job"] in wanted.named else "SpecDeleted"
    if job.spec.suspend:
        return "Suspended"
    return None if job.digest == run["spec_digest"] else "SpecChanged"

"""What a reviewer reads: the plan of every job spec that a pull request changes, held against the base's policy.

One text for the comment and for the step summary. Whatever a spec, a path or a cloud says goes through `markdown`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pushtrain.check import check, policy_for
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.github.changes import Change, changed_machinery, changed_specs
from pushtrain.github.markdown import code, details, fitted, plain, table
from pushtrain.plan import Plan, plans
from pushtrain.plan.markdown import plan_body, problem_line
from pushtrain.plan.words import headline
from pushtrain.policy.file import PolicyFile, policy_at
from pushtrain.policy.known import known_before
from pushtrain.policy.model import POLICY_FILE
from pushtrain.redact import redact
from pushtrain.spec.file import spec_error

MOST_PROBLEMS = 40


@dataclass(kw_only=True)
class Review:
    """What was found; `as_markdown` is what is said about it. `exit_code` is the worst problem's."""

    base: str
    head: str
    changes: list[Change] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    problems: list[PushtrainError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    policy: PolicyFile | None = None

    @property
    def exit_code(self) -> int:
        return max((problem.exit_code for problem in self.problems), default=0)

    @property
    def is_news(self) -> bool:
        """False where there is nothing to say: no comment then, unless there is one already."""
        return bool(self.changes or self.problems or self.warnings)

    def as_markdown(self) -> str:
        head = [f"## {self._title()}", self._verdict()]
        if len(self.plans) > 1:
            head.append(table([(code(it.spec.name), _at_most(it)) for it in self.plans[:50]]))
        tail = [self._policy_line()] if self.policy is not None else []
        return redact(fitted("\n\n".join(head), [*self._problem_blocks(), *map(_block, self.plans)], "\n\n".join(tail)))

    def _title(self) -> str:
        number = len([change for change in self.changes if change.kind != "gone"])
        jobs = "no job spec" if not number else "1 job spec" if number == 1 else f"{number} job specs"
        return f"pushtrain: {jobs} at {code(self.head[:8])}"

    def _verdict(self) -> str:
        number = len(self.problems)
        if number:
            lines = [f"❌ **{number} problem{'s' if number > 1 else ''}.** This should not be merged as it is."]
        elif starting := self._starting():
            runs = "1 run" if len(starting) == 1 else f"{len(starting)} runs"
            lines = [f"✅ **A merge starts {runs}, {_dollars(starting)}.**"]
        else:
            lines = ["✅ **A merge starts nothing.**"]
        replaced = [it.path for it in self.plans if it.status == "changed"]
        lines += (
            [f"Changed: {_names(replaced)}. An active run of what stood there before is cancelled."] if replaced else []
        )
        gone = [change.path for change in self.changes if change.kind == "gone"]
        lines += [f"Gone: {_names(gone)}. An active run of it is cancelled."] if gone else []
        return "\n\n".join(lines)

    def _starting(self) -> list[Plan]:
        """What a merge rents something for; a spec in which only comments or layout changed is run already."""
        return [plan for plan in self.plans if plan.starts and plan.status != "unchanged"]

    def _problem_blocks(self) -> list[str]:
        blocks = [problem_line(problem) for problem in self.problems[:MOST_PROBLEMS]]
        if len(self.problems) > MOST_PROBLEMS:
            blocks.append(f"… and {len(self.problems) - MOST_PROBLEMS} more problems, in the check's log.")
        return blocks + [f"⚠️ {plain(warning, 600)}" for warning in self.warnings[:MOST_PROBLEMS]]

    def _policy_line(self) -> str:
        assert self.policy is not None
        if not self.policy.exists:
            return f"There is no {code(POLICY_FILE)} in the base: nothing is limited but by each job's own budget."
        approval = self.policy.policy.approval if self.policy.policy is not None else None
        above = [it.path for it in self._starting() if approval and it.spec.budget.max_usd > approval.above_usd]
        needs = f" It wants an approving review before these start: {_names(above)}." if above else ""
        base = self.base[:8] if re.fullmatch(r"[0-9a-f]{40}", self.base) else self.base
        return f"Held against {code(POLICY_FILE)} of the base, {code(base)}.{needs}"


def review(root: Path, base: str, head: str, environ: Mapping[str, str]) -> Review:
    """Looks at what HEAD changes against `base`; the base's policy holds. What fails is a problem, never an exception,
    so that something can be said in any case."""
    found = Review(base=base, head=head)
    try:
        found.changes = changed_specs(root, base, environ)
        found.warnings += _beside(found.changes, changed_machinery(root, base, environ))
        found.policy = policy_at(root, base)
        known, unknown = known_before(found.policy, root, environ)
        found.warnings += unknown
        paths = [Path(change.path) for change in found.changes if change.kind != "gone"]
        found.problems += _twins(paths, root)
        if not paths:
            _, wrong, warned = policy_for(root, base)
            found.problems += [spec_error([problem]) for problem in wrong]
            found.warnings += [str(spec_error([warning])) for warning in warned]
            return found
        report = check(paths, root, base=base, known=known)
        found.problems += report.problems
        found.warnings += report.warnings
        found.plans, too_large = plans(report.specs, root, environ, base=base, refused=report.refused)
        found.problems += too_large
    except PushtrainError as failure:
        found.problems.append(failure)
    return found


def _beside(changes: Sequence[Change], paths: Sequence[str]) -> list[str]:
    """A change of workflows or tool is nothing a plan can judge, least of all together with a job."""
    if not changes or not paths:
        return []
    shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
    return [f"this also changes how jobs are judged and run: {shown}; judged here by the base's, run by the new ones"]


def _twins(paths: Sequence[Path], root: Path) -> list[PushtrainError]:
    """x.yaml and x.yml are one job twice, also where only one of them is changed."""
    found: list[PushtrainError] = []
    for path in paths:
        other = path.with_suffix(".yml" if path.suffix == ".yaml" else ".yaml")
        if (root / other).exists() and other not in paths:
            message = f"the job {path.stem!r} is also in {other.as_posix()}"
            found.append(SpecError(message, where=path.as_posix(), hint="keep one of them"))
    return found


def _block(plan: Plan) -> str:
    digest = f"Spec digest {code(plan.spec.digest[:8])}."
    return details(f"{plan.spec.name}: {headline(plan)}", f"{plan_body(plan)}\n\n{digest}")


def _names(paths: Sequence[str]) -> str:
    return ", ".join(code(path) for path in paths[:10]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")


def _dollars(starting: Sequence[Plan]) -> str:
    expected = [plan.first.money.expected_usd if plan.first and plan.first.money else None for plan in starting]
    about = f"for about ${sum(it for it in expected if it):,.2f}, " if None not in expected else "for "
    return f"{about}at most ${sum(plan.spec.budget.max_usd for plan in starting):,.2f} in all"


def _at_most(plan: Plan) -> str:
    if plan.spec.suspend:
        return "suspended"
    if plan.is_refused:
        return "refused by the policy"
    return _dollars([plan]).removeprefix("for ").removesuffix(" in all")

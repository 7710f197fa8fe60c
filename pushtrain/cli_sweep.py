"""What `pushtrain sweep` lists and removes, of every cloud that there is a key for."""

from collections.abc import Mapping

from pushtrain.control import Control
from pushtrain.copies.leftover import leftovers, remove
from pushtrain.errors import CloudError, PushtrainError
from pushtrain.lookup import read_each
from pushtrain.sweep import Survey, remove_orphans, survey
from pushtrain.teardown import listed
from pushtrain.terminal import out, print_json, report, say
from pushtrain.volumes.kept import ON_PURPOSE, in_words


def sweep_all(control: Control, *, yes: bool, as_json: bool, environ: Mapping[str, str] | None = None) -> int:
    """The verb's exit code: 4 while something may still be billed, 3 where a cloud did not answer: what is there nobody
    knows. With `environ`, which has the keys, copies of checkpoints go, too. Raises CloudError when no cloud answered,
    LeakError."""
    found: list[tuple[Control, Survey]] = []
    away: list[CloudError] = []
    for one in control.each():
        try:
            found.append((one, survey(one)))
        except CloudError as no_answer:
            away.append(no_answer)
    if not found:
        raise away[0]
    orphans = [line for _, it in found for line in listed(it.orphans)]
    if yes:
        for one, it in found:
            remove_orphans(one, it.orphans, wait_s=control.settings.teardown_wait_s)
    copies, troubles = _sweep_copies(control, environ, yes=yes) if environ is not None else (None, [])
    _show(found, orphans, copies, all_answered=not away, removed=yes, as_json=as_json)
    failures: list[PushtrainError] = [*away, *troubles, *(it.failure for _, it in found if it.failure is not None)]
    for failure in {str(it): it for it in failures}.values():
        report(failure)
    if (orphans or copies) and not yes:
        say("run again with --yes to remove what no active run owns")
    if (orphans and not yes) or any(it.failure for _, it in found):
        return 4
    return max((no_answer.exit_code for no_answer in [*away, *troubles]), default=0)


def _sweep_copies(control: Control, environ: Mapping[str, str], *, yes: bool) -> tuple[list[str], list[PushtrainError]]:
    """Copies of checkpoints that nobody needs any more, removed with `yes`, and what did not answer."""
    records, _ = read_each(control.ledger, control.ledger.refs())
    found, troubles = leftovers(records.values(), environ, control.clock())
    for one in found if yes else ():
        try:
            remove(one, environ)
        except PushtrainError as trouble:
            troubles.append(trouble)
    return [one.words for one in found], troubles


def _show(
    found: list[tuple[Control, Survey]],
    orphans: list[str],
    copies: list[str] | None,
    *,
    all_answered: bool,
    removed: bool,
    as_json: bool,
) -> None:
    owned = [line for _, it in found for line in listed(it.owned)]
    kept = [in_words(volume, one.cloud.name) for one, it in found for volume in it.kept]
    is_known = all(it.failure is None for _, it in found)
    if as_json:
        print_json(
            {"orphans": orphans, "owned": owned, "kept": kept, "ledger": is_known, "removed": removed}
            | ({} if copies is None else {"copies": copies})
        )
        return
    whose = "an active run owns it" if is_known else "nobody can tell whose it is"
    lines = [*orphans, *(f"{name}: {whose}" for name in owned)]
    nothing = "nothing is left: pods 0, volumes 0"
    out.print("\n".join(lines) or (nothing if all_answered else f"{nothing}, as far as the clouds answered"))
    out.print("".join(f"{it}\n" for it in copies or ()), end="")
    out.print("".join(f"{ON_PURPOSE}: {name}\n" for name in kept), end="")

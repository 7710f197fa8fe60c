"""One attempt, from the checkout: environment, trainer, and everything they say into the ledger.

`python -m pushtrain.pod.agent`, started by boot in the checkout. Exit codes: 0 finished, 1 or 2 failed, 70 another
pod's attempt, 75 preempted.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pushtrain.errors import RunFailed
from pushtrain.events import EventDraft, now_text
from pushtrain.ledger import Ledger
from pushtrain.pod.arrival import Arrival
from pushtrain.pod.child import Heartbeat, LogFile, StopRequest, Watch, run_child
from pushtrain.pod.console import clean
from pushtrain.pod.context import EXIT_TWIN, LEDGER_TOKEN, SAVING_SHARE, Context, read_context
from pushtrain.pod.environment import prepare_environment, programs, trainer_env
from pushtrain.pod.figures import Disk
from pushtrain.pod.figures import places as disk_places
from pushtrain.pod.outcome import TAIL_LINES, Outcome, Remains, decide
from pushtrain.pod.place import pod_id
from pushtrain.pod.ports import addresses
from pushtrain.pod.session.settings import places
from pushtrain.pod.shared import clear_finished
from pushtrain.pod.shipper import Shipper
from pushtrain.pod.spool import Spool, plain
from pushtrain.pod.ssh import Door, open_door

LAST_EFFORT_S = 120.0
# How long the ledger may take to say whose attempt this is: one that is away keeps no training back.
ARRIVAL_TICKS = 30.0


class Interrupted(Exception):
    """SIGTERM came while the environment was being installed."""


class Twin(Exception):
    """The attempt is another pod's, which is at work: `Twin(its id)`."""


def main() -> int:
    """Run the attempt to its end and report it; returns the exit code."""
    environ = dict(os.environ)
    context = read_context(environ)
    context.attempt_dir.mkdir(parents=True, exist_ok=True)
    stop = StopRequest(context.stop_file)
    stop.listen()
    heartbeat = Heartbeat(context.heartbeat)
    heartbeat.touch()
    with tempfile.TemporaryDirectory(prefix="pushtrain-ledger-") as cache:
        ledger = Ledger(
            context.ledger_url, cache_dir=Path(cache) / "git", token=environ.get(LEDGER_TOKEN), environ=environ
        )
        arrival = Arrival(ledger, context.run_id, context.attempt, pod_id(environ))
        shipper = Shipper(
            Spool(
                context.attempt_dir,
                attempt=context.attempt,
                clean=partial(clean, environ=environ),
                figures=Disk(disk_places(context.workspace)),
            ),
            arrival.append,
            every_s=context.ship_every_s,
            tick_s=context.tick_s,
        )
        shipper.start()
        clear_finished(context, environ)
        attempt = Attempt(context, environ, shipper, stop)
        try:
            outcome = attempt.run(heartbeat, arrival)
            return attempt.report(outcome)
        except Twin as twin:
            print(f"agent: this attempt is pod {twin}'s, which is at work", flush=True)
            return EXIT_TWIN
        finally:
            attempt.close()


class Attempt:
    """The steps of one attempt in their order."""

    def __init__(self, context: Context, environ: Mapping[str, str], shipper: Shipper, stop: StopRequest) -> None:
        self._context, self._environ = context, environ
        self._shipper, self._stop = shipper, stop
        self._log = LogFile(context.attempt_dir / "trainer.log", environ)
        self._door = Door()

    def run(self, heartbeat: Heartbeat, arrival: Arrival) -> Outcome:
        """Environment and trainer. An end that an earlier container of this attempt left is only reported. Raises Twin,
        with nothing begun."""
        watch = Watch(
            heartbeat=heartbeat,
            stop=self._stop,
            grace_s=self._context.grace_s * SAVING_SHARE,
            tick_s=self._context.tick_s,
        )
        self._door = open_door(
            self._environ,
            trainer_env(self._context, self._environ) | self._places(),
            workspace=self._context.workspace,
            programs=programs(self._context, self._environ),
            say=self._log.line,
        )
        self._say_hello()
        self._meet(arrival)
        earlier = self._remains(None)
        if earlier.failure is not None or decide(earlier).state == "finished":
            return decide(earlier)
        try:
            python = self._environment(watch)
        except Interrupted:
            return decide(self._remains(None))
        except (RunFailed, OSError) as error:
            return decide(self._remains(None, failed=error))
        return decide(self._remains(self._train(python, watch)))

    def report(self, outcome: Outcome) -> int:
        """Note the end on the volume, then in the ledger with one bounded last effort."""
        if outcome.state != "preempted":
            end = {"state": outcome.state, "reason": outcome.reason, "message": outcome.message, "time": time.time()}
            try:
                self._context.ended.write_text(clean(json.dumps(end), self._environ))
            except OSError as error:
                self._log.line(f"pushtrain: ended.json: {error.strerror}")
        self._log.line(f"pushtrain: {outcome.state} {outcome.reason} {outcome.message}".rstrip())
        draft = self._draft(outcome.state, reason=outcome.reason, message=outcome.message, data=outcome.data)
        files = {path: self._clean_json(raw) for path, raw in outcome.files.items()}
        patience_s = self._context.grace_s * (1 - SAVING_SHARE) if self._stop else LAST_EFFORT_S
        if not self._shipper.finish(draft, files, timeout_s=patience_s):
            print(f"ledger: not everything was taken within {patience_s:.0f} s", flush=True)
        return outcome.exit_code

    def close(self) -> None:
        """Nobody stays logged in: whoever does must not hold up the end of the pod."""
        self._door.close()

    def _places(self) -> dict[str, str]:
        return places(self._context) if self._context.task == "session" else {}

    def _meet(self, arrival: Arrival) -> None:
        give_up_s = time.monotonic() + ARRIVAL_TICKS * self._context.tick_s
        while not arrival.is_known and not self._stop and time.monotonic() < give_up_s:
            arrival.wait(self._context.tick_s)
        if arrival.other:
            raise Twin(arrival.other)

    def _environment(self, watch: Watch) -> str:
        def tool(argv: Sequence[str], env: Mapping[str, str]) -> int:
            code = run_child(argv, env, self._context.checkout, watch=watch, out=self._log)
            if self._stop:
                raise Interrupted
            return code

        began_s = time.monotonic()
        python = prepare_environment(self._context, self._environ, tool)
        self._say("environment", seconds=round(time.monotonic() - began_s, 1), python=python)
        return python

    def _train(self, python: str, watch: Watch) -> int:
        context = self._context
        if context.task == "session":
            argv = [sys.executable, "-m", "pushtrain.pod.session", "--tools", str(Path(python).parent)]
            return run_child(argv, self._environ, context.checkout, watch=watch, out=self._log)
        # -P: a folder `trainer` of the repository's own is not ours.
        argv = [python, "-P", "-m", "trainer", context.spec_path]
        argv += ["--run-dir", str(context.run_dir), "--attempt", str(context.attempt)]
        return run_child(argv, trainer_env(context, self._environ), context.checkout, watch=watch, out=self._log)

    def _remains(self, exit_code: int | None, failed: Exception | None = None) -> Remains:
        folder = self._context.attempt_dir
        failure = _read(folder / "failure.json")
        if failed is not None:
            reason = getattr(failed, "reason", "EnvironmentFailed")
            failure = json.dumps({"reason": reason, "message": str(failed)}).encode()
        return Remains(
            exit_code=exit_code,
            result=_read(folder / "result.json"),
            failure=failure,
            stopped=bool(self._stop),
            stop_reason=self._stop.reason if self._stop else "",
            tail=_tail(folder / "trainer.log"),
        )

    def _say_hello(self) -> None:
        urls = addresses(self._environ)
        listens = "; ".join(f"{port} at {url}" for port, url in urls.items())
        data = {"pod": pod_id(self._environ), "python": sys.version.split()[0]}
        more = {name: told for name, told in (("urls", urls), ("ssh", self._door.told)) if told}
        self._shipper.say(self._draft("booting", message=listens, data=data | more))

    def _say(self, state: str, **data: Any) -> None:
        self._shipper.say(self._draft(state, data=data))

    def _draft(self, state: str, *, reason: str = "", message: str = "", data: Mapping[str, Any]) -> EventDraft:
        redact = partial(clean, environ=self._environ)
        return EventDraft(
            state=state,
            writer="pod",
            attempt=self._context.attempt,
            reason=redact(reason),
            message=redact(message),
            data=plain(dict(data), redact),
            time=now_text(time.time()),
        )

    def _clean_json(self, raw: bytes) -> bytes:
        value = plain(json.loads(raw), partial(clean, environ=self._environ))
        return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _tail(path: Path) -> list[str]:
    """The last lines of the log; 32 KiB of it at most, each line cut at 500 characters."""
    raw = b""
    if path.is_file():
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 32 * 1024))
            raw = file.read()
    return [line[:500] for line in raw.decode(errors="replace").splitlines()[-TAIL_LINES:]]


if __name__ == "__main__":
    sys.exit(main())

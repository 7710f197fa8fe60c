"""Opens a session, looks after it, and ends it: idle, out of budget, asked to, or cancelled; its work goes first."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pushtrain.errors import LedgerError, LedgerUnavailable, PushtrainError
from pushtrain.gitcmd import git_env
from pushtrain.pod.child import StopRequest
from pushtrain.pod.console import clean
from pushtrain.pod.context import EXIT_PREEMPTED, LEDGER_TOKEN, SAVING_SHARE, Context
from pushtrain.pod.figures import disk_figures, places
from pushtrain.pod.session import look, tmux, tree
from pushtrain.pod.session.cancelled import Cancelled
from pushtrain.pod.session.end import End, Moment, closing_s, end_of, warning
from pushtrain.pod.session.idle import Use, used
from pushtrain.pod.session.push import Branch, Saved
from pushtrain.pod.session.settings import SessionSettings, files_dir, shell_env, work_dir

LOOK_TICKS = 5.0
# A line of metrics so often: whoever looks after a session that is silent for half an hour hangs itself.
SIGN_TICKS = 300.0
# A push that did not work is tried again so much later, and in the end for so long.
AGAIN_TICKS, LAST_EFFORT_S = 60.0, 600.0


@dataclass(kw_only=True)
class Session:
    """One attempt. `tools` has the programs of the installed environment; `watch` says what is told from outside."""

    context: Context
    settings: SessionSettings
    environ: Mapping[str, str]
    stop: StopRequest
    tools: Path
    watch: Cancelled
    children: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _has_tmux: bool = False
    _tensorboard: "subprocess.Popen[bytes] | None" = None
    _use: Use = field(default_factory=lambda: Use(at_s=0.0))
    _signed_s: float = float("-inf")

    def run(self) -> int:
        """To its end; returns the exit code. Raises LedgerError where there is no work tree to be had, OSError."""
        place = self._place()
        if (end := self._left_to_push()) is not None:
            return self._close(Branch(place, self._branch_of(place), self.environ, say), end)
        event(self.context, "preparing", f"commit {self.context.commit[:8]} on a branch to work on")
        opened = tree.open_tree(place, say)
        branch = Branch(place, opened.branch, self.environ, say)
        say(f"session: the work tree {place.work} is {opened.how}")
        desk, ready = self._desk()
        self._save(branch, "the session opens")
        told = {"branch": branch.name, "work": str(place.work), "tmux": desk.env.get("TMUX_TMPDIR", "")}
        event(self.context, "training", f"the session is open: {opened.how}; {'; '.join(ready)}", session=told)
        try:
            end = self._until_the_end(desk, branch)
            return self._close(branch, end, desk)
        finally:
            tmux.close_desk(desk)
            for child in self.children:
                child.kill()

    def _until_the_end(self, desk: tmux.Desk, branch: Branch) -> End:
        tick_s, began_s = self.context.tick_s, time.monotonic()
        closing, idle_limit_s = closing_s(self.context.deadline_epoch_s - time.time()), self.settings.idle_s
        self._use, before = Use(at_s=began_s), Moment(idle_s=0.0, left_s=float("inf"))
        looked_s, save_s = float("-inf"), began_s + self.settings.autosave_s
        while True:
            now_s = time.monotonic()
            if now_s - looked_s >= LOOK_TICKS * tick_s:
                looked_s = now_s
                self._look(desk, now_s)
            moment = self._moment(desk, self._use.idle_s(now_s))
            if (end := end_of(moment, idle_limit_s=idle_limit_s, closing_s=closing)) is not None:
                return end
            if words := warning(before, moment, idle_limit_s=idle_limit_s):
                say(f"session: {words}")
                tmux.tell(desk, words)
            before = moment
            if now_s >= save_s:
                saved = self._save(branch, "autosave", desk)
                save_s = time.monotonic() + (self.settings.autosave_s if saved else AGAIN_TICKS * tick_s)
            time.sleep(tick_s)

    def _look(self, desk: tmux.Desk, now_s: float) -> None:
        """Who and what is at work; a change of it is said, and every five minutes the figures are."""
        card = look.gpu(self.environ)
        seen = look.seen(desk.env, self.environ, card)
        after = used(self._use, replace(seen, commands=[*seen.commands, *self._untied()]), now_s)
        if _kind(after.why) != _kind(self._use.why) and after.why:
            say(f"session: in use: {after.why}")
        self._use = after
        if now_s - self._signed_s >= SIGN_TICKS * self.context.tick_s:
            self._signed_s = now_s
            self._sign(card, seen.connections, after.idle_s(now_s))
        self._mind(desk)

    def _moment(self, desk: tmux.Desk, idle_s: float) -> Moment:
        return Moment(
            idle_s=idle_s,
            left_s=self.context.deadline_epoch_s - time.time(),
            stopped=self.stop.reason if self.stop else None,
            asked=desk.closing.exists(),
            cancelled=self.watch.reason,
        )

    def _mind(self, desk: tmux.Desk) -> None:
        """What people and programs close by themselves: said, and opened again."""
        if desk.start_ended.exists():
            code = desk.start_ended.read_text().strip()
            say(f"session: session.start ended with exit code {code}; the session stays open until it is idle")
            desk.start_ended.unlink(missing_ok=True)
        if self._tensorboard is not None and (why := tmux.why_ended(self._tensorboard, desk.tensorboard_log)):
            say(f"session: {why}")
            self._tensorboard = None
        if self._has_tmux and not tmux.is_open(desk):
            say("session: the last window of tmux was closed; opening another (exit-session ends the session)")
            tmux.open_desk(desk, ())

    def _desk(self) -> tuple[tmux.Desk, list[str]]:
        """tmux, TensorBoard and nvitop, and what is told of each."""
        files_dir(self.context).mkdir(parents=True, exist_ok=True)
        bin_dir = tmux.make_bin(self.environ)
        env = shell_env(self.context, self.settings, self.environ, first=bin_dir, last=self.tools)
        if not look.is_rented(self.environ) and not env.get("TMUX_TMPDIR"):
            env["TMUX_TMPDIR"] = tempfile.mkdtemp(prefix="pt-", dir="/tmp")  # a machine of somebody's own has a tmux
        desk = tmux.Desk(env=env, work=work_dir(self.context), files=files_dir(self.context), bin=bin_dir, say=say)
        self._has_tmux = tmux.find_tmux(desk, self.environ) and tmux.open_desk(desk, self.settings.start)
        ready = ["tmux: pushtrain" if self._has_tmux else "no tmux here"]
        if self._has_tmux:
            ready.append(tmux.open_nvitop(desk, look.gpu(self.environ) is not None))
        elif self.settings.start:
            self._start_untied(desk)
        if self.settings.tensorboard:
            ports = [port for port in self.environ.get("PUSHTRAIN_PORTS", "").split(",") if port]
            server, told = tmux.start_tensorboard(desk, ports, desk.tensorboard_log)
            self.children += [server] if server is not None else []
            self._tensorboard = server
            ready.append(told)
        for line in ready:
            say(f"session: {line}")
        return desk, ready

    def _start_untied(self, desk: tmux.Desk) -> None:
        """`session.start` where there is no tmux: its output goes into the log."""
        argv = ["sh", "-c", tmux.started(desk, self.settings.start).rpartition("; exec")[0]]
        self.children.append(subprocess.Popen(argv, env=dict(desk.env), cwd=desk.work, stdin=subprocess.DEVNULL))

    def _untied(self) -> list[str]:
        is_running = not self._has_tmux and self.settings.start and self.children and self.children[0].poll() is None
        return [Path(self.settings.start[0]).name] if is_running else []

    def _save(self, branch: Branch, subject: str, desk: tmux.Desk | None = None) -> Saved | None:
        """None where the remote took nothing: said to whoever is there, and tried again."""
        try:
            saved = branch.save(f"{subject} ({self.context.run_id})")
        except (LedgerError, OSError) as error:
            say(f"session: the work could not be pushed: {error}")
            if desk is not None:
                tmux.tell(desk, f"your work could not be pushed: {clean(str(error), self.environ)[:120]}")
            return None
        if saved.is_new:
            uncommitted = f", with {saved.files} files that are not committed" if saved.files else ""
            say(f"session: pushed to {saved.branch} at {saved.commit[:8]}{uncommitted}")
        for name, why in list(saved.left_out.items())[:20]:
            say(f"session: not pushed: {name}: {why}")
        return saved

    def _close(self, branch: Branch, end: End, desk: tmux.Desk | None = None) -> int:
        """The last push, and how the session ended. What could not be pushed is another attempt's to push."""
        if end.is_over:
            write_whole(self._ending, json.dumps({"reason": end.reason, "message": end.message}))
        event(self.context, "publishing", f"{end.message}: the work goes to {branch.name}")
        if desk is not None:
            tmux.tell(desk, f"{end.message}: this session ends now")
        saved, failure = self._push_last(branch, f"uncommitted at the end of the session, {end.reason}")
        if not end.is_over:
            return EXIT_PREEMPTED
        if saved is None:
            self._write("failure.json", {"reason": failure.reason, "message": f"{end.message}; {failure}"})
            return 1
        told = {"branch": saved.branch, "commit": saved.commit, "left_out": dict(list(saved.left_out.items())[:50])}
        home = f"git fetch {self.context.ledger_url} {saved.branch}"
        message = f"{end.message}; the work is on {saved.branch} at {saved.commit[:8]}: {home}"
        self._write("result.json", {"reason": end.reason, "message": message, "session": told, "metrics": {}})
        return 0

    def _push_last(self, branch: Branch, subject: str) -> tuple[Saved | None, PushtrainError]:
        left_s = self.context.deadline_epoch_s - time.time()
        patience_s = min(LAST_EFFORT_S, max(left_s - self.context.grace_s, self.context.grace_s * SAVING_SHARE))
        give_up_s = time.monotonic() + patience_s
        failure: PushtrainError = LedgerUnavailable("the work was not pushed", reason="WorkNotPushed")
        while True:
            try:
                saved = branch.save(f"{subject} ({self.context.run_id})")
            except LedgerUnavailable as error:
                failure = LedgerUnavailable(f"the work was not pushed: {error}", reason="WorkNotPushed")
            except (LedgerError, OSError) as error:
                reason = getattr(error, "reason", "WorkNotPushed")
                return None, LedgerError(f"the work was not pushed: {error}", reason=reason)
            else:
                uncommitted = f", {saved.files} files of it not committed" if saved.files else ""
                say(f"session: the work is on {saved.branch} at {saved.commit[:8]}{uncommitted}")
                return saved, failure
            say(f"session: {failure}")
            is_hurried = self.stop.at_s is not None
            limit_s = self.stop.at_s + self.context.grace_s * SAVING_SHARE * 0.9 if self.stop.at_s else give_up_s
            if time.monotonic() >= min(limit_s, give_up_s):
                return None, failure
            time.sleep(self.context.tick_s * (1 if is_hurried else LOOK_TICKS))

    def _place(self) -> tree.Place:
        context, token = self.context, self.environ.get(LEDGER_TOKEN)
        plain = {name: value for name, value in self.environ.items() if name not in (LEDGER_TOKEN, "RUNPOD_API_KEY")}
        same_host = tree.host(context.source_url) == tree.host(context.ledger_url)
        return tree.Place(
            work=work_dir(context),
            checkout=context.checkout,
            run_id=context.run_id,
            commit=context.commit,
            source_url=context.source_url,
            ledger_url=context.ledger_url,
            names=tree.names(context.run_id, self.settings.branch),
            plain=git_env("", None, plain),
            to_source=git_env(context.source_url, token if same_host else None, plain),
            to_ledger=git_env(context.ledger_url, token, plain),
        )

    @property
    def _ending(self) -> Path:
        """How the session ended, from then on: an attempt after that only pushes."""
        return self.context.run_dir / "session-ended.json"

    def _left_to_push(self) -> End | None:
        try:
            told = json.loads(self._ending.read_text())
        except FileNotFoundError:
            return None
        if not (work_dir(self.context) / ".git").is_dir():
            return None
        say("session: it was over before this attempt: only its work is left to push")
        return End(reason=str(told["reason"]), message=str(told["message"]))

    def _branch_of(self, place: tree.Place) -> str:
        return tree.open_tree(place, say).branch

    def _sign(self, card: look.Gpu | None, connections: int, idle_s: float) -> None:
        row: dict[str, Any] = {"time": time.time(), "ssh_connections": connections, "idle_s": round(idle_s)}
        row |= disk_figures(places(self.context.workspace))
        if card is not None:
            row |= {
                "gpu_utilization": card.percent,
                "gpu_memory_gb": card.used_gb,
                "gpu_memory_total_gb": card.total_gb,
            }
        _append(self.context.attempt_dir / "metrics.jsonl", row)

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        write_whole(self.context.attempt_dir / name, clean(json.dumps(document), self.environ))


def _kind(why: str) -> str:
    """Without its figures: a GPU is at another percentage at every look."""
    return "".join(letter for letter in why if not letter.isdigit())


def event(context: Context, state: str, message: str, **data: Any) -> None:
    """A line for the agent, which sends it to the ledger."""
    say(f"{state}: {message}")
    _append(
        context.attempt_dir / "events.jsonl", {"time": time.time(), "state": state, "message": message, "data": data}
    )


def say(text: str) -> None:
    print(clean(text), flush=True)


def write_whole(path: Path, text: str) -> None:
    """`path` holds `text`, or what it held before."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text + "\n")
    part.replace(path)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(clean(json.dumps(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())

"""The story of the demo: data and base model, simulator and remote, `git push`, live view, table, proof, clean-up."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live as LiveView

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.demo import base, show, world
from pushtrain.demo.leftovers import Processes, stop_marked
from pushtrain.desired import desired
from pushtrain.errors import LedgerUnavailable, PushtrainError
from pushtrain.ledger import RunRecord
from pushtrain.run import Run
from pushtrain.settings import load_settings
from pushtrain.view import RunView, draw, line
from pushtrain.wiring import open_control, open_ledger

if TYPE_CHECKING:
    from infra.simulator.server import RunningSimulator

GIVE_UP_S = 900.0


@dataclass(kw_only=True)
class Demo:
    """One demo: its folder, what it started, and how long each part took (seconds, in order)."""

    folder: Path
    console: Console
    processes: Processes
    cloud: str = DEFAULT_CLOUD
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.console.print(f"• {name} …", markup=False)
        begin = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begin


def run_demo(folder: Path, *, keep: bool, console: Console, cloud: str = DEFAULT_CLOUD) -> int:
    """Run the demo in `folder`; returns its exit code. Ctrl-C at any moment leaves no pod, no volume, no process.

    `keep` leaves the simulator running afterwards, for a look around with the printed environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = Processes(folder / "processes.json")
    processes.stop_all()  # what a killed demo left behind, first the simulator, then pods that outlived it
    world.stop_pods(folder / "run" / "simulator")
    demo = Demo(folder=world.fresh(folder), console=console, processes=processes, cloud=cloud)
    signal.signal(signal.SIGTERM, interrupt)
    stay = False
    try:
        code = _story(demo)
        stay = keep and code == 0
        return code
    except KeyboardInterrupt:
        console.print("\ninterrupted: removing pod, volume and processes …", style="yellow")
        return 130
    finally:
        with undisturbed():
            if not stay:
                clean_up(demo)


def _story(demo: Demo) -> int:
    from infra.simulator.server import SimulatorConfig, start

    folder = demo.folder
    with demo.part("questions and answers from the standard library's docstrings"):
        data = base.build_data(folder.parent / "base")
    with demo.part("base model (built once, then kept)"):
        model = base.build_model(folder.parent / "base")
    title = CLOUDS[demo.cloud].title
    with demo.part(f"simulator: {title} and a Hub on loopback"):
        simulator = start(SimulatorConfig(state_dir=folder / "simulator"))
        demo.processes.add("simulator", simulator.pid)
        env = world.demo_env(folder, simulator.env(demo.cloud))
        os.environ.update(env)
        world.write_env_file(folder / "env", env)
        revision = base.publish(model, simulator.env())
    with demo.part("bare git remote with the hook that does what the Action does"):
        remote = world.make_remote(folder, env)
        repository = world.make_repository(folder, remote, data, revision, env)
        world.move(repository / "jobs" / "demo.yaml", demo.cloud)
        world.commit_all(repository, "Train a LoRA on the standard library's docstrings", env)
    settings = load_settings(repository, env)
    run = desired(repository).jobs["demo"].run(settings.ledger_url)
    with demo.part(f"git push, then {run.id} until its receipt"):
        world.push(repository, env)
        demo.processes.add("action", int((folder / "action.pid").read_text()))
        record = _watch(demo, RunView(ledger=open_ledger(settings, env), run_id=run.id))
    _finish(demo, run, record, simulator, env)
    return 0 if (record.receipt or {}).get("outcome") == "succeeded" else 1


def _watch(demo: Demo, view: RunView) -> RunRecord:
    """Follow the run's branch until the receipt. Raises PushtrainError when nothing has come of it in 15 minutes."""
    end = time.monotonic() + GIVE_UP_S
    terminal = demo.console.is_terminal
    shown = ""
    with LiveView(console=demo.console, refresh_per_second=4, transient=False) if terminal else _no_view() as live:
        while time.monotonic() < end:
            with contextlib.suppress(LedgerUnavailable):
                view.refresh()
            said = _last_lines(demo.folder / "action.log")
            if live is not None:
                live.update(draw(view, time.time(), said))
            else:
                about, text = line(view, time.time())
                if about != shown:
                    demo.console.print(f"  {text}", markup=False)
                shown = about
            if view.record is not None and view.record.is_over:
                return view.record
            if not demo.processes.alive("action") and (view.record is None or not view.record.is_over):
                view.refresh()
                if view.record is None or not view.record.is_over:
                    break
            time.sleep(0.5)
    raise PushtrainError(
        f"{view.run_id} did not reach its receipt",
        hint="what the Action said: " + " / ".join(_last_lines(demo.folder / "action.log")),
        reason="DemoStuck",
    )


def _finish(demo: Demo, run: Run, record: RunRecord, simulator: "RunningSimulator", env: dict[str, str]) -> None:
    from infra.clouds import connect_all

    ledger = open_ledger(load_settings(demo.folder / "repository", env), env)
    raw, _ = ledger.text(record, "metrics")
    plot = show.write_plot(demo.folder / "loss.svg", raw, run.id)
    adapter = base.fetch_adapter(record, demo.folder / "adapter", simulator.env()) if record.result else None
    left = connect_all(env).find("")
    show.summary(demo.console, record, demo.seconds, left)
    show.where_to_look(demo.console, demo.folder, run, plot=plot, adapter=adapter)


def clean_up(demo: Demo) -> None:
    """Bring down, in this order: the Action, the run (so that its receipt says what it cost), the simulator."""
    demo.processes.stop("action")
    stop_marked(f"PUSHTRAIN_DEMO_DIR={demo.folder}")
    if demo.processes.alive("simulator") and (demo.folder / "repository").exists():
        try:
            _cancel_active(demo)
        except PushtrainError as failure:
            demo.console.print(f"the run could not be closed: {failure}", style="red", markup=False)
    demo.processes.stop_all()
    world.stop_pods(demo.folder / "simulator")


def _cancel_active(demo: Demo) -> None:
    from pushtrain.follow import cancel

    repository = demo.folder / "repository"
    ledger = open_ledger(load_settings(repository))
    active = [run_id for run_id, record in ledger.read_all(ledger.refs()).items() if not record.is_over]
    if active:
        control = open_control(repository, lambda text: demo.console.print(f"  {text}", markup=False))
        for run_id in active:
            cancel(control, run_id, reason="DemoInterrupted")


@contextlib.contextmanager
def _no_view() -> Iterator[Any]:
    yield None


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not stop the clean-up half way; every wait in it is bounded."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _last_lines(path: Path, count: int = 4) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []

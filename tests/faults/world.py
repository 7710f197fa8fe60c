"""One schedule from its push to rest: builds the world, lets the faults strike, checks the promises."""

import contextlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from infra.simulator.faults import Kind
from infra.simulator.state import PodOrder
from pushtrain.ledger import Ledger
from pushtrain.refs import CLAIMS

from .boards import Boards, LedgerLink
from .cloud import RestApi, VirtualService
from .container import Ground
from .fault import Fault
from .machines import Machines
from .memory_git import MemoryStore
from .money import check_money
from .office import Office, WatchedLedger
from .people import Actions, delete_as_told
from .promises import IDLE, MARK, OTHER_MARK, OTHERS, Figures, Listed, Promises
from .rentals import RENTALS
from .schedule import Scenario, Schedule, scenario
from .source import Repository
from .strikes import STRIKES, fates
from .virtual import Process, Scheduler

START = 1.8e9
HOURS_TO_REST = 16


@dataclass(kw_only=True)
class Result:
    schedule: Schedule
    broken: list[str]
    figures: Figures
    points: int = 0
    """How often the first control plane could have been killed."""
    said: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    """Faults that took effect, by kind."""


class World:
    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule, self.folder = schedule, folder
        self.scenario: Scenario = scenario(schedule.seed, schedule.cloud)
        self.scheduler = Scheduler(START)
        self.struck: set[Fault] = set()
        self.boards = Boards(self.scheduler, schedule.seed, self.hit)
        self.promises = Promises(self.scheduler)
        ground = Ground(
            scheduler=self.scheduler,
            boards=self.boards,
            work=self.scenario.work,
            folder=folder / "volumes",
            start_s=self.scenario.start_s,
            open_ledger=self._pods_ledger,
            at_work=self.promises.at_work,
        )
        self.machines = Machines(ground, fates(schedule))
        rental, page_size = RENTALS[schedule.cloud], self.scenario.page_size
        self.service = VirtualService(self.scheduler, self.machines, self.promises, self.hit, page_size, rental)
        self.promises.account = self.service.account
        ground.api = self.api = RestApi(self.service, rental)
        self.repository = Repository(self.boards.source)
        self.office = Office(
            scheduler=self.scheduler,
            boards=self.boards,
            promises=self.promises,
            repository=self.repository,
            api=self.api,
            folder=folder,
            max_minutes=self.scenario.max_minutes,
            keeps_state=self.scenario.keeps_state,
        )
        self.actions = Actions(self.office, self.scenario.hour_s)
        self._numbers = count()
        self._foreign()

    def run(self) -> Result:
        """Raises what a process raised and no process of ours may raise."""
        try:
            self.push(dict(self.scenario.jobs))
            for fault in self.schedule.faults:
                self._arm(fault)
            with contextlib.suppress(_Broken):
                self._to_rest()
                self.promises.check_rest()
                check_money(self)
            if self.scheduler.failure is not None:
                self.promises.broken.append(f"crash: {self.scheduler.failure!r}")
        finally:
            self.scheduler.close()
        first = next((it for it in self.scheduler.processes if it.name == "action"), None)
        return Result(
            schedule=self.schedule,
            broken=self.promises.broken,
            figures=self.promises.figures,
            points=first.points if first else 0,
            said=self.office.said,
            struck=Counter(fault.kind for fault in self.struck),
        )

    def _to_rest(self) -> None:
        """Hour after hour until nothing happens any more; then one more reconcile, as the hour would bring it."""
        ends = (fault.at_s + fault.amount * (fault.kind in _LASTING) for fault in self.schedule.faults)
        last_s = max(ends, default=0.0)
        self._let(min(last_s, 4000.0) + 60.0)
        for _ in range(HOURS_TO_REST):
            if self._is_quiet():
                break
            self._let(self.scenario.hour_s)
        self.actions.ask()
        self._let(900.0)
        if told := [it for it in self.actions.last.failures if it.reason == "KeptTwice"]:
            self.promises.figures.kept_twice += 1
            delete_as_told(self.office, str(told[-1].hint))
            self._let(60.0)

    def _let(self, seconds: float) -> None:
        self.scheduler.run(self.scheduler.now + seconds)
        if self.promises.broken:
            raise _Broken

    def _is_quiet(self) -> bool:
        account = self.service.account
        ours = [it for it in [*account.live_pods(), *account.live_volumes()] if it.name.startswith(MARK)]
        jobs = self.repository.checkout().desired().jobs.values()
        wanted = [CLAIMS + job.claim for job in jobs if not job.spec.suspend]
        unclaimed = [ref for ref in wanted if ref not in self.promises.remote.refs]
        open_runs = self.promises.figures.runs - len(self.promises.receipts)
        return not (ours or self.actions.busy or unclaimed or open_runs or self.boards.pushes_under_way)

    def hit(self, fault: Fault) -> None:
        """This fault took effect."""
        self.struck.add(fault)

    def jobs(self) -> dict[str, str]:
        """The specs at the head of the default branch."""
        return dict(self.repository.commits[-1].jobs)

    def push(self, jobs: dict[str, str]) -> None:
        self.repository.push(self.scheduler.now, jobs)
        self.actions.ask()

    def _pods_ledger(self, process: Process) -> Ledger:
        number = next(self._numbers)
        link = LedgerLink(process, self.scheduler, self.boards, "pod", f"pod {number}")
        store = MemoryStore(self.promises.remote, link)
        return WatchedLedger(
            self.promises,
            f"pod {number}",
            Listed(),
            store=store,
            clock=lambda: self.scheduler.now,
            sleep=process.sleep,
        )

    def _foreign(self) -> None:
        """Of other people: without a mark, with another ledger's mark, and with names that only look like ours. And two
        kept volumes that no run here uses."""
        names = ("my-notebook", f"{OTHER_MARK}job-00000000-00000000", "pt-", "PT-" + MARK[3:])
        for name in names:
            volume = self.service.account.create_volume(f"{name}-v", 10, "EU-SE-1", None, START)
            order = PodOrder(name=f"{name}-a1", image="x", gpu="NVIDIA A40", volume_id=volume.id)
            self.service.account.create_pod(order, START)

        for name in (IDLE, OTHERS):
            self.service.account.create_volume(name, 10, "EU-SE-1", None, START)

    def _arm(self, fault: Fault) -> None:
        self.scheduler.at(START + fault.at_s, lambda: STRIKES[fault.kind](self, fault))

    def for_a_while(self, kind: Kind, fault: Fault, match: dict[str, str]) -> None:
        """A fault of the simulator's own, for `amount` seconds."""
        number = self.service.arm(kind, None, match, 1.0, fault)
        self.scheduler.after(fault.amount, lambda: self.service.faults.clear(number))


class _Broken(Exception):
    """A promise is broken: there is nothing more to see."""


_LASTING = {
    "http_402", "http_403", "http_401", "cloud_down", "no_capacity", "no_stock", "balance_gone",
    "ledger_down", "ledger_hangs", "hub_down", "source_down",
}  # fmt: skip


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="pushtrain-faults-", dir=shared if shared.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def play(schedule: Schedule, prepare: Callable[[World], None] = lambda world: None) -> Result:
    random.seed(schedule.seed)  # the pod's shipper draws its pauses from the module's own generator
    with scratch() as folder:
        world = World(schedule, folder)
        prepare(world)
        return world.run()

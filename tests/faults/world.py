"""One schedule from its push to rest: builds the world, lets the faults strike, checks the promises."""

import contextlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from infra.simulator.faults import Kind
from infra.simulator.state import PodOrder
from pushtrain.ledger import Ledger
from pushtrain.refs import CLAIMS

from .boards import Boards, LedgerLink
from .cloud import Seat, VirtualService
from .container import Ground
from .fault import Fault
from .figures import IDLE, MARK, OTHER_MARK, OTHERS, Figures
from .machines import Machines
from .memory_git import MemoryStore
from .money import check_money
from .office import Office, WatchedLedger
from .people import Actions, delete_as_told
from .promises import Promises
from .rentals import RENTALS
from .rest import check_deadlines, check_rest
from .schedule import Scenario, Schedule, clouds_of, scenario
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
        self.clouds = clouds_of(schedule)
        self.scheduler = Scheduler(START)
        self.struck: set[Fault] = set()
        self.boards = Boards(self.scheduler, schedule.seed, self.hit, self.clouds)
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
        self.services = {name: self._service(name) for name in self.clouds}
        self.promises.accounts = {name: it.account for name, it in self.services.items()}
        self.promises.hides = lambda cloud, pod: RENTALS[cloud].hides(self.services[cloud], pod)
        self.repository = Repository(self.boards.source)
        self.office = Office(
            scheduler=self.scheduler,
            boards=self.boards,
            promises=self.promises,
            repository=self.repository,
            services=self.services,
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
                check_rest(self.promises, self.services, self.scheduler.now)
                check_deadlines(self.promises, self.machines)
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
        there = [[*it.account.live_pods(), *it.account.live_volumes()] for it in self.services.values()]
        ours = [it for found in there for it in found if it.name.startswith(MARK)]
        jobs = self.repository.checkout().desired().jobs.values()
        wanted = [CLAIMS + job.claim for job in jobs if not job.spec.suspend]
        unclaimed = [ref for ref in wanted if ref not in self.promises.remote.refs]
        open_runs = self.promises.figures.runs - len(self.promises.receipts)
        under_way = self.boards.pushes_under_way + sum(it.under_way for it in self.services.values())
        return not (ours or self.actions.busy or unclaimed or open_runs or under_way)

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
            {},
            store=store,
            clock=lambda: self.scheduler.now,
            sleep=process.sleep,
        )

    def _foreign(self) -> None:
        """Of other people: without a mark, with another ledger's mark, and with names that only look like ours. And two
        kept volumes that no run here uses."""
        names = ("my-notebook", f"{OTHER_MARK}job-00000000-00000000", "pt-", "PT-" + MARK[3:])
        for service in self.services.values():
            account, rental = service.account, service.rental
            for name in names:
                volume = account.create_volume(f"{name}-v", 10, rental.place, None, START)
                gpu, env = rental.gpu("NVIDIA A40"), dict(rental.foreign_env)
                order = PodOrder(name=f"{name}-a1", image="x", gpu=gpu, volume_id=volume.id, env=env)
                account.create_pod(order, START)
            for name in (IDLE, OTHERS):
                account.create_volume(name, 10, rental.place, None, START)

    def _service(self, name: str) -> VirtualService:
        seat = Seat(containers=self.machines, watcher=self.promises, hit=self.hit, way=self.boards.ways[name])
        page_size = self.scenario.page_size
        return VirtualService(self.scheduler, RENTALS[name], seat, page_size=page_size, folder=self.folder)

    def struck_by(self, fault: Fault) -> list[VirtualService]:
        """The clouds that a fault is about."""
        return [it for name, it in self.services.items() if fault.where in ("", name)]

    def _arm(self, fault: Fault) -> None:
        self.scheduler.at(START + fault.at_s, lambda: STRIKES[fault.kind](self, fault))

    def for_a_while(self, kind: Kind, fault: Fault, match: dict[str, str]) -> None:
        """A fault of the simulator's own, for `amount` seconds. `match` names types of GPU as schedules do."""
        for service in self.struck_by(fault):
            words = match | ({"gpu": service.rental.gpu(match["gpu"])} if "gpu" in match else {})
            number = service.arm(kind, None, words, 1.0, fault)
            self.scheduler.after(fault.amount, partial(service.faults.clear, number))


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

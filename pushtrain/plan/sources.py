"""Where a plan's facts come from: what the clouds offer (market.py), the Hub, data files, the ledger's past runs.

Everything is asked once for a call, however many specs there are. Nothing here needs a key or Pulumi's program.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pushtrain.errors import PushtrainError, SpecError
from pushtrain.estimate.correction import Past, past
from pushtrain.estimate.interruptions import Rate, Seen, assumed_hours, rate
from pushtrain.estimate.tokens import Dataset
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.plan.data import hub_dataset, local_dataset, with_tokenizer
from pushtrain.plan.hub import DatasetFacts, Hub
from pushtrain.plan.market import Market, Offers
from pushtrain.prices.snapshot import PRICED, Snapshot, of_repository
from pushtrain.spec import JobSpec, TrainingSpec
from pushtrain.spot import seen
from pushtrain.volumes.kept import in_words, kept_volume, month_in_words

# Runs of the ledger that are looked at for a correction; a branch's name has no date, so those of the same job go
# first.
MOST_RUNS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """`data_center` is None where the volume has yet to be made, or nobody could be asked. `misfits`: the spec leaves
    its data center out, so that no place will do."""

    data_center: str | None
    note: str
    misfits: bool = False


@dataclass(kw_only=True)
class Sources:
    """`root` is the work tree. Blocking; not for several threads."""

    root: Path
    environ: Mapping[str, str]
    market: Market
    hub: Hub
    _datasets: dict[tuple[object, ...], tuple[Dataset | None, str]] = field(default_factory=dict)
    _past: list[Past] | None = None
    _records: list[RunRecord] | None = None
    _taken: dict[str, Seen] | None = None
    past_trouble: str = ""

    def offers(self, spec: JobSpec) -> list[Offers]:
        """What is rentable for a spec at each cloud that it allows: asked live with a key, else as on the day of the
        snapshot."""
        compute = spec.compute
        return [self.market.offers(cloud, compute.count, compute.data_centers) for cloud in compute.clouds]

    def kept(self, spec: JobSpec) -> Kept:
        """What is known of the kept volume of a spec: where it is, and a note for the reviewer."""
        from infra.clouds import connect
        from pushtrain.settings import load_settings

        volume = spec.compute.volume
        cloud = spec.compute.clouds[0]
        month = f"{month_in_words(volume.size_gb, None, cloud)} or more"
        apart = "shared by jobs, not in this run's budget, and kept until `pushtrain volumes delete`"
        unknown = f"the volume {volume.name} is kept ({volume.size_gb} GB, {month}): {apart}; made by its first run"
        if not self.market.is_live(cloud):
            return Kept(data_center=None, note=f"{unknown}. Whether it is there already was not asked")
        try:
            ledger_url = load_settings(self.root, self.environ).ledger_url
            found = kept_volume(connect(cloud, self.environ), spec, ledger_url)
        except PushtrainError as failure:
            misfits = isinstance(failure, SpecError)
            return Kept(data_center=None, note=f"{failure.reason}: {failure}", misfits=misfits)
        if found is None:
            return Kept(data_center=None, note=f"{unknown}, in the first place's data center")
        grows = f", grown to {volume.size_gb} GB" if volume.size_gb > found.size_gb else ""
        return Kept(data_center=found.data_center, note=f"kept volume {in_words(found, cloud)}{grows}: {apart}")

    def dataset(self, spec: TrainingSpec) -> tuple[Dataset | None, str, DatasetFacts]:
        """How large the dataset is, or None and why; and what the Hub says of it."""
        data = spec.data
        if data.source is None:
            tokenizer = self.hub.tokenizer(spec.model.id, spec.model.revision)
            key = (data.path, data.form, spec.task, tuple(sorted(data.columns.items())), tokenizer)
            if key not in self._datasets:
                found, why = local_dataset(spec, self.root)
                counted = with_tokenizer(found, spec, self.root, tokenizer) if found else None
                self._datasets[key] = (counted, why)
            return (*self._datasets[key], DatasetFacts())
        if not data.is_on_hub:
            return None, f"{data.place} is not read here", DatasetFacts()
        name = str(data.source).removeprefix("hf://datasets/")
        facts = self.hub.dataset(name, data.revision, data.split, data.config)
        return (*hub_dataset(spec, facts), facts)

    def past(self) -> list[Past]:
        """What finished runs of the ledger say, newest first; empty without PUSHTRAIN_LEDGER_URL."""
        if self._past is None:
            self._past = _taught(self.records())
        return self._past

    def interruptions(self, cloud: str) -> Rate:
        """How often its spot machines are taken away. Raises PushtrainError for a setting that is none."""
        if self._taken is None:
            self._taken = seen(self.records())
        return rate(assumed_hours(self.environ), self._taken.get(cloud, Seen()))

    def records(self) -> list[RunRecord]:
        """Runs of the ledger, newest first; empty without PUSHTRAIN_LEDGER_URL, and where it cannot be read, which
        `past_trouble` says then."""
        if self._records is None:
            self._records = []
            if self.environ.get("PUSHTRAIN_LEDGER_URL"):
                try:
                    self._records = newest_runs(_ledger(self.root, self.environ))
                except PushtrainError as failure:
                    self.past_trouble = f"past runs are not read: {failure}"
        return self._records

    def learn(self, runs: list[Past]) -> None:
        """What somebody else has read of the ledger, newest first."""
        self._past = runs


def open_sources(root: Path, environ: Mapping[str, str], snapshots: Mapping[str, Snapshot] | None = None) -> Sources:
    """Raises PushtrainError for a prices.json that cannot be read."""
    prices = snapshots or {cloud: of_repository(root, cloud) for cloud in PRICED}
    market = Market(environ=environ, snapshots=prices, now_s=time.time())
    return Sources(root=root, environ=environ, market=market, hub=Hub(environ))


def past_runs(ledger: Ledger, job: str = "") -> list[Past]:
    """What runs of `job`, and of others, teach. Raises LedgerError."""
    return _taught(newest_runs(ledger, job))


def newest_runs(ledger: Ledger, job: str = "") -> list[RunRecord]:
    """The newest runs, of `job` before others where there are very many. Raises LedgerError."""
    refs = sorted(ledger.refs().items(), key=lambda ref: (not ref[0].startswith(f"{job}-"), ref[0]))
    records = ledger.read_all(dict(refs[:MOST_RUNS])).values()
    return sorted(records, key=lambda record: record.events[0].epoch_s, reverse=True)


def _taught(records: Sequence[RunRecord]) -> list[Past]:
    return [found for record in records if (found := past(record.run, record.receipt)) is not None]


def _ledger(root: Path, environ: Mapping[str, str]) -> Ledger:
    from pushtrain.settings import load_settings
    from pushtrain.wiring import open_ledger

    return open_ledger(load_settings(root, environ), environ)

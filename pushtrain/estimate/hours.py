"""From tokens per second to the hours of a pod: start, training, evaluation, upload; low, expected and high. Pure."""

from dataclasses import dataclass, replace

from pushtrain.estimate.recipe import Recipe, trained_parameters
from pushtrain.estimate.shape import ModelShape
from pushtrain.estimate.speed import Speed, passes
from pushtrain.estimate.tokens import Work

# From the create to the first process, low, expected, high: an official image that the host has is up within 30 to 90
# s, one it has to pull and build on takes 8 to 10 minutes (neuromechanist/research-skills#92, runpod-deploy's
# documentation).
BOOT_S = (60.0, 240.0, 720.0)
# The locked environment: wheels, and then their bytecode.
ENVIRONMENT_GB = 3.3
ENVIRONMENT_S = (90.0, 180.0, 600.0)
# Imports, tokens of the data, the first batch; the trainer's own start was 10 s on two cores.
PREPARE_S = (20.0, 60.0, 180.0)
# The Hub to the volume, and the volume to the GPU: 490 MB/s were measured to a pod, a volume gives 200 to 400.
DOWNLOAD_BYTES_PER_S = (400e6, 200e6, 50e6)
UPLOAD_S = (10.0, 60.0, 300.0)
# Beside the steps: optimizer, checkpoints, logging.
BESIDE = 1.04
# How far off the speed may be: published rows lie between 0.8 and 1.3 of the estimate without torch.compile, and a
# card nobody measured may lie further.
FAST, SLOW = 1.3, 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """One quantity three times."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "Band") -> "Band":
        return Band(low=self.low + other.low, expected=self.expected + other.expected, high=self.high + other.high)

    def times(self, factor: float) -> "Band":
        return Band(low=self.low * factor, expected=self.expected * factor, high=self.high * factor)


NOTHING = Band(low=0.0, expected=0.0, high=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """Hours by phase, of one undisturbed attempt but for `interrupted`: what machines that are taken away add to them.
    `correction` is what past runs say the training takes beside this."""

    start: Band
    download: Band
    training: Band
    evaluation: Band
    upload: Band
    correction: float = 1.0
    interrupted: Band = NOTHING

    @property
    def total(self) -> Band:
        work = (self.training + self.evaluation).times(self.correction)
        return self.start + self.download + work + self.upload + self.interrupted

    def with_interruptions(self, lost: Band) -> "Hours":
        return replace(self, interrupted=lost)


def hours(
    shape: ModelShape, recipe: Recipe, work: Work, found: Speed, stored_bytes: float, correction: float = 1.0
) -> Hours:
    """`stored_bytes` are those of the weights on the Hub: downloaded once, read from the volume once."""
    training = work.tokens / found.tokens_per_s * BESIDE
    forward = found.flops_per_token / passes(recipe)
    evaluation = work.eval_tokens * forward / found.flops_per_token / found.tokens_per_s
    uploaded = 4.0 * trained_parameters(shape, recipe)
    return Hours(
        start=_band(
            *(
                boot + environment + prepare
                for boot, environment, prepare in zip(BOOT_S, ENVIRONMENT_S, PREPARE_S, strict=True)
            )
        ),
        download=_band(*(2 * stored_bytes / rate for rate in DOWNLOAD_BYTES_PER_S)),
        training=_band(training / FAST, training, training / SLOW),
        evaluation=_band(evaluation / FAST, evaluation, evaluation / SLOW),
        upload=_band(*(base + uploaded / rate for base, rate in zip(UPLOAD_S, DOWNLOAD_BYTES_PER_S, strict=True))),
        correction=correction,
    )


def _band(low_s: float, expected_s: float, high_s: float) -> Band:
    return Band(low=low_s / 3600, expected=expected_s / 3600, high=high_s / 3600)

"""What a cloud that bills each GB takes for what every attempt brings, and what of its traffic no cap holds. Pure."""

from pushtrain.capabilities import CLOUDS
from pushtrain.estimate.hours import ENVIRONMENT_GB
from pushtrain.estimate.known import known_shape
from pushtrain.spec import JobSpec, TrainingSpec


def attempt_usd(cloud: str, model_gb: float) -> float:
    """Dollars of one attempt's environment and of a model that large, at the dearest host that is asked; 0 where
    traffic is free, and at a cloud that only prices are known of. An image is free; data and what is sent are not
    counted."""
    return (ENVIRONMENT_GB + model_gb) * _usd_a_gb(cloud)


def brought_usd(cloud: str, spec: JobSpec) -> float:
    """The same before the Hub was asked: with the model where the table of models has it, else without."""
    return attempt_usd(cloud, _model_gb(spec)) if _usd_a_gb(cloud) else 0.0


def beyond_cap(cloud: str, spec: JobSpec) -> str | None:
    """What `budget.max_usd` does not hold there, in words; None where traffic is free."""
    kept_usd, can = brought_usd(cloud, spec), CLOUDS[cloud]
    if not kept_usd:
        return None
    what = "environment and model" if _model_gb(spec) else "environment alone"
    return (
        f"{can.title} bills traffic, at most ${can.traffic_usd:.2f} a GB: budget.max_usd keeps ${kept_usd:.2f} an "
        f"attempt for the {what}; what else a pod gets or sends (data, copies of checkpoints) is beyond that cap"
    )


def _usd_a_gb(cloud: str) -> float:
    return CLOUDS[cloud].traffic_usd if cloud in CLOUDS else 0.0


def _model_gb(spec: JobSpec) -> float:
    found = known_shape(spec.model.id) if isinstance(spec, TrainingSpec) else None
    return found[0].parameters * found[0].stored_bits / 8e9 if found else 0.0

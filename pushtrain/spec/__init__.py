"""The job spec: the YAML file in jobs/ that says what to train, on what, for at most how much.

Strict: unknown keys, NaN and wrong types are refused, and what belongs to another task. Training keys carry the names
of TRL, PEFT and transformers. Reading a file, with file:line:column in every error, is `pushtrain.spec.file`. The texts
under the fields are what an editor shows (jobs/schema.json) and what an error gives as its hint.
"""

from pushtrain.spec.base import NAME, JobSpec
from pushtrain.spec.job import KINDS, CommandSpec, TrainingSpec, job_spec, kind_of, tasks_of
from pushtrain.spec.session import SessionSpec

__all__ = ["KINDS", "NAME", "CommandSpec", "JobSpec", "SessionSpec", "TrainingSpec", "job_spec", "kind_of", "tasks_of"]

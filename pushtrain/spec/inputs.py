"""`model` and `data` of a spec: what a run starts from."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from pushtrain.rows import Form
from pushtrain.spec.names import CommitPath, DatasetUrl, HubId, Part, Revision

# What a form calls the text, or messages, that a column of the dataset holds.
RowField = Literal[
    "prompt",
    "completion",
    "messages",
    "tools",
    "chosen",
    "rejected",
    "instruction",
    "input",
    "output",
    "source",
    "summary",
    "text",
]
DataPath = Annotated[CommitPath, StringConstraints(pattern=r"\.(jsonl|csv|tsv|parquet)$")]
SplitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$")]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Model(Part):
    """The base model."""

    id: HubId
    """Hub id of the base model, ORG/NAME."""
    revision: Revision = "main"
    """Branch, tag or commit on the Hub; resolved to a commit when the run starts and recorded."""
    trust_remote_code: bool = False
    """True lets the model's repository run its own Python code on the pod."""


class Data(Part):
    """The dataset: exactly one of `source` (on the Hub) and `path` (in the commit)."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["source"]}]})

    source: DatasetUrl | None = None
    """A dataset on the Hub, hf://datasets/ORG/NAME, or one file in a bucket, s3://BUCKET/NAME or gs://BUCKET/NAME."""
    path: DataPath | None = None
    """A .jsonl, .csv, .tsv or .parquet file in the commit, relative to the repository's root."""
    revision: Revision = "main"
    """Branch, tag or commit of `source`; resolved to a commit when the run starts and recorded."""
    config: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")] | None = None
    """The configuration (subset) of `source`, where it has several."""
    split: SplitName = "train"
    """The split of `source` to train on."""
    streaming: bool = False
    """True reads the rows of `source` while they are trained on, in place of downloading it first; needs max_steps."""
    eval_split: SplitName | None = None
    """The split of `source` to evaluate on, in place of `eval_fraction`."""
    form: Form | None = None
    """The form every row must have; the first row tells when left out."""
    columns: dict[RowField, ColumnName] = {}
    """The dataset's name for a field of the form, where it has another: {prompt: question, completion: answer}."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """A row that cannot be read or trained on: refuse ends the run at the first, skip leaves them out, counted."""
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the rows held out, chosen by `train.seed`."""

    @property
    def is_on_hub(self) -> bool:
        return self.source is not None and self.source.startswith("hf://")

    @property
    def place(self) -> str:
        """Where the rows lie, as the spec writes it."""
        return self.path or str(self.source)

    @property
    def bucket(self) -> Literal["s3", "gs"] | None:
        """The kind of bucket the rows lie in; None where they lie elsewhere."""
        if self.source is None or self.is_on_hub:
            return None
        return "s3" if self.source.startswith("s3://") else "gs"

    @model_validator(mode="after")
    def _one_place(self) -> "Data":
        if (self.source is None) == (self.path is None):
            raise ValueError(
                "needs exactly one of 'path' (a file in the commit) and 'source' (hf://datasets/…, s3://…)"
            )
        of_the_hub = self.model_fields_set & {"revision", "config", "split", "eval_split", "streaming"}
        if not self.is_on_hub and of_the_hub:
            raise ValueError(
                f"has {min(of_the_hub)}, which is for a dataset of the Hub: a file is in the commit, whole"
            )
        if self.eval_split is not None and "eval_fraction" in self.model_fields_set:
            raise ValueError("has eval_split and eval_fraction: rows are held out by one of them")
        if self.eval_split == self.split:
            raise ValueError("has the same split twice: what is trained on says nothing when it is evaluated")
        return self

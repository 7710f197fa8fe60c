"""The way of a row to the batch an optimizer step is made of. Each step is one module, read in this order:

    sources.py    where rows come from: a file of the commit, a dataset of the Hub, a file in a bucket (buckets.py)
    split.py      which rows are held out
    pieces.py     a row → pieces of text, each learned or not; the chat template writes conversations
    tokens.py     pieces → token ids and labels: a label is the token where it carries the loss, else -100
    encode.py     what that makes for each task: the columns its trainer takes, what was cut off, what is left out
    parallel.py   … by several processes where rows are many
    fit.py        what the model's configuration says: how long a row may be, which family it is
    layout.py     whether several rows share a sequence (packing), or a batch has no padding
    cache.py      the result on the volume, under a digest of everything it depends on
    stream.py     in place of the cache: rows that are read while they are trained on, from a position that is kept
    prepare.py    all of that in turn, counted, and said in the log
    batch.py      the first batch as the model gets it, for people

From there the trainer of the task (trainer/tasks/) draws batches, its collator pads or joins them, and each
micro-batch goes forward and backward until an optimizer step is due.

Nothing here imports torch; the rows of a file are looked at before anything else does.
"""

from trainer.data.encode import Encoder, Question, Seq2Seq, pairs, texts
from trainer.data.fit import check_length, model_config
from trainer.data.layout import lengths
from trainer.data.prepare import prepare
from trainer.data.prepared import Counts, Prepared
from trainer.data.sources import Rows, local_rows

__all__ = [
    "Counts",
    "Encoder",
    "Prepared",
    "Question",
    "Rows",
    "Seq2Seq",
    "check_length",
    "lengths",
    "local_rows",
    "model_config",
    "pairs",
    "prepare",
    "texts",
]

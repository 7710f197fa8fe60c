"""The only room that imports torch: from a job spec to an adapter on the Hub. Runs on the pod.

The way of a batch, from a file to the optimizer step:

    1  __main__.py             `_attempt`: spec, revisions, rows, disk and memory are checked; no torch yet
    2  data/sources.py         `local_rows`: the rows of a file, each of them judged (pushtrain/rows/)
    3  run.py                  `carry_out`: everything from here on, in its order
    4  tasks/sft.py            `prepare`: how a row becomes tokens; `build`: TRL's trainer. dpo and seq2seq: beside it
    5  data/prepare.py         `_make`: rows → pieces.py → tokens.py → encode.py → layout.py → Arrow files in cache.py
    6  training.py             `train`: from the start, or from a checkpoint that checkpoint.py has verified
    7  transformers.Trainer    draws rows, its collator makes a batch of them (data/batch.py shows the first), forward,
                               backward, optimizer step
    8  watch/callback.py       `on_step_end`, `on_log`, `on_save`: figures, whole checkpoints, reasons to stop

After the last step: evaluate.py, save.py, merge.py, card.py, publish.py. docs/training.md lists the files.
"""

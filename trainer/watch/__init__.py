"""What is looked at while a model is trained: figures of every step, and the reasons to stop early."""

from trainer.watch.callback import Watch

__all__ = ["Watch"]

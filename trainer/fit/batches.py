"""How a step is cut into forward passes: what may be made smaller without training another model."""

from dataclasses import dataclass

from pushtrain.spec.recipe import Train


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Rows of one forward pass on one GPU, forward passes of a step, and whether activations are computed twice.

    The product of the first two is the effective batch; whatever fits the card better has the same one.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool

    @classmethod
    def of(cls, train: Train) -> "Batches":
        return cls(
            per_device_train_batch_size=train.per_device_train_batch_size,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            gradient_checkpointing=train.gradient_checkpointing,
        )

    def smaller(self) -> "Batches | None":
        """The next that needs less memory: half the rows (or the next divisor below), then recomputed activations.

        Same samples in each step, the loss normalised by all its tokens: equal to rounding. None when nothing is left.
        """
        rows, passes = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if rows > 1:
            fewer = next(count for count in range(rows // 2, 0, -1) if rows % count == 0)
            return Batches(
                per_device_train_batch_size=fewer,
                gradient_accumulation_steps=passes * rows // fewer,
                gradient_checkpointing=self.gradient_checkpointing,
            )
        if self.gradient_checkpointing:
            return None
        return Batches(per_device_train_batch_size=1, gradient_accumulation_steps=passes, gradient_checkpointing=True)

    def __str__(self) -> str:
        way = ", activations recomputed" if self.gradient_checkpointing else ""
        return f"micro-batch {self.per_device_train_batch_size} × accumulation {self.gradient_accumulation_steps}{way}"

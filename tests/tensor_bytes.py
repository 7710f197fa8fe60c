"""How many bytes of tensors a training step really holds, on the CPU: every storage from its making to its end.

Sizes do not depend on the device, so small models on a CPU tell what a formula counts. What a GPU adds (context,
workspaces of kernels, fragmentation) is not here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from pushtrain.estimate.recipe import Recipe
from trainer.fit.dry_run import Storages


def peak_bytes(config: Mapping[str, Any], recipe: Recipe) -> int:
    """The most bytes a micro-step holds once gradients and moments are there, as the trainer would run it on a GPU.

    Of a decoder whose logits nobody builds the head is a tile of the size that TRL's fused head has.
    """
    torch.set_num_threads(1)
    made = AutoConfig.for_model(**config)
    kind = AutoModelForSeq2SeqLM if made.is_encoder_decoder else AutoModelForCausalLM
    model = _adapted(kind.from_config(made), recipe, is_seq2seq=made.is_encoder_decoder)
    if recipe.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([it for it in model.parameters() if it.requires_grad], foreach=False)
    storages = Storages()
    for tensor in (*model.parameters(), *model.buffers()):
        storages.hold(tensor)
    with storages:
        for turn in range(2):
            storages.peak = storages.now
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = _loss(model, made, recipe)
            loss.backward()
            if turn == 0:
                optimizer.step()
    return storages.peak


def _adapted(model: Any, recipe: Recipe, *, is_seq2seq: bool) -> Any:
    if recipe.is_full:
        return model.to(torch.float32)
    lora = LoraConfig(
        r=recipe.rank,
        target_modules="all-linear" if recipe.target_modules is None else list(recipe.target_modules),
        use_dora=recipe.is_dora,
        task_type="SEQ_2_SEQ_LM" if is_seq2seq else "CAUSAL_LM",
    )
    model = get_peft_model(model.to(torch.bfloat16), lora)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if recipe.checkpointing:
        model.enable_input_require_grads()
    return model


def _loss(model: Any, config: Any, recipe: Recipe) -> torch.Tensor:
    ids = torch.randint(0, config.vocab_size, (recipe.micro_batch, recipe.length))
    if config.is_encoder_decoder:
        loss: torch.Tensor = model(input_ids=ids, labels=ids[:, : recipe.target_length]).loss
        return loss
    if recipe.builds_logits:
        return model(input_ids=ids, labels=ids, use_cache=False).loss  # type: ignore[no-any-return]
    base = model if recipe.is_full else model.get_base_model()
    hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return _Tile.apply(hidden, config.vocab_size)  # type: ignore[no-any-return]


class _Tile(torch.autograd.Function):
    """What TRL's fused head holds at once in forward and in backward: one tile of scores."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, vocabulary: int) -> torch.Tensor:
        ctx.shape, ctx.vocabulary, ctx.dtype = hidden.shape, vocabulary, hidden.dtype
        torch.empty(hidden.shape[0] * hidden.shape[1], vocabulary, dtype=torch.bfloat16)
        return hidden.float().mean()

    @staticmethod
    def backward(ctx: Any, *_gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        tile = torch.empty(ctx.shape[0] * ctx.shape[1], ctx.vocabulary, dtype=torch.bfloat16)
        gradient = torch.zeros(ctx.shape, dtype=torch.float32).to(ctx.dtype)
        del tile
        return gradient, None

"""Train a model on one phase's tokens: continued pretraining, supervised fine-tuning or preference alignment.

    torchrun --nproc-per-node 2 components/train/train/step.py --in tokens=TOKENS --in base=MODEL --out trained=/tmp/trained \
        --set objective=sft --set optimiser.learning_rate=1e-4
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tutelage.contracts import Manifest, Result
from tutelage.errors import InvalidInput
from tutelage.step import Context, main
from tutelage.train.config import Config


def run(config: Config, context: Context) -> dict[str, Result]:
    """Read Tokens and the base Model, train, write the trained Model. Every rank runs this; rank 0 gives the Result."""
    started = time.monotonic()
    from tutelage.contracts.tokens import TokenTable
    from tutelage.train.budget import Clock
    from tutelage.train.loop import Trainer
    from tutelage.train.model import prepare_model
    from tutelage.train.objectives import objective_of
    from tutelage.train.ranks import joined

    tokens, base = context.inputs["tokens"], context.inputs["base"]
    base_folder = context.input_path("base")
    table = TokenTable(context.input_path("tokens"), config.objective)
    _require_rows(table, tokens, config.objective)
    with joined() as ranks:
        model = prepare_model(base_folder, config, ranks)
        _require_same_tokenizer(model, base_folder, tokens)
        objective = objective_of(config.objective, table, ranks.device, config.preference)
        trainer = Trainer(config, model, objective, ranks, context.scratch, context.step_key)
        trainer.resume()
        clock = Clock(config.budget, ranks.size, trainer.progress.seconds, started)
        stopped = trainer.run(clock, _reporter(context, trainer, ranks.rank))
        if ranks.rank != 0:
            return {}
    return {"trained": _result(config, context, trainer, stopped, tokens, base)}


def _require_rows(table: Any, tokens: Manifest, objective: str) -> None:
    if len(table) == 0:
        phases = ", ".join(tokens.details["phases"]) or "none"
        raise InvalidInput(
            f"no training rows for objective {objective!r}; the tokens hold phases: {phases}",
            hint=f"give a source with phase {objective}, or look at what was dropped and why",
        )


def _require_same_tokenizer(model: Any, base: Path, tokens: Manifest) -> None:
    from tutelage.contracts.models import tokenizer_digest

    if tokenizer_digest(base) != tokens.details["tokenizer"]:
        raise InvalidInput(
            "the tokens were made with another tokenizer or chat template than the base model's",
            hint="tokenise with the model that is trained, or with the one it was trained from",
        )
    size = model.get_input_embeddings().weight.shape[0]
    if tokens.details["vocabulary"] > size:
        raise InvalidInput(
            f"the tokens' vocabulary has {tokens.details['vocabulary']} entries, the model's embedding {size}",
            hint="tokenise with the tokenizer of the model that is trained",
        )


def _reporter(context: Context, trainer: Any, rank: int) -> Any:
    """What the loop calls after every step: progress of the run, from rank 0 alone."""
    total = trainer.order.total_tokens(trainer.steps)
    began, before = time.monotonic(), trainer.progress.tokens
    if rank == 0 and trainer.resumed_at is not None:
        context.warn(f"resumed at step {trainer.resumed_at} of {trainer.steps} from a checkpoint")

    def report(progress: Any, steps: int, learning_rate: float) -> None:
        if rank != 0:
            return
        seconds = time.monotonic() - began
        speed = (progress.tokens - before) / seconds
        context.observe(tokens_per_second=round(speed, 1), training_seconds=round(seconds, 3))
        context.progress(
            progress.tokens, total, "tokens",
            loss=round(progress.loss[-1][1], 4), tokens_per_second=round(speed), steps_done=progress.step, steps_planned=steps,
            learning_rate=learning_rate,
        )  # fmt: skip

    return report


def _result(
    config: Config, context: Context, trainer: Any, stopped: str | None, tokens: Manifest, base: Manifest
) -> Result:
    """Write the Model and say what it is."""
    import torch

    from tutelage.contracts.models import model_digest
    from tutelage.train.loop import thinned
    from tutelage.train.model import write_model

    progress = trainer.progress
    if trainer.ranks.device.type == "cuda":
        context.observe(peak_device_memory_bytes=torch.cuda.max_memory_allocated())
    context.observe(metered_seconds=round(progress.seconds, 3))
    folder = context.outputs["trained"].path
    parameters = write_model(trainer.model, context.input_path("base"), folder, config)
    history = thinned(progress.loss)
    return Result(
        content_digest=model_digest(folder),
        licences=base.licences,
        metrics={"loss": history[-1][1], "tokens_trained": progress.tokens},
        details={
            "objective": config.objective,
            "stopped": stopped,
            "base_digest": base.content_digest,
            "parameters": parameters,
            "trainable_parameters": sum(parameter.numel() for parameter in trainer.parameters.values()),
            "tokens_trained": progress.tokens,
            "steps": progress.step,
            "steps_planned": trainer.order.steps,
            "ranks": trainer.ranks.size,
            "threads": torch.get_num_threads(),
            "device": trainer.ranks.device.type,
            "chat_probe": tokens.details["chat_probe"],
            "loss": history,
        },
    )


if __name__ == "__main__":
    main(run, Config)

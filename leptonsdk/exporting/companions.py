"""What stands beside a graph: config, processor, generation config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

GENERATIVE_TASKS = frozenset({"text-generation"})


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the model's config, its processor's files and, of one that generates, the generation config."""
    from leptonsdk.checkpoint import hub_task

    checkpoint.model.config.save_pretrained(folder)
    generation = getattr(checkpoint.model, "generation_config", None)
    generates = hub_task(checkpoint.task) in GENERATIVE_TASKS or getattr(
        checkpoint.model.config, "is_encoder_decoder", False
    )
    if generation is not None and generates:
        generation.save_pretrained(folder)
    checkpoint.save_processor(folder)


def pad_token(model: Any) -> int | None:
    """The token that fills rows that have ended: the pad token, else the end token, else None."""
    for config in (getattr(model, "generation_config", None), model.config):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            value = value[0] if isinstance(value, list) else value
            if value is not None:
                return int(value)
    return None

"""Greedy text from a runner, where it can write any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.errors import EvaluationError

if TYPE_CHECKING:
    from torch import Tensor

    from leptonsdk.hooks import Runner


def generate(runner: Runner, task: str, *, max_new_tokens: int, **inputs: Tensor) -> Tensor:
    """Token ids ``[batch, longest]``, as `TorchRunner.generate` gives them.

    Raises:
        EvaluationError: The runner cannot generate.
    """
    method = getattr(runner, "generate", None)
    if method is None:
        raise EvaluationError(
            f"{runner.runtime} cannot generate, and an encoder-decoder writes no other way",
            where=task,
            hint="evaluate it in torch",
        )
    ids: Tensor = method(**inputs, max_new_tokens=max_new_tokens)
    return ids

"""Running a causal language model with its key-value cache, and generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from leptonsdk.exporting import Generating, Outputs
from leptonsdk_onnxruntime.runner import OnnxRunner

CACHE_PREFIX = "past_key_values."
PRESENT_PREFIX = "present."


class DecoderRunner(Generating, OnnxRunner):
    """Runs a graph with a cache: one that reads a prompt when the cache is empty, and goes on from it otherwise."""

    def __init__(self, session: ort.InferenceSession, precision: str, pad_token_id: int | None = None) -> None:
        super().__init__(session, precision)
        self.pad_token_id = pad_token_id
        self.cache_shapes = {v.name: v.shape for v in session.get_inputs() if v.name.startswith(CACHE_PREFIX)}
        self.present_names = [PRESENT_PREFIX + name.removeprefix(CACHE_PREFIX) for name in self.cache_shapes]
        self.input_names = frozenset(name for name in self.dtypes if name not in self.cache_shapes)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Logits [batch, length, vocabulary] of a prompt, read with an empty cache."""
        [logits] = self.session.run(["logits"], self.full_feed(inputs))
        return Outputs(logits=torch.from_numpy(logits))

    def full_feed(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The given inputs, a mask and positions when they are absent, and an empty cache."""
        feed = super().full_feed(inputs)
        return feed | self.empty_cache(feed["input_ids"].shape[0])

    def empty_cache(self, batch_size: int) -> dict[str, NDArray[np.float32]]:
        """Keys and values of length 0, [batch, heads, 0, head size]."""
        return {
            name: np.zeros((batch_size, shape[1], 0, shape[3]), np.float32) for name, shape in self.cache_shapes.items()
        }

    def step(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: dict[str, ort.OrtValue] | None,
    ) -> tuple[torch.Tensor, dict[str, ort.OrtValue]]:
        if cache is None:
            empty = self.empty_cache(tokens.shape[0])
            cache = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in empty.items()}
        given = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        feed = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.feed(given).items()}
        # The cache stays where ONNX Runtime made it: no copies through NumPy.
        logits, *present = self.session.run_with_ort_values(["logits", *self.present_names], feed | cache)
        last = torch.from_numpy(logits.numpy()[:, -1])
        return last, dict(zip(self.cache_shapes, present, strict=True))

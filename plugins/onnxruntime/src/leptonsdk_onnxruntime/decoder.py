"""Running a causal language model with its key-value cache, and greedy generation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from leptonsdk_onnxruntime.runner import OnnxRunner, Outputs

CACHE_PREFIX = "past_key_values."
PRESENT_PREFIX = "present."
Ids = NDArray[np.int64]


def position_ids(attention_mask: Ids) -> Ids:
    """Positions that count only attended tokens: [batch, length] to [batch, length]; padding gets 0."""
    return np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0).astype(np.int64)


class DecoderRunner(OnnxRunner):
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
        feed = self.feed({name: value for name, value in inputs.items() if name in self.input_names})
        if "input_ids" not in feed:
            raise TypeError("the model needs the input 'input_ids'")
        mask = feed.get("attention_mask", np.ones_like(feed["input_ids"]))
        # Without positions a source model counts padding too; only its `generate` does not.
        positions = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int64), mask.shape)
        for name, made in (("attention_mask", mask), ("position_ids", positions)):
            if name in self.input_names:
                feed.setdefault(name, made)
        return feed | self.empty_cache(feed["input_ids"].shape[0])

    def empty_cache(self, batch_size: int) -> dict[str, NDArray[np.float32]]:
        """Keys and values of length 0, [batch, heads, 0, head size]."""
        return {
            name: np.zeros((batch_size, shape[1], 0, shape[3]), np.float32) for name, shape in self.cache_shapes.items()
        }

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        max_new_tokens: int,
        eos_token_id: int | Collection[int] | None = None,
    ) -> torch.Tensor:
        """Greedy generation. The prompt comes first in the answer, as in transformers' ``generate``.

        Args:
            input_ids: [batch, length], padded on the left.
            attention_mask: [batch, length]; default: all ones.
            max_new_tokens: At most that many; fewer when every row has ended.
            eos_token_id: One or several tokens that end a row; the rest of it is padding.
        """
        ids: Ids = input_ids.cpu().numpy().astype(np.int64)
        mask: Ids = np.ones_like(ids) if attention_mask is None else attention_mask.cpu().numpy().astype(np.int64)
        ends = _ends(eos_token_id)
        pad = self.pad_token_id if self.pad_token_id is not None else (int(ends[0]) if ends.size else 0)
        running = np.ones(ids.shape[0], bool)
        cache = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in self.empty_cache(ids.shape[0]).items()}
        answer, step, positions = [ids], ids, position_ids(mask)
        for _ in range(max_new_tokens):
            logits, cache = self._step(step, mask, positions, cache)
            tokens = np.where(running, logits[:, -1].argmax(-1), pad).astype(np.int64)
            answer.append(tokens[:, None])
            running &= ~np.isin(tokens, ends)
            if not running.any():
                break
            step = tokens[:, None]
            mask = np.concatenate([mask, np.ones_like(step)], axis=1)
            positions = positions[:, -1:] + 1
        return torch.from_numpy(np.concatenate(answer, axis=1))

    def _step(
        self, ids: Ids, mask: Ids, positions: Ids, cache: dict[str, ort.OrtValue]
    ) -> tuple[NDArray[np.float32], dict[str, ort.OrtValue]]:
        arrays = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feed = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items() if name in self.input_names}
        # The cache stays where ONNX Runtime made it: no copies through NumPy.
        logits, *present = self.session.run_with_ort_values(["logits", *self.present_names], feed | cache)
        return logits.numpy(), dict(zip(self.cache_shapes, present, strict=True))


def _ends(eos_token_id: int | Collection[int] | None) -> Ids:
    if eos_token_id is None:
        return np.array([], np.int64)
    return np.array([eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id), np.int64)

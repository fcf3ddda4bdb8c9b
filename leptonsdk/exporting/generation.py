"""Generation with a runtime's own forward: greedy or sampled, in batches, with whatever the runtime keeps as a cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], tuple[torch.Tensor, Any]]
"""``(tokens [batch, new], mask [batch, all], positions [batch, new], cache)`` to ``(logits [batch, vocabulary] of the last
position, cache)``. The first cache is None."""


def generate(
    step: Step,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    max_new_tokens: int,
    eos_token_id: int | Collection[int] | None = None,
    pad_token_id: int | None = None,
    processors: LogitsProcessorList | None = None,
    do_sample: bool = False,
    seed: int | None = None,
) -> torch.Tensor:
    """Tokens one by one. The prompt comes first in the answer, as in transformers' ``generate``.

    Args:
        step: The runtime's forward.
        input_ids: ``[batch, length]``, padded on the left.
        attention_mask: ``[batch, length]``; default: all ones.
        max_new_tokens: At most that many; fewer when every row has ended.
        eos_token_id: One or several tokens that end a row; the rest of it is padding.
        pad_token_id: What fills it; default: the first end token, else 0.
        processors: Change the logits before a token is taken: see `logits_processors`.
        do_sample: Draw tokens instead of taking the likeliest.
        seed: For drawing; default: torch's global generator.

    Returns:
        ``[batch, length + new]``.
    """
    ends = _tokens(eos_token_id)
    pad = pad_token_id if pad_token_id is not None else (ends[0] if ends else 0)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    ids = input_ids.cpu().long()
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask.cpu().long()
    running = torch.ones(ids.shape[0], dtype=torch.bool)
    tokens, positions, cache = ids, position_ids(mask), None
    for _ in range(max_new_tokens):
        logits, cache = step(tokens, mask, positions, cache)
        if processors:
            logits = processors(ids, logits.float())
        if do_sample:
            chosen = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
        else:
            chosen = logits.argmax(-1)
        tokens = torch.where(running, chosen, pad)[:, None]
        ids = torch.cat([ids, tokens], dim=1)
        running &= ~torch.isin(tokens[:, 0], torch.tensor(ends, dtype=torch.long))
        if not running.any():
            break
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        positions = positions[:, -1:] + 1
    return ids


class Generating(ABC):
    """A runner of a language model with a cache.

    Attributes:
        pad_token_id: Fills rows that have ended.
    """

    pad_token_id: int | None

    @abstractmethod
    def step(
        self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """The runtime's forward, a `Step`."""

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        max_new_tokens: int,
        eos_token_id: int | Collection[int] | None = None,
        do_sample: bool = False,
        seed: int | None = None,
        **processors: Any,
    ) -> torch.Tensor:
        """Greedy or sampled generation with the cache: see the function of this name, and `logits_processors`."""
        return generate(
            self.step,
            input_ids,
            attention_mask,
            max_new_tokens=max_new_tokens,
            eos_token_id=eos_token_id,
            pad_token_id=self.pad_token_id,
            processors=logits_processors(**processors),
            do_sample=do_sample,
            seed=seed,
        )


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions that count only attended tokens: ``[batch, length]`` to ``[batch, length]``; padding gets 0."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def logits_processors(
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    suppress_tokens: Sequence[int] | None = None,
    begin_suppress_tokens: Sequence[int] | None = None,
    begin: int = 0,
) -> LogitsProcessorList:
    """Transformers' own processors, in the order in which its ``generate`` has them.

    Args:
        temperature: Divides the logits.
        top_k: Draw from as many of the likeliest tokens.
        top_p: Draw from the likeliest tokens that have this share of the probability.
        repetition_penalty: Makes tokens that were there less likely (arXiv 1909.05858).
        suppress_tokens: Never.
        begin_suppress_tokens: Not as the first new token.
        begin: The length of the prompt, for those.
    """
    from transformers import LogitsProcessorList
    from transformers.generation import (
        RepetitionPenaltyLogitsProcessor,
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    found = LogitsProcessorList()
    if repetition_penalty is not None and repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(list(suppress_tokens), device="cpu"))
    if begin_suppress_tokens:
        found.append(SuppressTokensAtBeginLogitsProcessor(list(begin_suppress_tokens), begin, device="cpu"))
    if temperature is not None and temperature != 1:
        found.append(TemperatureLogitsWarper(temperature))
    if top_k:
        found.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        found.append(TopPLogitsWarper(top_p))
    return found


def _tokens(eos_token_id: int | Collection[int] | None) -> list[int]:
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else [int(token) for token in eos_token_id]

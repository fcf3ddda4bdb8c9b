"""How often each token occurs in batches of a model's inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from leptonsdk.hooks.classes import Batch, Progress

_MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}


def count_tokens(batches: Iterable[Batch], progress: Progress) -> Counter[int]:
    """Occurrences by token id; what the attention masks leave out (padding) does not count."""
    counts: Counter[int] = Counter()
    done = 0
    for batch in batches:
        for name, mask_name in _MASKS.items():
            if (ids := batch.get(name)) is None:
                continue
            mask = batch.get(mask_name)
            shown = ids[mask.bool()] if mask is not None and mask.shape == ids.shape else ids
            counts.update(shown.flatten().tolist())
            done += len(ids)
        progress(done, done, "counting tokens")
    return counts

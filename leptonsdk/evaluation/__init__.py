"""The evaluation harness: any model, torch or exported, on identical examples; per-example scores; profiles.

What an evaluator of one's own needs is here: cutting rows into batches, texts into model inputs, and unit embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand

if TYPE_CHECKING:
    from leptonsdk.evaluation.batching import batches, max_length, tokenize
    from leptonsdk.evaluation.tasks.embedding import embed

__all__ = ["batches", "embed", "max_length", "tokenize"]

_PLACES = {**dict.fromkeys(("batches", "max_length", "tokenize"), "batching"), "embed": "tasks.embedding"}

__getattr__ = names_on_demand(__name__, _PLACES)

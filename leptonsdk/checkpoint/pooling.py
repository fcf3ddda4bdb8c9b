"""How a sentence encoder makes one vector of its tokens', as sentence-transformers notes it beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POOLING_FILE = "1_Pooling/config.json"
# Before its version 5.3 there was a flag for each mode.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pooling_mode(config: Mapping[str, Any]) -> str | None:
    """The mode that `POOLING_FILE` states, several joined by ``+`` as their vectors are; None where it states none."""
    stated = config.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else list(stated or ())
    return "+".join(modes or [mode for flag, mode in _FLAGS.items() if config.get(flag) is True]) or None

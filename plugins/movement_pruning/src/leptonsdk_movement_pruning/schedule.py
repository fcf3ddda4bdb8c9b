"""How sparsity grows with the training's progress."""

from __future__ import annotations


def cubic(progress: float, final: float, warmup: float, cooldown: float) -> float:
    """The sparsity at a time (Zhu & Gupta 2017, arXiv 1710.01878; with warm-up and cool-down as in arXiv 2005.07683).

    Args:
        progress: 0 to 1.
        final: The sparsity at the end.
        warmup: Share of the time at nought.
        cooldown: Share of the time at the end that stays at ``final``.
    """
    part = (progress - warmup) / max(1 - warmup - cooldown, 1e-12)
    return final * (1 - (1 - min(max(part, 0.0), 1.0)) ** 3)

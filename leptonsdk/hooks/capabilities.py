"""What a plugin class can do, as data. The planner composes by these effects, never by a plugin's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Effect = Literal["quantizes", "calibrates", "sparsifies", "shrinks", "distills"]
Need = Literal["never", "optional", "required"]


@dataclass(frozen=True)
class Capabilities:
    """Declared facts about a compressor.

    Attributes:
        effects: What it leaves behind in the checkpoint; ``calibrates``: scales of activations, for exports to use.
        calibration: Whether it reads calibration data.
        needs_teacher: Whether it reads a second model.
        preserves_zeros: A weight that is zero before is zero after.
        preserves_shapes: No weight changes its shape.
        quantizes: Module kinds it quantizes (``"linear"``, ``"embedding"``, ``"conv"``).
        schemes: Names of the quantization schemes it can write.
        deterministic: The same input and seed give the same weights.
        devices: Device types it runs on.
        formats: On-disk formats of what it leaves (``"safetensors"``, ``"compressed-tensors"``, ``"gptq"`` …).
        may_not_follow: Effects that must not have happened before it.
    """

    effects: frozenset[Effect] = frozenset()
    calibration: Need = "never"
    needs_teacher: bool = False
    preserves_zeros: bool = False
    preserves_shapes: bool = True
    quantizes: frozenset[str] = frozenset()
    schemes: tuple[str, ...] = ()
    deterministic: bool = True
    devices: tuple[str, ...] = ("cpu", "cuda")
    formats: tuple[str, ...] = ("safetensors",)
    may_not_follow: frozenset[Effect] = field(default_factory=frozenset)

"""The ``awq`` compressor: light to import, its work stands in other modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leptonsdk.hooks import Capabilities, PluginConfig, StepContext
from leptonsdk.quantization import PRESETS, LayerQuantizer
from leptonsdk_awq.config import AWQConfig

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint


class AWQ(LayerQuantizer[AWQConfig]):
    """Scales the input channels that matter up before it rounds, and what makes them down (arXiv 2306.00978).

    Layers that an earlier step quantized stay as they are.
    """

    name: ClassVar[str] = "awq"
    config_class: ClassVar[type[PluginConfig]] = AWQConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"quantizes"}),
        calibration="required",
        preserves_zeros=True,
        preserves_shapes=True,
        quantizes=frozenset({"linear"}),
        schemes=tuple(PRESETS),
        deterministic=True,
        devices=("cpu", "cuda"),
        formats=("compressed-tensors", "gptq"),
    )
    examples = ({"bit_width": 4, "group_size": 16, "grid": 4},)

    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The checkpoint with integers, and a copy of its model, rescaled, that computes with them.

        Raises:
            UsageError: No layer is meant, groups do not fit some, or there is no calibration data.
        """
        from leptonsdk_awq.calibrate import compress

        return compress(checkpoint, self.config, context)

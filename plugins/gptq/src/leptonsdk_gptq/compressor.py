"""The ``gptq`` compressor: light to import, its work stands in other modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leptonsdk.hooks import Capabilities, PluginConfig, StepContext
from leptonsdk.quantization import PRESETS as SCHEMES
from leptonsdk.quantization import LayerQuantizer
from leptonsdk_gptq.config import GPTQConfig

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint


class GPTQ(LayerQuantizer[GPTQConfig]):
    """Rounds weights so that each layer's outputs on calibration data change least (arXiv 2210.17323).

    Layers that an earlier step quantized stay as they are.
    """

    name: ClassVar[str] = "gptq"
    config_class: ClassVar[type[PluginConfig]] = GPTQConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"quantizes"}),
        calibration="required",
        preserves_zeros=True,
        preserves_shapes=True,
        quantizes=frozenset({"linear"}),
        schemes=tuple(SCHEMES),
        deterministic=True,
        devices=("cpu", "cuda"),
        formats=("compressed-tensors", "gptq"),
    )
    examples = ({"bit_width": 4, "group_size": 16, "preset": "fast"},)

    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The checkpoint with integers, and a copy of its model that computes with them.

        Raises:
            UsageError: No layer is meant, groups do not fit some, or there is no calibration data.
        """
        from leptonsdk_gptq.calibrate import compress

        return compress(checkpoint, self.config, context)

"""The ``wanda`` compressor: light to import, its work stands in other modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from leptonsdk.errors import UsageError
from leptonsdk.hooks import Capabilities, PluginConfig, PostTrainingCompressor, StepContext
from leptonsdk.quantization import choose_layers

if TYPE_CHECKING:
    from torch import nn

    from leptonsdk.checkpoint import Checkpoint


class WandaConfig(PluginConfig):
    """Config of Wanda."""

    sparsity: float = Field(0.5, gt=0, lt=1, description="Share of each output's weights that becomes zero")
    pattern: Literal["1:2", "1:4", "2:4", "2:8", "4:8"] | None = Field(
        None, description="Instead of a share: 2:4 keeps 2 of every 4 weights in a row"
    )
    calibration_tokens: int = Field(8_192, gt=0, description="Positions to calibrate with, fewer if the data ends")
    batch_size: int = Field(4, gt=0, description="Calibration examples per forward")
    targets: tuple[str, ...] = Field(
        ("Linear", "Conv1D"), description="Layers to prune: a class, a module's name or the end of it, or re:REGEX"
    )
    ignore: tuple[str, ...] = Field(
        ("lm_head", "classifier", "score", "qa_outputs"), description="Layers to leave; tied ones always are"
    )

    def group(self, width: int) -> tuple[int, int]:
        """How many of a layer's inputs are compared, and how many of those go; a `UsageError` where the pattern does not fit."""
        if self.pattern is None:
            return width, round(self.sparsity * width)
        left, size = map(int, self.pattern.split(":"))
        if width % size:
            raise UsageError(
                f"the pattern {self.pattern} does not fit {width} inputs", hint="add the layer to `ignore`"
            )
        return size, size - left


class Wanda(PostTrainingCompressor[WandaConfig]):
    """Prunes each output's weights by their size times the norm of their input on calibration data (arXiv 2306.11695)."""

    name: ClassVar[str] = "wanda"
    config_class: ClassVar[type[PluginConfig]] = WandaConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"sparsifies"}),
        calibration="required",
        preserves_zeros=True,
        may_not_follow=frozenset({"quantizes"}),
    )
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"pattern": "2:4"})

    def sparsity(self) -> float:
        size, removed = self.config.group(0)
        return removed / size if self.config.pattern else self.config.sparsity

    def checks_model(self) -> bool:
        return self.config.pattern is not None

    def check(self, model: nn.Module, done: Collection[str]) -> Collection[str]:
        for layer in choose_layers(model, self.config.targets, self.config.ignore, done):
            self.config.group(layer.in_features)
        return ()

    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The checkpoint with a pruned copy of its model.

        Raises:
            UsageError: No layer is meant, the pattern does not fit one, or there is no calibration data.
        """
        from leptonsdk_wanda.pruning import prune

        return prune(checkpoint, self.config, context)

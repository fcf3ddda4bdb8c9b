"""The ``movement_pruning`` compressor: light to import, its work stands in other modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.hooks import Capabilities, PluginConfig, StepContext, TrainingCompressor
from leptonsdk_movement_pruning.config import MovementPruningConfig
from leptonsdk_movement_pruning.schedule import cubic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from leptonsdk_movement_pruning.pruning import Pruning


class MovementPruning(TrainingCompressor[MovementPruningConfig]):
    """Prunes while training, by movement (arXiv 2005.07683) or magnitude, and removes what is gone (arXiv 2109.04838).

    Sparsity grows by a cubic schedule. At the end heads and neurons whose weights are nought are taken out of the model,
    whatever the structure, and layers that are skipped; other zeros stay in the weights.

    ::

        MovementPruning(final_sparsity={"heads": 0.5, "ffn": 0.6}, structure=("heads", "ffn"))
    """

    name: ClassVar[str] = "movement_pruning"
    config_class: ClassVar[type[PluginConfig]] = MovementPruningConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"sparsifies", "shrinks"}),
        preserves_zeros=False,
        preserves_shapes=False,
        deterministic=True,
        may_not_follow=frozenset({"quantizes"}),
    )
    examples = ({"final_sparsity": 0.5},)

    def __init__(self, config: MovementPruningConfig | None = None, **fields: Any) -> None:
        super().__init__(MovementPruningConfig(**fields) if config is None else config)
        self._pruning: Pruning | None = None
        self._sparsity: dict[str, float] = {}

    @property
    def pruning(self) -> Pruning:
        """What `prepare` made."""
        assert self._pruning is not None, "prepare comes first"
        return self._pruning

    def prepare(self, model: nn.Module, context: StepContext) -> None:
        """Give every layer that is meant a mask.

        Raises:
            UsageError: No layer is meant, blocks do not fit one, or the model shows no heads, neurons or layers that can go.
        """
        from leptonsdk_movement_pruning.pruning import Pruning

        self._pruning = Pruning(model, self.config)

    def parameter_groups(self) -> list[dict[str, Any]]:
        scores = self.pruning.scores()
        return [{"params": scores, "lr": self.config.score_learning_rate}] if scores else []

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any, loss: Tensor) -> Tensor:
        return loss + self.pruning.penalty() if self.config.resolved_regularization else loss

    def update(self, progress: float) -> None:
        config = self.config
        self._sparsity = {
            s: cubic(progress, config.sparsity(s), config.warmup, config.cooldown) for s in config.structure
        }
        self.pruning.cut(self._sparsity, exact=self.settled(progress) and config.freeze)

    def settled(self, progress: float) -> bool:
        return progress >= 1 - self.config.cooldown

    def logs(self) -> Mapping[str, float]:
        return self.pruning.logs()

    def finalize(self, model: nn.Module, context: StepContext) -> nn.Module:
        """The model without masks, and without the heads, neurons and layers that they left nothing of."""
        self.pruning.cut(self._sparsity, exact=True)
        return self.pruning.finish(model)

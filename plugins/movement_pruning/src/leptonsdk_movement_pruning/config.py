"""What a user can choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from leptonsdk.hooks import PluginConfig

Structure = Literal["unstructured", "block", "rows", "columns", "heads", "ffn", "layers"]
Method = Literal["magnitude", "l1", "movement", "soft_movement"]
Share = Annotated[float, Field(ge=0, lt=1)]

UNITS = ("heads", "ffn")
LAYERS = "layers"
LEARNT = ("movement", "soft_movement")
_PENALTIES = {"l1": 1e-4, "soft_movement": 1.0}  # methods that have one, and its factor
_PENALTY_OF_WEIGHTS = 400.0  # of soft movement: of a mean over millions of scores each would feel next to nothing


class MovementPruningConfig(PluginConfig):
    """Config of pruning while training."""

    method: Method = Field(
        "movement",
        description="What a weight's score is: its size (magnitude; l1: with a penalty on it), or how training moves it "
        "(movement; soft_movement: with one threshold for all layers and a penalty on the scores)",
    )
    structure: tuple[Structure, ...] = Field(
        ("heads", "ffn"),
        description="What is pruned: heads, ffn (neurons) and layers (whole blocks), which are removed; or one of unstructured, "
        "block, rows, columns",
    )
    final_sparsity: Share | Mapping[str, Share] = Field(
        description="Share of all heads, neurons, layers, blocks or weights that goes; {heads: 0.5, ffn: 0.6} for different ones"
    )
    block_shape: tuple[int, int] = Field((32, 32), description="Outputs and inputs of a block")
    round_to: int = Field(
        1, gt=0, description="Neurons that are left in a layer are a multiple of this; runtimes are fast at 16 or 32"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps before pruning begins")
    cooldown: float = Field(0.3, ge=0, lt=1, description="Share of the steps that are left when it ends")
    freeze: bool = Field(
        True, description="Masks stay as they are once the final sparsity is reached: what is left is tuned undisturbed"
    )
    budget: Literal["layer", "global"] | None = Field(
        None,
        description="Each layer loses the same share, so that all keep one width (layer), or the lowest scores of all layers "
        "go (global). Default: layer; soft_movement: global. Of `layers`, each stack loses its share",
    )
    score_learning_rate: float = Field(1e-2, gt=0, description="Of movement scores")
    initial_scores: float = Field(
        0.0,
        ge=0,
        description="Movement scores start at this many times the size of their weights, so that in a short training, whose first "
        "scores are mostly noise, small weights go first (about 10); 0: at nought, as in the paper",
    )
    regularization: float | None = Field(
        None,
        ge=0,
        description="Factor of the penalty of l1 (1e-4 by default) and soft_movement (1.0; over single weights 400, as in the "
        "paper's code); no other method has one",
    )
    targets: tuple[str, ...] = Field(
        ("Linear", "Conv1D"), description="Layers to prune: a class, a module's name or the end of it, or re:REGEX"
    )
    ignore: tuple[str, ...] = Field(
        ("lm_head", "proj_out", "classifier", "pre_classifier", "pooler", "score", "qa_outputs", "re:.*pooler.*"),
        description="Layers to leave",
    )

    @field_validator("structure", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.structure or len(set(self.structure)) < len(self.structure):
            raise ValueError("structure names each kind once, and one at least")
        if len(self.structure) > 1 and set(self.structure) - {*UNITS, LAYERS}:
            raise ValueError("only heads, ffn and layers go together: each other structure cuts the same weights")
        if LAYERS in self.structure and self.method not in LEARNT:
            raise ValueError(f"layers have no weight whose size {self.method} could take: use {' or '.join(LEARNT)}")
        if isinstance(self.final_sparsity, Mapping) and set(self.final_sparsity) != set(self.structure):
            raise ValueError(f"final_sparsity must name {', '.join(self.structure)}")
        if self.warmup + self.cooldown >= 1:
            raise ValueError("warmup and cooldown leave no steps to prune in")
        if self.method == "soft_movement" and self.budget == "layer":
            raise ValueError("soft_movement has one threshold for all layers: budget is global")
        if self.regularization is not None and self.method not in _PENALTIES:
            raise ValueError(
                f"{self.method} has no penalty for regularization to scale: only {' and '.join(_PENALTIES)} do"
            )
        if self.initial_scores and (self.method not in LEARNT or LAYERS in self.structure):
            raise ValueError(
                "initial_scores is for scores of weights that are learnt: movement or soft_movement, not layers"
            )
        return self

    def sparsity(self, structure: str) -> float:
        """The target of a structure."""
        return self.final_sparsity[structure] if isinstance(self.final_sparsity, Mapping) else self.final_sparsity

    @property
    def resolved_budget(self) -> str:
        return self.budget or ("global" if self.method == "soft_movement" else "layer")

    @property
    def resolved_regularization(self) -> float:
        if self.regularization is not None:
            return self.regularization
        if self.method == "soft_movement" and self.structure == ("unstructured",):
            return _PENALTY_OF_WEIGHTS
        return _PENALTIES.get(self.method, 0.0)

"""What a user can choose."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from leptonsdk.hooks import PluginConfig

LayerMap = Literal["uniform", "last"] | tuple[tuple[int, int], ...]
Pooling = Literal["mean", "cls", "last", "tokens"]


class DistillationConfig(PluginConfig):
    """Config of distillation."""

    teacher: str | None = Field(
        None,
        description="The teacher: a Hub id or a folder. Default: the model as it is before the training",
    )
    temperature: float = Field(2.0, gt=0, description="Both models' logits are divided by it before they are compared")
    alpha: float = Field(
        0.5, ge=0, le=1, description="Share of the logits' term against the task's loss: 0 none of it, 1 nothing else"
    )
    hidden: float = Field(0.0, ge=0, description="Weight of the hidden states' mean squared error")
    attention: float = Field(
        0.0, ge=0, description="Weight of the attention maps' divergence; attention is computed eagerly then"
    )
    embeddings: float = Field(
        0.0, ge=0, description="Weight of one minus the cosine of the last states, for sentence encoders and retrieval"
    )
    pooling: Pooling = Field(
        "mean", description="What `embeddings` compares: the mean over tokens, the first, the last, or each token"
    )
    layer_map: LayerMap = Field(
        "uniform",
        description="Which teacher layer a student's layer learns from: evenly spread ones (uniform), the uppermost (last), or "
        "pairs [student, teacher]; 0 is what goes into the first layer, 1 the first layer's output",
    )
    cache: bool = Field(
        False,
        description="Keep the teacher's logits per row, in memory and on disk, so that it runs once per row, not per epoch. For "
        "rows that come the same every time (no augmentation, no masks drawn anew); all of them are held in memory. Not used where `hidden`, `attention` or `embeddings` is above 0: "
        "the teacher must run for these",
    )
    top_k: int | None = Field(
        None,
        gt=0,
        description="Keep only as many cached logits per position, the largest; all others count as one class with the "
        "probability that is left",
    )
    student_layers: int | tuple[int, ...] | None = Field(
        None,
        description="Make the student from the model: keep so many blocks, evenly spread, or those with these numbers",
    )
    student_heads: int | None = Field(
        None,
        gt=0,
        description="Make the student from the model: keep so many heads of each attention, those with the largest weights",
    )
    student_intermediate_size: int | None = Field(
        None,
        gt=0,
        description="Make the student from the model: keep so many neurons of each feed-forward network, those with the largest "
        "weights",
    )
    trust_remote_code: bool = Field(False, description="Run code that the teacher's repository holds")

    @model_validator(mode="after")
    def _top_k_is_for_the_cache(self) -> DistillationConfig:
        if self.top_k is not None and not self.cache:
            raise ValueError("top_k is for cached logits: set `cache: true`, or leave it out")
        return self

    @property
    def student(self) -> dict[str, Any]:
        """What `make_student` is to cut; empty where the model itself is trained."""
        cut = {
            "layers": self.student_layers,
            "heads": self.student_heads,
            "intermediate_size": self.student_intermediate_size,
        }
        return {name: value for name, value in cut.items() if value is not None}

    @property
    def compares_states(self) -> bool:
        """Whether more than logits is compared, so that the teacher runs for every batch."""
        return self.hidden > 0 or self.attention > 0 or self.embeddings > 0

"""The ``distillation`` compressor: light to import, its work stands in other modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, Union

from pydantic import ValidationError

from leptonsdk.errors import UsageError
from leptonsdk.hooks import Capabilities, Effect, PluginConfig, StepContext, TrainingCompressor
from leptonsdk_distillation.config import DistillationConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk_distillation.session import Session

    ModuleT = TypeVar("ModuleT", bound=nn.Module)

Teacher: TypeAlias = Union["nn.Module", "Checkpoint", str, Path]


class Distillation(TrainingCompressor[DistillationConfig]):
    """The model learns from a teacher's logits (arXiv 1503.02531), hidden states and attention maps (1909.10351), embeddings.

    ``loss = (1 - alpha) * task + alpha * logits + hidden * … + attention * … + embeddings * …``, each term a mean over items:
    rows of a classifier, counted positions of a tagger or a language model, frames of a CTC model. Where the model has no logits
    (a sentence encoder), the task's loss stays whole.

    Without a teacher the model teaches itself: as it was when the training began.

    Args:
        given: A config (a recipe gives one), or the teacher itself: a model, a checkpoint, a Hub id or a folder.
        teacher: The teacher, where ``given`` is a config or nothing.
        options: The config's fields, where no config is given: ``Distillation(model, temperature=4.0)``.

    Raises:
        UsageError: An option is wrong, or two teachers are given.
    """

    name: ClassVar[str] = "distillation"
    config_class: ClassVar[type[PluginConfig]] = DistillationConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"distills", "shrinks"}), needs_teacher=True, preserves_zeros=True, preserves_shapes=False
    )
    examples = ({}, {"hidden": 1.0, "attention": 1.0, "student_layers": 1})

    def __init__(
        self,
        given: DistillationConfig | Teacher | None = None,
        /,
        *,
        teacher: Teacher | None = None,
        **options: Any,
    ) -> None:
        config = given if isinstance(given, DistillationConfig) else None
        if config is not None and options:
            raise UsageError(f"{', '.join(options)}: given beside a config", where="Distillation")
        teachers: list[Any] = [one for one in (given, teacher) if one is not None and one is not config]
        if len(teachers) + (config is not None and config.teacher is not None) > 1:
            raise UsageError("two teachers are given", where="Distillation")
        self._teacher: Any = teachers[0] if teachers else None
        if isinstance(self._teacher, (str, Path)):
            options, self._teacher = {**options, "teacher": str(self._teacher)}, None
        try:
            super().__init__(DistillationConfig(**{**(config.model_dump() if config else {}), **options}))
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'options'}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            )
            raise UsageError(wrong, where="Distillation") from error
        self._session: Session | None = None

    def effects(self) -> frozenset[Effect]:
        return self.capabilities.effects if self.config.student else frozenset({"distills"})

    def student(self, model: ModuleT) -> ModuleT:
        """The model to train: a copy with only the blocks, heads and neurons that the config leaves, or the model itself.

        Where no teacher is given, the model as it is now becomes the teacher.
        """
        cut = self.config.student
        if self._teacher is None and self.config.teacher is None:
            self._teacher = model if cut else copy.deepcopy(model)
        if not cut:
            return model
        from leptonsdk_distillation.students import make_student

        return make_student(model, **cut)

    def prepare(self, model: nn.Module, context: StepContext) -> None:
        """Load the teacher, check that it and the model speak of the same things, add projections where widths differ.

        Raises:
            UsageError: There is no teacher, or its labels, its vocabulary or its tokenizer are not the model's.
            CheckpointError: The teacher cannot be loaded.
        """
        from leptonsdk_distillation.session import Session

        self._session = Session(self.config, self._teacher, model, context)

    def model_inputs(self) -> Mapping[str, Any]:
        return {} if self._session is None else self._session.outputs_wanted

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any, loss: Tensor | None) -> Tensor:
        """The task's loss (None or zero where there is none) with the teacher's part in it.

        Raises:
            UsageError: The outputs of the two models cannot be compared; says which and why.
        """
        if self._session is None:
            raise UsageError("`prepare` comes before `loss`", where="distillation")
        return self._session.loss(model, inputs, outputs, loss)

    def logs(self) -> Mapping[str, float]:
        """Means since the last call: the task's loss and each term without its weight, the temperature of the logits' term, and the
        share of rows that the cache served."""
        return {} if self._session is None else self._session.logs()

    def finalize(self, model: nn.Module, context: StepContext) -> nn.Module:
        """The model without projections; the teacher is let go."""
        if self._session is not None:
            self._session.close(model)
        self._session = self._teacher = None
        return model

"""What a plan checks on the model's skeleton: its modules and shapes on the meta device, without a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leptonsdk.errors import LeptonError, Problem
from leptonsdk.hooks import Plugins, PostTrainingCompressor
from leptonsdk.recipe.source import RecipeSource
from leptonsdk.references import Reference

if TYPE_CHECKING:
    from leptonsdk.recipe.plan import Step


def check_shapes(
    model: Reference | None,
    task: str | None,
    steps: Sequence[Step | None],
    source: RecipeSource,
    plugins: Plugins,
    problems: list[Problem],
) -> None:
    """That steps which depend on the layers' sizes fit the model. Its files must be at hand; torch is imported only then."""
    compressors: list[tuple[int, str, PostTrainingCompressor[Any]]] = []
    for index, step in enumerate(steps):
        if step is not None and step.kind == "train":
            continue
        cls = plugins.get("compressor", step.plugin) if step is not None else None
        if step is not None and cls is not None and issubclass(cls, PostTrainingCompressor):
            compressors.append((index, step.plugin, cls(step.config)))
    if model is None or model.folder is None or not any(compressor.checks_model() for _, _, compressor in compressors):
        return
    from leptonsdk.checkpoint import load_skeleton

    try:
        skeleton = load_skeleton(model, task)
    except LeptonError:
        return  # code from the model's folder, say: loading it will tell
    done: set[str] = set()
    for index, name, compressor in compressors:
        try:
            done.update(compressor.check(skeleton, done))
        except LeptonError as error:
            problems.append(source.problem(("steps", index, name), error.message, error.hint))

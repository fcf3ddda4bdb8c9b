"""Composition: a compressor beside every first-party one that the planner lets it stand beside, in both orders."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import RecipeError, UsageError
from leptonsdk.hooks import PluginRecord, Plugins, TrainingCompressor, hookimpl, load_plugins
from leptonsdk.quantization.library_layers import library_method
from leptonsdk.recipe.plan import make_plan
from leptonsdk.testing.bench import (
    Config,
    compress,
    differing,
    expect,
    home,
    listed,
    made,
    reloaded,
    result,
    skip_unless,
    weights,
)
from leptonsdk.testing.check import COMPRESSORS, CheckFailed, check
from leptonsdk.testing.checks_declared import filled
from leptonsdk.testing.models import tiny_checkpoint

FIRST_PARTY = "leptonsdk"
_DATA = {"path": "python-docstrings"}
Step = tuple[type[Any], Config]


@check(
    "composes",
    "with every first-party compressor that the planner lets it follow or precede: masks and integers are kept",
    *COMPRESSORS,
)
def composes(plugin: type[Any], config: Mapping[str, Any]) -> None:
    plugins, own = with_plugin(plugin), (plugin, config)
    partners = [(cls, cls.examples[0]) for cls in _first_party(plugins) if cls is not plugin]
    name = home(plugin, config)
    orders = [order for other in partners for order in ((own, other), (other, own))]
    pairs = [(_sharing(first, name), second) for first, second in orders]
    pairs = [pair for pair in pairs if _planned(plugins, pair, name)]
    skip_unless(pairs, "the planner lets it stand beside none that is installed")
    for first, second in pairs:
        _follow(first, second, name)
        if all(issubclass(cls, TrainingCompressor) for cls, _ in (first, second)):
            _together(first, second, name)


def _sharing(step: Step, name: str) -> Step:
    """A quantizer with half of its layers as targets, so that something is left to do for one that comes after it."""
    cls, config = step
    if "quantizes" not in cls.capabilities.effects or "targets" not in cls.config_class.model_fields:
        return step
    try:
        quantized = sorted(result(cls, config, name).quantized)
    except UsageError:
        return step
    return (cls, {**config, "targets": quantized[: len(quantized) // 2]}) if quantized else step


def with_plugin(plugin: type[Any]) -> Plugins:
    """The installed plugins, with this one added where it is not installed."""
    plugins = load_plugins()
    if plugins.all("compressor").get(plugin.name) is not plugin:
        module = ModuleType("leptonsdk_conformance")
        module.lepton_compressors = hookimpl(lambda: [plugin], specname="lepton_compressors")  # type: ignore[attr-defined]
        record = PluginRecord(plugin.name, "conformance", "0")
        plugins.add(module, record)
        if record.status != "active":
            raise CheckFailed(
                str(record.reason), where=plugin.name, hint="another compressor has its name, or it is not whole"
            )
    return plugins


def _first_party(plugins: Plugins) -> list[type[Any]]:
    found = plugins.all("compressor")
    return [found[n] for n in sorted(found) if plugins.owner("compressor", n).distribution.startswith(FIRST_PARTY)]


def _planned(plugins: Plugins, pair: Sequence[Step], name: str) -> bool:
    """Whether the planner takes a recipe with the two in this order."""
    steps = [
        {"train": {"with": [{cls.name: dict(config)}]}}
        if issubclass(cls, TrainingCompressor)
        else {cls.name: dict(config)}
        for cls, config in pair
    ]
    recipe = {
        "version": 1,
        "model": {"id": _folder(name)},
        "data": {"eval": _DATA, "calibration": _DATA, "train": _DATA},
        "steps": steps,
    }
    try:
        make_plan(recipe, plugins)
    except RecipeError:
        return False
    return True


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def _folder(name: str) -> str:
    return str(tiny_checkpoint(name).save(Path(_scratch().name) / name))


def _follow(first: Step, second: Step, name: str) -> None:
    """One after the other; what the first left must be there."""
    (one, one_config), (two, two_config) = first, second
    where = f"{one.name}, then {two.name}, on {name}"
    try:
        before = result(one, one_config, name)
        if library_method(before.model) is not None:
            return  # layers of transformers' own are not compressed further
        given = before.replace(model=copy.deepcopy(before.model))
        sparse = "sparsifies" in one.capabilities.effects  # a recipe's run decides so too
        after = _work(lambda: compress(two, two_config, given, keep_zeros=sparse), where)
    except UsageError:
        return  # one of them says what it cannot do
    _check(before, after, one, two, where)


def _work(work: Any, where: str) -> Checkpoint:
    try:
        checkpoint: Checkpoint = work()
    except UsageError:
        raise
    except Exception as error:
        hint = "the planner lets them stand in this order: work with what the other leaves, or declare `may_not_follow`"
        raise CheckFailed(f"{type(error).__name__}: {error}", where=where, hint=hint) from error
    return checkpoint


def _check(before: Checkpoint, after: Checkpoint, one: type[Any], two: type[Any], where: str) -> None:
    if "sparsifies" in one.capabilities.effects and two.capabilities.preserves_zeros:
        lost = filled(weights(before), weights(after))
        expect(not lost, f"zeros of the first are no longer zero after the second: {listed(lost)}", where)
    goes_on = issubclass(two, TrainingCompressor) and "quantizes" in two.capabilities.effects
    if before.quantized and not goes_on:
        gone = sorted(name for name in before.quantized if name not in after.quantized)
        hint = "start from `checkpoint.quantized`, and leave its layers alone"
        expect(not gone, f"integers of the first are gone after the second: {listed(gone)}", where, hint)
        kept_names = before.quantized.keys() & after.quantized.keys()
        moved = differing(*({n: _integers(c, n) for n in kept_names} for c in (before, after)))
        expect(not moved, f"integers of the first are others after the second: {listed(moved)}", where, hint)
    again = _work(lambda: reloaded(after), where)
    apart = differing(weights(after), weights(again))
    expect(not apart, f"saved and loaded again, weights differ: {listed(apart)}", where)


def _integers(checkpoint: Checkpoint, name: str) -> Tensor:
    tensor: Any = checkpoint.quantized[name]
    found: Tensor = tensor.integers if hasattr(tensor, "integers") else tensor.indices
    return found


def _together(first: Step, second: Step, name: str) -> None:
    """Two training compressors in one run."""
    from leptonsdk.testing.trainer import train

    where = f"{first[0].name} and {second[0].name} in one training run, on {name}"
    with tempfile.TemporaryDirectory() as scratch:
        compression = [made(*first), made(*second)]
        after = _work(lambda: train(compression, tiny_checkpoint(name), Path(scratch)), where)
    again = _work(lambda: reloaded(after), where)
    apart = differing(weights(after), weights(again))
    expect(not apart, f"saved and loaded again, weights differ: {listed(apart)}", where)

"""The bench: a plugin with a config at work on tiny models, and what its results are compared by."""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from leptonsdk.checkpoint import Checkpoint, load_checkpoint
from leptonsdk.errors import LeptonError, UsageError
from leptonsdk.hooks import Capabilities, StepContext, TrainingCompressor
from leptonsdk.quantization.library_layers import saved_state
from leptonsdk.testing.check import CheckFailed, CheckSkipped
from leptonsdk.testing.models import ARCHITECTURES, tiny_batches, tiny_checkpoint

SEED = 0
Config = Mapping[str, Any]
T = TypeVar("T")

_KEPT: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_MOST = 64


def kept(make: Callable[[], T], *key: Any) -> T:
    """What was made for a key before, so that checks share a result, or what is made now."""
    if key not in _KEPT:
        _KEPT[key] = make()
        while len(_KEPT) > _MOST:
            _KEPT.popitem(last=False)
    value: T = _KEPT[key]
    return value


def key_of(config: Config) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def made(plugin: type[Any], config: Config) -> Any:
    """The plugin's object for a config.

    Raises:
        CheckFailed: The config is not valid.
    """
    try:
        return plugin(plugin.config_class(**config))
    except ValidationError as error:
        hint = "`examples` must be valid configs"
        raise CheckFailed(f"its config {dict(config)} is refused: {error}", where=plugin.name, hint=hint) from error


def context_for(checkpoint: Checkpoint, folder: Path, capabilities: Capabilities, **changes: Any) -> StepContext:
    """What a step may use, on tiny data; calibration only for those that read it."""
    batches = tiny_batches(checkpoint)
    calibrated = capabilities.calibration != "never"
    fields = {"seed": SEED, "folder": folder, "batches": batches if calibrated else None, "samples": batches}
    return StepContext(**{**fields, **changes})


def compress(
    plugin: type[Any],
    config: Config,
    checkpoint: Checkpoint,
    folder: Path | None = None,
    *,
    keep_zeros: bool = False,
    **changes: Any,
) -> Checkpoint:
    """The checkpoint that a compressor makes; a training compressor's after two steps of a Trainer.

    Args:
        plugin: A compressor's class.
        config: Its config's fields.
        checkpoint: What it starts from.
        folder: Its scratch folder; default: one for this call.
        keep_zeros: As a recipe's training step has it after one that prunes.
        changes: Fields of the `StepContext` to set otherwise.
    """
    with tempfile.TemporaryDirectory() as scratch:
        where = folder or Path(scratch)
        if issubclass(plugin, TrainingCompressor):
            from leptonsdk.testing.trainer import train

            return train([made(plugin, config)], checkpoint, where, keep_zeros=keep_zeros)
        result: Checkpoint = made(plugin, config).compress(
            checkpoint, context_for(checkpoint, where, plugin.capabilities, **changes)
        )
        return result


def compress_alone(plugin: type[Any], config: Config, checkpoint: Checkpoint) -> Checkpoint:
    """The same, with the Trainer's own steps at a learning rate of 0: what changes, changes by the compressor."""
    if not issubclass(plugin, TrainingCompressor):
        return compress(plugin, config, checkpoint)
    from leptonsdk.testing.trainer import train

    with tempfile.TemporaryDirectory() as scratch:
        return train([made(plugin, config)], checkpoint, Path(scratch), learning_rate=0.0)


def accepted(plugin: type[Any], config: Config) -> tuple[str, ...]:
    """The architectures that a compressor takes with a config. Of those on which it breaks another check tells."""

    def make() -> tuple[str, ...]:
        return tuple(name for name in ARCHITECTURES if error_of(partial(result, plugin, config, name)) is None)

    return kept(make, "accepted", plugin, key_of(config))


def home(plugin: type[Any], config: Config) -> str:
    """The architecture that most checks use: the first that the compressor takes.

    Raises:
        CheckFailed: It takes none.
    """

    def make() -> str:
        reasons = []
        for name in ARCHITECTURES:
            try:
                result(plugin, config, name)
            except UsageError as error:
                reasons.append(f"{name}: {error}")
                continue
            return name
        hint = "set `examples` to configs that fit hidden size 32, two layers and a vocabulary of 64"
        raise CheckFailed(f"it takes none of the tiny models; {reasons[0]}", where=plugin.name, hint=hint)

    return kept(make, "home", plugin, key_of(config))


def result(plugin: type[Any], config: Config, name: str | None = None) -> Checkpoint:
    """What a compressor makes of a tiny model; made once, so do not change it."""
    architecture = name or home(plugin, config)
    make = lambda: compress(plugin, config, tiny_checkpoint(architecture))  # noqa: E731
    return kept(make, "result", plugin, key_of(config), architecture)


def reloaded(checkpoint: Checkpoint) -> Checkpoint:
    """What stands in the files of a saved checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder)
        return load_checkpoint(folder, task=checkpoint.task)


def in_files(plugin: type[Any], config: Config) -> Checkpoint:
    """What stands in the files of a compressor's saved result."""
    return kept(lambda: reloaded(result(plugin, config)), "files", plugin, key_of(config))


def tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Everything that a checkpoint holds: its weights, and the integers and scales behind them; copies."""
    state = {name: value.detach().clone() for name, value in saved_state(checkpoint.model).items()}
    for layer, quantized in checkpoint.quantized.items():
        for name, value in vars(quantized).items():
            if isinstance(value, Tensor):
                state[f"{layer}:{name}"] = value.clone()
    return state


def weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The float weights of a checkpoint's model by name, of those that transformers quantized what they stand for."""
    return dict(checkpoint.dequantized().model.state_dict())


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, one NaN like another."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal, or stand on one side only."""
    return sorted(
        n for n in ours.keys() | theirs.keys() if n not in ours or n not in theirs or not same(ours[n], theirs[n])
    )


def listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def expect(true: bool, message: str, where: str, hint: str | None = None) -> None:
    """Raise a `CheckFailed` unless something is true."""
    if not true:
        raise CheckFailed(message, where=where, hint=hint)


def skip_unless(true: object, reason: str) -> None:
    """Raise a `CheckSkipped` unless something is true."""
    if not true:
        raise CheckSkipped(reason)


def forward_hooks(model: nn.Module) -> list[str]:
    """Names of modules with hooks of any kind, but for those by which transformers itself collects hidden states and attentions."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooked = {
        name or "the model"
        for name, module in model.named_modules()
        if any(_is_strange(hook) for kind in kinds for hook in getattr(module, kind).values())
    }
    return sorted(hooked | {name for name, parameter in model.named_parameters() if parameter._backward_hooks})


def _is_strange(hook: Any) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith("transformers.")


def main_output(model: Any, inputs: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """The first output of a model, by name."""
    with torch.inference_mode():
        name, value = next(iter(model(**inputs).items()))
    return name, value.float().clone()


def error_of(work: Callable[[], object]) -> BaseException | None:
    """What some work raises, or None."""
    try:
        work()
    except Exception as error:
        return error
    return None


def is_lepton(error: BaseException | None) -> bool:
    return error is None or isinstance(error, LeptonError)

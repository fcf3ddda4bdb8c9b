"""Checks of training compressors: inside a Trainer's run, interrupted, and finished."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from leptonsdk.testing.bench import differing, expect, home, listed, made, result, tensors
from leptonsdk.testing.check import check
from leptonsdk.testing.models import tiny_checkpoint
from leptonsdk.testing.trainer import train

_STEPS = 4
_PLAIN = ("torch.", "transformers.")


class _Watcher(TrainerCallback):  # type: ignore[misc]
    """Notes losses, and parameters whose gradient is not finite before a step of the optimizer."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.broken: set[str] = set()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                self.broken.add(name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def _watched(plugin: type[Any], config: Mapping[str, Any]) -> _Watcher:
    watcher = _Watcher()
    with tempfile.TemporaryDirectory() as scratch:
        train(
            [made(plugin, config)],
            tiny_checkpoint(home(plugin, config)),
            Path(scratch),
            watcher=watcher,
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
        )
    return watcher


@check("training-finite", "the loss and every gradient of every step are finite numbers", "training")
def training_finite(plugin: type[Any], config: Mapping[str, Any]) -> None:
    watcher = _watched(plugin, config)
    broken = sorted(watcher.broken)
    hint = "look for a logarithm, a root or a division at zero in `loss`, and for the slope of a norm there"
    expect(not broken, f"NaN or infinite gradients of {listed(broken)}", plugin.name, hint)
    finite = bool(watcher.losses) and all(map(math.isfinite, watcher.losses))
    expect(finite, f"the losses of a training run are {watcher.losses}", plugin.name, hint)


@check(
    "resumes",
    "a run that goes on from a Trainer's checkpoint ends with the weights of one that was not interrupted",
    "training",
)
def resumes(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    saving: dict[str, Any] = {"max_steps": _STEPS, "save_strategy": "steps", "save_steps": _STEPS // 2}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = tensors(train([made(plugin, config)], tiny_checkpoint(name), folder, **saving))
        half = folder / "trainer" / f"checkpoint-{_STEPS // 2}"
        again = train([made(plugin, config)], tiny_checkpoint(name), folder / "again", resume_from=str(half), **saving)
    apart = differing(whole, tensors(again))
    hint = "what is learnt or counted belongs into parameters and buffers that `prepare` adds to the model"
    expect(not apart, f"resumed, other weights come out: {listed(apart)}", plugin.name, hint)


@check(
    "leaves-plain-modules", "finalize leaves modules of torch and transformers, and no tensors of its own", "training"
)
def leaves_plain_modules(plugin: type[Any], config: Mapping[str, Any]) -> None:
    before, after = tiny_checkpoint(home(plugin, config)).model, result(plugin, config).model
    strange = [
        f"{name} ({type(module).__name__})"
        for name, module in after.named_modules()
        if not type(module).__module__.startswith(_PLAIN)
    ]
    more = sorted(after.state_dict().keys() - before.state_dict().keys())
    hint = (
        "`leptonsdk.training.fold` takes transforms off a layer; delete the parameters and buffers that `prepare` added"
    )
    expect(not strange and not more, f"left over: {listed(strange + more)}", plugin.name, hint)

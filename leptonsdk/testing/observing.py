"""A plugin does all its work once, under watch: what five checks tell about is seen in one go, since exports take seconds."""

from __future__ import annotations

import pickletools
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.testing.bench import compress, differing, forward_hooks, home, kept, key_of, made, tensors
from leptonsdk.testing.check import kind_of
from leptonsdk.testing.models import tiny_checkpoint
from leptonsdk.testing.watching import changed, no_network, random_states, settings, stir


@dataclass(frozen=True)
class Observation:
    """What was seen: global generators that moved, settings that changed, addresses that were tried, parts of the given model
    that are not as they were, and pickled files."""

    generators: list[str]
    settings: list[str]
    addresses: list[str]
    harmed: list[str]
    pickled: list[str]


def observe(plugin: type[Any], config: Mapping[str, Any]) -> Observation:
    """What a plugin does besides its work; done once for all checks."""
    return kept(lambda: _observe(plugin, config), "observation", plugin, key_of(config))


def _observe(plugin: type[Any], config: Mapping[str, Any]) -> Observation:
    kind = kind_of(plugin)
    checkpoint = _source(plugin, config)
    before, weights = condition(checkpoint), tensors(checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stir()  # one that a plugin set before is not to be taken for one that it leaves alone
        generators, state = random_states(), settings()
        with no_network() as tried:
            if kind == "evaluator":
                from leptonsdk.testing.evaluators import scoring

                scoring(plugin, config).columns()
            elif kind == "backend":
                from leptonsdk.testing.backends import exported, run

                folder = exported(plugin, config, checkpoint).folder
                run(plugin, exported(plugin, config), checkpoint)
            elif kind == "training":
                from leptonsdk.testing.trainer import step_by_step

                step_by_step(made(plugin, config), checkpoint, folder)
            else:
                compress(plugin, config, checkpoint, folder)
        moved, set_otherwise = changed(generators, random_states()), changed(state, settings())
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        pickled = [path.name for path in files if is_pickled(path)]
    harmed = changed(before, condition(checkpoint)) + differing(weights, tensors(checkpoint))
    return Observation(moved, set_otherwise, list(tried), harmed, pickled)


def _source(plugin: type[Any], config: Mapping[str, Any]) -> Checkpoint:
    kind = kind_of(plugin)
    if kind == "evaluator":
        from leptonsdk.testing.evaluators import scoring

        return scoring(plugin, config).checkpoint
    if kind == "backend":
        from leptonsdk.testing.backends import exportable

        return tiny_checkpoint(exportable(plugin, config))
    return tiny_checkpoint(home(plugin, config))


def condition(checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a model is no tensor and must stay."""
    model = checkpoint.model
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        "the modules' classes": {name: type(module) for name, module in model.named_modules()},
        "train mode": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "hooks": forward_hooks(model),
        "shared weights": sorted(map(sorted, names.values())),
        "the config": model.config.to_dict(),
    }


def is_pickled(path: Path) -> bool:
    """Whether a file is a pickle, or a zip (as ``torch.save`` writes) that holds one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    data = path.read_bytes()
    if data[:1] != b"\x80":  # the mark of every protocol since 2
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except Exception:
        return False

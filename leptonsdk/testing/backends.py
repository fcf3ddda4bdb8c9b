"""Backends at work: a tiny model exported once, loaded, and run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from leptonsdk.artifact import Artifact
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError
from leptonsdk.exporting import check_parity, measure_parity
from leptonsdk.hooks import StepContext
from leptonsdk.testing.bench import SEED, Config, kept, key_of, made
from leptonsdk.testing.check import CheckFailed
from leptonsdk.testing.models import ARCHITECTURES, tiny_batches, tiny_checkpoint, tiny_inputs

_NUMBERS = count()


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def export(plugin: type[Any], config: Config, checkpoint: Checkpoint, **changes: Any) -> Artifact:
    """Export a checkpoint to a folder that is kept until the process ends."""
    folder = Path(_scratch().name) / str(next(_NUMBERS))
    folder.mkdir()
    backend, batches = made(plugin, config), tiny_batches(checkpoint)
    fields: dict[str, Any] = {"batches": None if backend.calibration() == "never" else batches, "samples": batches}
    with tempfile.TemporaryDirectory() as scratch:
        context = StepContext(seed=SEED, folder=Path(scratch), **{**fields, **changes})
        artifact: Artifact = backend.export(checkpoint, folder, context)
    artifact.write_manifest()
    return artifact


def exportable(plugin: type[Any], config: Config) -> str:
    """The architecture that the checks use: the first that the backend exports.

    Raises:
        CheckFailed: It exports none.
    """

    def make() -> str:
        reasons = []
        for name in ARCHITECTURES:
            try:
                exported(plugin, config, tiny_checkpoint(name), name)
            except (UsageError, ExportError) as error:
                reasons.append(f"{name}: {error}")
                continue
            return name
        raise CheckFailed(f"it exports none of the tiny models; {reasons[0]}", where=plugin.name)

    return kept(make, "exportable", plugin, key_of(config))


def exported(
    plugin: type[Any], config: Config, checkpoint: Checkpoint | None = None, name: str | None = None
) -> Artifact:
    """The artifact of a tiny model, exported once; with a checkpoint, of that one, and anew."""
    key = ("artifact", plugin, key_of(config), name or exportable(plugin, config))
    if checkpoint is None:
        return kept(lambda: export(plugin, config, tiny_checkpoint(key[3])), *key)
    return kept(lambda: export(plugin, config, checkpoint), *key)


def run(plugin: type[Any], artifact: Artifact, checkpoint: Checkpoint, **inputs: Any) -> Any:
    """The outputs of an artifact for one row of tiny inputs, or for others."""
    return plugin.load(artifact, threads=1)(**(inputs or tiny_inputs(checkpoint, 1)))


def parity(runner: Any, checkpoint: Checkpoint, inputs: Mapping[str, Tensor], exact: bool, where: str) -> None:
    """Raise a `CheckFailed` where a runner's outputs for some inputs are not the model's."""
    try:
        check_parity(measure_parity(checkpoint.model, runner, [dict(inputs)]), exact, None, where)
    except ExportError as error:
        raise CheckFailed(error.message, where=where, hint=error.hint) from error

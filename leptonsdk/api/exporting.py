"""Export a model to a runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from leptonsdk.api.common import installed_plugins, wrong
from leptonsdk.api.models import as_checkpoint
from leptonsdk.artifact import Artifact
from leptonsdk.errors import UsageError
from leptonsdk.hooks import Plugins, StepContext, errors_named
from leptonsdk.hooks.classes import Progress, no_progress
from leptonsdk.pipeline.fingerprints import available_threads

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

_PARITY_ROWS = 64


def export(
    model: Checkpoint | Artifact | str | Path,
    backend: str,
    folder: str | Path,
    *,
    precision: str | None = None,
    task: str | None = None,
    calibration: Any = None,
    samples: Any = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
    **config: Any,
) -> Artifact:
    """Export a model to a runtime.

    Args:
        model: A checkpoint, or a reference as `load_model` takes it.
        backend: The backend's name (``onnxruntime``).
        folder: The artifact's folder: new or empty.
        precision: One of the backend's precisions.
        task: When ``model`` is a reference.
        calibration: Data for calibrated precisions: a name or path, a dataset, rows, or texts.
        samples: Data whose first rows check the artifact's parity with torch; default: made-up inputs.
        columns: Role to column of that data.
        seed: Of what the export draws.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
        config: More of the backend's config.

    Raises:
        UsageError: A wrong precision or option, a folder that is not empty, or calibration data that is missing.
        ExportError: The artifact could not be made, or disagrees with the model.
    """
    from leptonsdk.evaluation.inputs import batches_of

    plugins = plugins or installed_plugins()
    cls = plugins.get("backend", backend)
    options = {**config, **({} if precision is None else {"precision": precision})}
    try:
        exporter = cls(cls.config_class(**options))
    except ValidationError as error:
        raise UsageError(wrong(error), where=f"backend {backend}") from error
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("it exists and is not empty", where=str(folder), hint="name a new folder")
    checkpoint = as_checkpoint(model, task)
    if exporter.calibration() == "required" and calibration is None and not checkpoint.input_scales:
        raise UsageError(f"precision {precision} needs calibration data", where=f"backend {backend}", hint="give some")
    checkpoint = checkpoint.dequantized()
    with tempfile.TemporaryDirectory() as scratch:
        context = StepContext(
            seed=seed,
            folder=Path(scratch),
            batches=batches_of(checkpoint, calibration, columns, plugins),
            samples=batches_of(
                checkpoint, samples if samples is not None else calibration, columns, plugins, _PARITY_ROWS
            ),
            progress=progress,
            threads=available_threads(),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with errors_named(cls):
            artifact: Artifact = exporter.export(checkpoint, folder, context)
    artifact.write_manifest()
    return artifact

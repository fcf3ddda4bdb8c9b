"""Quantize a model's weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from leptonsdk.api.common import first_party, installed_plugins, wrong
from leptonsdk.api.models import as_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import Plugins, PostTrainingCompressor, StepContext, errors_named
from leptonsdk.hooks.classes import Progress, no_progress
from leptonsdk.pipeline.fingerprints import available_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from leptonsdk.checkpoint import Checkpoint


def quantize_model(
    model: Checkpoint | PreTrainedModel | str | Path,
    bit_width: int | None = None,
    *,
    scheme: str | Mapping[str, Any] | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    calibration: Any = None,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    method: str | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
    **config: Any,
) -> Checkpoint:
    """Quantize the weights of a model's linear layers, and its embeddings where they are among the targets.

    Without data each weight is rounded to the nearest of its integers, scales chosen for the least squared error (``rtn``).
    With calibration data the layers' outputs are what changes least (``gptq``, of the plugin leptonsdk-gptq).

    Args:
        model: A checkpoint, a transformers model, or a reference as `load_model` takes it. It is left as it is.
        bit_width: Bits per weight, 8 unless a scheme is given.
        scheme: A preset (``W8A16``, ``W4A16`` …) or its fields, instead of a bit width.
        group_size: Weights in a row that share a scale; -1: the whole row. Default: the row for 8 bits, 128 for fewer.
        symmetric: Without zero points (the default).
        targets: Layers to quantize: class names, module names, or ``re:`` patterns; linear layers by default. ``rtn`` takes
            ``Embedding`` too.
        ignore: Layers to leave, ``lm_head`` by default. A table that one of them shares (``lm_head``) may not be a target: ``ignore=()`` quantizes both.
        calibration: Data as `evaluate` takes it, a list of texts, or a list of the model's own inputs (mappings of tensors).
        columns: Role to column of that data.
        max_length: Longest calibration input in tokens; language models read windows of that many (default 1,024).
        method: Another compressor by its name.
        seed: Of what it draws.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
        config: More of the compressor's config, such as ``preset="best"`` of gptq.

    Returns:
        A checkpoint whose model computes with the quantized numbers and which `save_model` writes packed.

    Raises:
        UsageError: The scheme does not exist or does not fit the layers; names the layers and the sizes that fit.
        MissingPluginError: Calibration data is given, and no plugin is there that reads it.
    """
    from leptonsdk.evaluation.inputs import batches_of

    plugins = plugins or installed_plugins()
    method = method or ("rtn" if calibration is None else "gptq")
    given: dict[str, Any] = {"scheme": scheme, "bit_width": bit_width, "group_size": group_size, "symmetric": symmetric}
    given |= {"targets": targets, "ignore": ignore}
    options = {name: value for name, value in given.items() if value is not None}
    cls = first_party(plugins, method, "calibration") if method == "gptq" else plugins.get("compressor", method)
    if not issubclass(cls, PostTrainingCompressor):
        raise UsageError(
            f"'{method}' acts while a model is trained", hint="as a recipe's step, or in CompressionTrainer"
        )
    if scheme is None and "bit_width" in cls.config_class.model_fields:
        options.setdefault("bit_width", 8)
    try:
        settings = cls.config_class(**options, **config)
    except ValidationError as error:
        raise UsageError(wrong(error), where="quantize_model") from error
    checkpoint = as_checkpoint(model)
    with tempfile.TemporaryDirectory() as scratch:
        context = StepContext(
            seed=seed,
            folder=Path(scratch),
            batches=batches_of(checkpoint, calibration, columns, plugins, max_length=max_length),
            progress=progress,
            threads=available_threads(),
        )
        with errors_named(cls):
            compressed: Checkpoint = cls(settings).compress(checkpoint, context)
    return compressed

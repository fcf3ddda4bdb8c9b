"""Checks of backends: the artifact computes what the model does, for any batch, and says what it is made of."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from leptonsdk.artifact import MANIFEST, Artifact, hash_files, read_manifest
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import Runner, StoredIntegers
from leptonsdk.quantization import RoundToNearest, RoundToNearestConfig
from leptonsdk.testing.alone import run_artifact, start
from leptonsdk.testing.backends import export, exportable, exported, parity, run
from leptonsdk.testing.bench import compress, error_of, expect, listed, made, main_output, skip_unless
from leptonsdk.testing.check import CheckFailed, check
from leptonsdk.testing.models import tiny_checkpoint, tiny_inputs

_EXACT = ("fp32",)  # precisions whose outputs are the source's
_CLOSE = 1e-4
_ROUNDED = 0.25  # relative, of outputs of rounded weights and inputs
_SCHEMES: tuple[dict[str, Any], ...] = ({"bit_width": 8}, {"bit_width": 4, "group_size": 16})
# Small files beside a model that are no part of it: the processor's and the config's.
_COMPANIONS = (".json", ".txt", ".model", ".jinja")


def _opened(plugin: type[Any], config: Mapping[str, Any]) -> tuple[Artifact, Checkpoint, Any]:
    artifact = exported(plugin, config)
    return artifact, tiny_checkpoint(exportable(plugin, config)), plugin.load(artifact, threads=1)


@check("agrees-with-torch", "the artifact's outputs are the model's, as near as its precision allows", "backend")
def agrees_with_torch(plugin: type[Any], config: Mapping[str, Any]) -> None:
    artifact, checkpoint, runner = _opened(plugin, config)
    where = f"{plugin.name} {artifact.precision}"
    parity(runner, checkpoint, tiny_inputs(checkpoint, 1), artifact.precision in _EXACT, where)


@check(
    "takes-any-batch", "one artifact takes batches of any number of rows, and answers each as it does alone", "backend"
)
def takes_any_batch(plugin: type[Any], config: Mapping[str, Any]) -> None:
    artifact, checkpoint, runner = _opened(plugin, config)
    for rows in (2, 5):
        inputs, where = tiny_inputs(checkpoint, rows), f"{plugin.name} {artifact.precision}, {rows} rows"
        together = _run(runner, checkpoint, inputs, where)
        alone = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(rows)]
        apart = _relative(together, torch.cat([_run(runner, checkpoint, one, where) for one in alone]))
        hint = "export with a dynamic first axis, from a sample of two rows or more"
        expect(
            apart <= _ROUNDED, f"in a batch, outputs differ by {apart:.0%} from those of each row alone", where, hint
        )


@check("takes-any-length", "one artifact takes inputs of any length", "backend")
def takes_any_length(plugin: type[Any], config: Mapping[str, Any]) -> None:
    artifact, checkpoint, runner = _opened(plugin, config)
    skip_unless("input_ids" in tiny_inputs(checkpoint), "the model that it takes has no inputs with a length")
    for length in (6, 20):
        inputs, where = (
            tiny_inputs(checkpoint, 1, length=length),
            f"{plugin.name} {artifact.precision}, {length} tokens",
        )
        found, meant = _run(runner, checkpoint, inputs, where), main_output(checkpoint.model, inputs)[1]
        expect(found.shape == meant.shape, f"outputs {list(found.shape)}, the model's {list(meant.shape)}", where)
        apart = _relative(found, meant)
        hint = "export with a dynamic second axis, and positions that follow from the input"
        expect(apart <= _ROUNDED, f"outputs differ from the model's by {apart:.0%}", where, hint)


def _run(runner: Any, checkpoint: Checkpoint, inputs: Mapping[str, Tensor], where: str) -> Tensor:
    """The model's main output, of a runner."""
    name = main_output(checkpoint.model, inputs)[0]
    try:
        found: Tensor = runner(**inputs)[name]
    except Exception as error:
        raise CheckFailed(f"it does not run: {type(error).__name__}: {error}", where=where) from error
    return found.float()


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """The difference's root mean square, relative to what it differs from."""
    return float((ours - theirs).pow(2).mean().sqrt() / theirs.pow(2).mean().sqrt().clamp(min=1e-9))


@check(
    "answers-like-the-model", "what `load` returns is called, and answers, as the source model is and does", "backend"
)
def answers_like_the_model(plugin: type[Any], config: Mapping[str, Any]) -> None:
    _, checkpoint, runner = _opened(plugin, config)
    inputs = tiny_inputs(checkpoint, 1)
    where = f"{plugin.name}, the runner"
    expect(isinstance(runner, Runner), "it lacks `runtime`, `input_names` or a call", where)
    expect(
        isinstance(runner.runtime, str) and bool(runner.runtime), "`runtime` says nothing", where, "package and version"
    )
    main = checkpoint.model.main_input_name
    expect(main in runner.input_names, f"`input_names` lacks '{main}'", where)
    try:
        outputs = runner(**inputs, an_input_that_no_model_has=torch.zeros(1))
    except Exception as error:
        hint = "drop inputs that the graph does not read: a tokenizer may make more than the model takes"
        raise CheckFailed(
            f"an unknown input breaks it: {type(error).__name__}: {error}", where=where, hint=hint
        ) from error
    name = next(iter(checkpoint.model(**inputs).keys()))
    expect(isinstance(getattr(outputs, name, None), Tensor), f"its answer has no tensor `.{name}`", where)


@check("lists-its-files", "`files` are all that the runtime needs, and the manifest describes the folder", "backend")
def lists_its_files(plugin: type[Any], config: Mapping[str, Any]) -> None:
    artifact, checkpoint, runner = _opened(plugin, config)
    where, folder = plugin.name, artifact.folder
    missing = [name for name in artifact.files if not (folder / name).is_file()]
    expect(not missing, f"`files` lists what is not there: {listed(missing)}", where)
    expect(artifact.backend == plugin.name, f"the artifact says backend '{artifact.backend}'", where)
    expect(artifact.task == checkpoint.task, f"the artifact says task '{artifact.task}', not {checkpoint.task}", where)
    manifest, text = read_manifest(folder), (folder / MANIFEST).read_text(encoding="utf-8")
    expect(str(folder) not in text, "the manifest holds a path of this machine", where, "paths relative to the folder")
    expect(manifest["sha256"] == hash_files(folder), "files were changed after the manifest was written", where)
    with tempfile.TemporaryDirectory() as moved:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if name in artifact.files or name == artifact.entry or path.suffix in _COMPANIONS:
                target = Path(moved) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        inputs = tiny_inputs(checkpoint, 1)
        try:
            again = run(plugin, Artifact.open(moved), checkpoint)
        except Exception as error:
            message = f"with the listed files alone it does not run: {type(error).__name__}: {error}"
            raise CheckFailed(
                message, where=where, hint="list every file that `load` reads in `Artifact.files`"
            ) from error
        ours = runner(**inputs)
    expect(_apart(ours, again) == 0, "with the listed files alone it computes something else", where)


def _apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The greatest difference of outputs that both have; infinite where there is none."""
    both = [n for n in ours if isinstance(ours[n], Tensor) and n in theirs and ours[n].shape == theirs[n].shape]
    return max((float((ours[n] - theirs[n]).abs().max()) for n in both), default=float("inf"))


@check(
    "runs-alone",
    "its lines `run_alone` run the artifact in a process without leptonsdk, with the same outputs",
    "backend",
    when=lambda plugin: plugin.run_alone is not None,
)
def runs_alone(plugin: type[Any], config: Mapping[str, Any]) -> None:
    skip_unless(plugin.untimed() is None, f"its runtime is not on this system: {plugin.untimed()}")
    start()
    artifact, checkpoint, runner = _opened(plugin, config)
    inputs = {name: value for name, value in tiny_inputs(checkpoint, 1).items() if name in runner.input_names}
    theirs = run_artifact(artifact.folder / artifact.entry, plugin.run_alone, inputs, plugin.name)
    ours = runner(**inputs)
    apart = _apart(ours, theirs)
    hint = "the same options of the runtime as in `load`"
    expect(apart <= _CLOSE, f"alone, its outputs differ by {apart:.3g} ({', '.join(theirs)})", plugin.name, hint)


@check(
    "keeps-integers", "where it says so, a quantized checkpoint's integers go into the artifact as they are", "backend"
)
def keeps_integers(plugin: type[Any], config: Mapping[str, Any]) -> None:
    backend, checked = made(plugin, config), False
    skip_unless(backend.keeps_integers(), "with this config it does not keep integers")
    for scheme in _SCHEMES:
        if backend.cannot_hold(RoundToNearestConfig(**scheme).resolve()) is not None:
            continue
        checkpoint = compress(RoundToNearest, scheme, tiny_checkpoint(exportable(plugin, config)))
        artifact, checked = export(plugin, config, checkpoint), True
        where = f"{plugin.name} {artifact.precision}, {scheme['bit_width']} bits"
        parity(plugin.load(artifact, threads=1), checkpoint, tiny_inputs(checkpoint, 1), True, where)
        profile = plugin.weights(artifact)
        if profile is not None:
            expect(
                profile.bits_per_weight < 24,
                f"the files spend {profile.bits_per_weight:.1f} bits per weight: they hold floats",
                where,
                "write the integers of `checkpoint.quantized`, or let `keeps_integers` say no",
            )
        if (stored := plugin.integers(artifact)) is not None:
            _same_integers(stored, checkpoint.quantized, where)
    skip_unless(checked, "it can hold none of the schemes that the kit has")


def _same_integers(stored: Mapping[str, StoredIntegers], quantized: Mapping[str, Any], where: str) -> None:
    missing = sorted(quantized.keys() - stored.keys())
    expect(not missing, f"`integers` lacks {listed(missing)}", where, "by module name, every weight of the checkpoint")
    others = []
    for name, tensor in quantized.items():
        own, shape = stored[name], tuple(tensor.integers.shape)
        pairs = [(tensor.integers, own.integers), (_whole(tensor.scale.float(), shape), _whole(own.scale, shape))]
        if tensor.zero_point is not None and own.zero_point is not None:
            pairs.append((_whole(tensor.zero_point, shape), _whole(own.zero_point, shape)))
        lacks_zero = tensor.zero_point is not None and own.zero_point is None
        if lacks_zero or not all(np.array_equal(ours, theirs) for ours, theirs in pairs):
            others.append(name)
    hint = "write `integers` and `scale` of `checkpoint.quantized` as they are: what they stand for rounds otherwise elsewhere"
    expect(not others, f"its files hold other integers or scales: {listed(others)}", where, hint)


def _whole(values: Any, shape: tuple[int, ...]) -> Any:
    """Scales [out, groups] for each weight: a runtime may split a group further."""
    rows, groups = values.shape
    wide = np.repeat(np.asarray(values), -(-shape[1] // groups), axis=1)[:, : shape[1]]
    return np.broadcast_to(wide, (shape[0] if rows == 1 else rows, shape[1]))


@check("refuses-unknown-precision", "its config takes the precisions that it declares, and no other", "backend")
def refuses_unknown_precision(plugin: type[Any], config: Mapping[str, Any]) -> None:
    for precision in plugin.precisions:
        error = error_of(partial(plugin.config_class, precision=precision))
        expect(error is None, f"it declares precision '{precision}', and its config refuses it: {error}", plugin.name)
    try:
        plugin.config_class(precision="no-such-precision")
    except ValidationError:
        return
    hint = "make `precision` a `Literal` of the valid names"
    expect(False, "its config takes precision 'no-such-precision'", plugin.name, hint)


@check(
    "refuses-without-calibration", "where calibration is required and none is given, it raises a UsageError", "backend"
)
def refuses_without_calibration(plugin: type[Any], config: Mapping[str, Any]) -> None:
    skip_unless(made(plugin, config).calibration() == "required", "with this config it needs no calibration data")
    checkpoint = tiny_checkpoint(exportable(plugin, config))
    error = error_of(lambda: export(plugin, config, checkpoint, batches=None))
    said = "exported all the same" if error is None else f"raised {type(error).__name__}: {error}"
    hint = "read it through `context.calibration(batch_size)`, which says what to do"
    expect(isinstance(error, UsageError), f"without calibration data it {said}", plugin.name, hint)

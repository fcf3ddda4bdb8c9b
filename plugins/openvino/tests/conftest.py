"""Tiny random models exported once, batches for them, and a context."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from leptonsdk_openvino import OpenVINOBackend

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext
from leptonsdk.testing.alone import run_artifact

DECODERS = ("llama",)
SEQ2SEQ = ("whisper", "t5")


def model_of(tiny: Any, name: str) -> Any:
    """The tiny model of that name, the same in every call."""
    model = tiny.build(name, layers=1)
    if name == "whisper":
        rules = {"no_timestamps_token_id": 39, "suppress_tokens": [5, 6], "begin_suppress_tokens": [7]}
        for rule, value in {**rules, "return_timestamps": False}.items():
            setattr(model.generation_config, rule, value)
    return model


def batch_of(name: str, rows: int, length: int = 8, seed: int = 0) -> dict[str, Any]:
    """Random inputs; each row after the first is padded by one token more."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    if name == "whisper":
        return {"input_features": torch.randn(rows, 8, 20, generator=generator)}
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        padded = min(row, length - 1)
        mask[row, slice(0, padded) if name in DECODERS else slice(length - padded, length)] = 0
    return {"input_ids": torch.randint(3, 40, (rows, length), generator=generator), "attention_mask": mask}


def context_of(name: str, folder: Path, *, data: bool = True) -> StepContext:
    def batches(size: int) -> Iterator[dict[str, Any]]:
        for seed in range(24):
            yield batch_of(name, size, seed=seed)

    folder.mkdir(parents=True, exist_ok=True)
    return StepContext(seed=0, folder=folder, batches=batches if data else None, samples=batches, threads=1)


def alone(artifact: Any, inputs: Any, **more: Any) -> dict[str, torch.Tensor]:
    """What an artifact computes in a process with OpenVINO and NumPy, without leptonsdk and what it was made with.

    Models that generate do so greedily there: see ``alone_decoder.py`` and ``alone_seq2seq.py``.
    """
    kind = "seq2seq" if "decoder" in artifact.details else "decoder" if artifact.details.get("stateful") else None
    program = OpenVINOBackend.run_alone if kind is None else Path(__file__).with_name(f"alone_{kind}.py").read_text()
    given = {**inputs, **{name: torch.as_tensor(value) for name, value in more.items()}}
    without = ("torch", "transformers", "optimum", "nncf")
    return run_artifact(artifact.folder / artifact.entry, program, given, "openvino", without)


@pytest.fixture(scope="session")
def make(tiny: Any) -> SimpleNamespace:
    return SimpleNamespace(
        model=lambda name: model_of(tiny, name),
        batch=batch_of,
        context=context_of,
        alone=alone,
        with_input_scales=tiny.with_input_scales,
        rounding_inputs=tiny.rounding_inputs,
    )


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Callable[..., Any]:
    """Exports each model in each precision once, from one trace of it: tracing is most of the time."""
    from leptonsdk_openvino import OpenVINOConfig, export

    root, done, traces = tmp_path_factory.mktemp("exports"), {}, {}
    trace = export._trace

    def traced_once(model: Any, *args: Any, **kwargs: Any) -> Any:
        name = type(model).__name__
        if name not in traces:
            # Constants share memory with the model's weights, so the model stays.
            traces[name] = model, trace(model, *args, **kwargs)
        return {key: graph.clone() for key, graph in traces[name][1].items()}

    def exported(name: str, precision: str = "fp32", **options: Any) -> Any:
        key = (name, precision, repr(sorted(options.items())))
        if key not in done:
            folder = root / uuid.uuid4().hex
            folder.mkdir()
            backend = OpenVINOBackend(OpenVINOConfig(precision=precision, **options))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(export, "_trace", traced_once)
                context = context_of(name, folder.with_suffix(".scratch"))
                done[key] = backend.export(Checkpoint.of(model_of(tiny, name)), folder, context)
        return done[key]

    return exported

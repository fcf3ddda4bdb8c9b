"""Tiny random models exported once, batches for them, and a context; skipped where ExecuTorch cannot be installed."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("executorch") is None or importlib.util.find_spec("torchao") is None:
        reason = pytest.mark.skip(reason="executorch is not installed: there is no wheel for this system")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(reason)


def batch_of(name: str, rows: int, length: int = 8, seed: int = 0) -> dict[str, Any]:
    """Random inputs; each row after the first is padded by one token more."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        padded = min(row, length - 1)
        mask[row, slice(0, padded) if name == "llama" else slice(length - padded, length)] = 0
    return {"input_ids": torch.randint(3, 40, (rows, length), generator=generator), "attention_mask": mask}


def context_of(name: str, folder: Path, *, data: bool = True) -> StepContext:
    def batches(size: int) -> Iterator[dict[str, Any]]:
        for seed in range(8):
            yield batch_of(name, size, seed=seed)

    folder.mkdir(parents=True, exist_ok=True)
    return StepContext(seed=0, folder=folder, batches=batches if data else None, samples=batches, threads=1)


@pytest.fixture(scope="session")
def make(tiny: Any) -> SimpleNamespace:
    return SimpleNamespace(model=lambda name: tiny.build(name, layers=1), batch=batch_of, context=context_of)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Callable[..., Any]:
    """Exports each model in each precision once."""
    from leptonsdk_executorch import ExecuTorchBackend, ExecuTorchConfig

    root, done = tmp_path_factory.mktemp("exports"), {}

    def exported(name: str, precision: str = "fp32", **options: Any) -> Any:
        key = (name, precision, repr(sorted(options.items())))
        if key not in done:
            folder = root / uuid.uuid4().hex
            folder.mkdir()
            backend = ExecuTorchBackend(ExecuTorchConfig(precision=precision, **options))
            context = context_of(name, folder.with_suffix(".scratch"))
            checkpoint = Checkpoint.of(tiny.build(name, layers=1))
            done[key] = backend.export(checkpoint, folder, context)
            assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())  # as it was
        return done[key]

    return exported

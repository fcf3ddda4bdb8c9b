"""How far an exported model is from its source: what the export itself cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from leptonsdk.errors import ExportError

_FP32_TOLERANCE = 1e-3  # absolute; relative where outputs are above 1
_INT8_TOLERANCE = 0.25  # root mean square of the difference, relative to the outputs'


def measure_parity(model: Any, runner: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """Compare every output that both have, over a few batches; padded positions are left out.

    Returns:
        ``max_abs_diff``, ``mean_abs_diff``, ``relative_rms``, ``cosine`` over all outputs, ``max_abs_output``,
        ``samples``; ``argmax_agreement`` where there are logits.
    """
    ours: dict[str, list[torch.Tensor]] = {}
    theirs: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        with torch.inference_mode():
            expected = model(**batch)
        found = runner(**batch)
        for name, value in found.items():
            reference = expected.get(name)
            if isinstance(reference, torch.Tensor) and isinstance(value, torch.Tensor):
                keep = _attended(reference, batch.get("attention_mask"))
                theirs.setdefault(name, []).append(reference.detach().float().cpu()[keep].flatten())
                ours.setdefault(name, []).append(value.float()[keep].flatten())
                if name == "logits":
                    same = (reference.cpu().argmax(-1) == value.argmax(-1))[keep]
                    ours.setdefault("argmax", []).append(same.flatten().float())
    if not theirs:
        raise ExportError("the exported model has no output in common with its source")
    agreement = torch.cat(ours.pop("argmax")) if "argmax" in ours else None
    reference = torch.cat([part for name in theirs for part in theirs[name]]).double()
    value = torch.cat([part for name in theirs for part in ours[name]]).double()
    difference = (reference - value).abs()
    result: dict[str, Any] = {
        "max_abs_diff": float(difference.max()),
        "mean_abs_diff": float(difference.mean()),
        "relative_rms": float(difference.square().mean().sqrt() / reference.square().mean().sqrt().clamp_min(1e-12)),
        "cosine": float(torch.nn.functional.cosine_similarity(reference, value, dim=0)),
        "max_abs_output": float(reference.abs().max()),
        "samples": sum(next(iter(batch.values())).shape[0] for batch in batches),
        "outputs": sorted(theirs),
    }
    if agreement is not None:
        result["argmax_agreement"] = float(agreement.mean())
    return result


def check_parity(parity: Mapping[str, Any], precision: str, tolerance: float | None, where: str) -> dict[str, Any]:
    """The parity with the tolerance that it was held against.

    Raises:
        ExportError: It is beyond it.
    """
    if precision == "fp32":
        limit = tolerance if tolerance is not None else _FP32_TOLERANCE * max(1.0, parity["max_abs_output"])
        measure = "max_abs_diff"
    else:
        limit, measure = tolerance if tolerance is not None else _INT8_TOLERANCE, "relative_rms"
    # Written so that NaN fails.
    if not parity[measure] <= limit:
        raise ExportError(
            f"the exported model differs from its source: {measure} {parity[measure]:.3g}, allowed {limit:.3g}",
            where=f"onnxruntime {precision}, {where}",
            hint="leave sensitive modules in float with `ignore`, or allow more with `tolerance`",
        )
    return {**parity, "measure": measure, "tolerance": limit}


def _attended(output: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """An index for the positions of an output [batch, length, ...] that are not padding; all of any other output."""
    if mask is not None and mask.dim() == 2 and output.dim() == 3 and output.shape[:2] == mask.shape:
        return mask.bool().cpu()
    return torch.ones(output.shape[0], dtype=torch.bool)

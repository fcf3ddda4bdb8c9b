"""Calibration data as a model's forward takes it, and what layers read while the model runs on it.

For compressors that fit something to a layer's inputs. None of it knows how a model is built: what layers read is seen by
hooks, padding is told by the attention mask, and layers belong together that read one tensor.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from leptonsdk.hooks import StepContext

Inputs = Mapping[str, Any]
_TILE = 192
_DECODER_SHARE = 16  # of a budget, the part that a decoder must have seen, at least
_DECODED = 64  # tokens that an encoder-decoder writes for itself where the data has only its inputs


def calibration_inputs(model: Any, context: StepContext, batch_size: int) -> Iterator[Inputs]:
    """Batches as the model's forward takes them, on its device and in its dtype, without labels and caches.

    An encoder-decoder whose data has no text to decode gets what it writes itself, greedily.

    Raises:
        UsageError: The step has no calibration data.
    """
    parameters = inspect.signature(model.forward).parameters
    extra = {"use_cache": False} if "use_cache" in parameters else {}
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    for batch in context.calibration(batch_size):
        inputs = {n: v.to(model.device) for n, v in batch.items() if n in parameters and n != "labels"}
        inputs = {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in inputs.items()}
        if decodes and "decoder_input_ids" not in inputs:
            labels = batch.get("labels")
            if labels is not None and hasattr(model, "prepare_decoder_input_ids_from_labels"):
                inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels.to(model.device))
            else:
                limit = getattr(model.config, "max_target_positions", None) or 2 * _DECODED
                tokens = min(_DECODED, limit // 2)
                inputs["decoder_input_ids"] = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        yield {**inputs, **extra}


def one_row(inputs: Inputs) -> Inputs:
    """The first row of a batch."""
    return {name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()}


@dataclass
class Budget:
    """Tells when enough calibration inputs have been read.

    An encoder-decoder must have seen a sixteenth as many positions in its decoder too: speech has hundreds of frames for each
    token, and a budget of frames alone would leave the decoder with a handful of inputs.

    Attributes:
        wanted: Positions of the first layer.
        seen: So far.
        decoded: Of the decoder; infinite where there is none.
    """

    wanted: int
    seen: int = 0
    decoded: float = 0.0

    def add(self, inputs: Inputs, positions: int) -> None:
        """Count a batch, of which the first layer read so many positions."""
        self.seen += positions
        mask, ids = inputs.get("decoder_attention_mask"), inputs.get("decoder_input_ids")
        if isinstance(mask, Tensor):
            self.decoded += float(mask.sum())
        else:
            self.decoded += ids.numel() if isinstance(ids, Tensor) else math.inf

    @property
    def met(self) -> bool:
        return self.seen >= self.wanted and self.decoded * _DECODER_SHARE >= self.wanted


class Gram:
    """``X^T X`` of a layer's inputs ``X`` ``[positions, in]``, summed up batch by batch.

    In float32, since one whose entries carry bfloat16's rounding is not positive definite.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._upper = torch.zeros(width, width, device=device)
        self.positions = 0

    def add(self, x: Tensor) -> None:
        """More inputs ``[positions, in]``."""
        full = x.float()
        for start in range(0, full.shape[1], _TILE):  # the upper triangle, a tile's height at a time
            self._upper[start : start + _TILE, start:].addmm_(full[:, start : start + _TILE].t(), full[:, start:])
        self.positions += len(x)

    def mean(self) -> Tensor:
        """Per position, symmetric ``[in, in]``."""
        upper = torch.triu(self._upper)
        return (upper + torch.triu(upper, 1).t()) / max(self.positions, 1)


def attended(inputs: Inputs, x: Tensor) -> Tensor | None:
    """The mask ``[batch, length]`` of the inputs that belongs to a layer's input ``[batch, length, in]``; None: all count."""
    for name in ("attention_mask", "decoder_attention_mask"):
        mask = inputs.get(name)
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape == x.shape[:-1]:
            return None if bool(mask.all()) else mask.bool()
    return None


def positions(x: Tensor, keep: Tensor | None) -> Tensor:
    """A layer's input ``[..., in]`` as ``[positions, in]``, those alone that a mask (of `attended`) keeps."""
    return x.reshape(-1, x.shape[-1]) if keep is None else x[keep]


def layers_by_input(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> list[tuple[str, ...]]:
    """Layers by name in the order of a forward, those together that read the same tensor (query, key and value, say).

    Layers that the forward never calls are left out.
    """
    seen: dict[str, tuple[int, Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.setdefault(name, (arguments[0]._version, arguments[0]))

        return hook

    _run(model, [module.register_forward_pre_hook(note(name)) for name, module in layers.items()], inputs)
    groups: list[list[str]] = []
    last: tuple[int, Tensor] | None = None
    for name, (version, x) in seen.items():
        if last is not None and last[1] is x and last[0] == version:
            groups[-1].append(name)
        else:
            groups.append([name])
        last = (version, x)
    return [tuple(names) for names in groups]


def watch_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs, see: Callable[[str, Tensor], None]
) -> None:
    """Run the model on a batch and show what some of its layers read: ``see(name, x)`` with ``x`` ``[positions, in]``.

    Padding is left out. A layer that is called several times is shown each of them. Gradients are off, and no hook stays.
    """

    def show(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = arguments[0].detach()
            see(name, positions(x, attended(inputs, x)))

        return hook

    _run(model, [module.register_forward_pre_hook(show(name)) for name, module in layers.items()], inputs)


def _run(model: nn.Module, handles: list[Any], inputs: Inputs) -> None:
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()

"""Fake quantizers at a model's layers: where they go, when they act, and what is left of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed, nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor
from leptonsdk.quantization.layers import LinearLayer, is_conv1d, layers_to_quantize, linear_layers
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk.structure import sample_inputs
from leptonsdk.structure.tracing import steady, trace
from leptonsdk.training import fold, transform_input, transform_weight
from leptonsdk_qat.config import QuantizationAwareTrainingConfig
from leptonsdk_qat.quantizers import InputQuantizer, WeightQuantizer

NAME = "qat"


class Quantizing:
    """The fake quantizers of a model. See `QuantizationAwareTraining`, which calls this.

    Attributes:
        active: They round.
        quantized: After `finish`: the integers by module name, each with how the layer's input is quantized. Embedding tables
            that came quantized stay as they are, and are not trained.
    """

    def __init__(
        self, model: Any, config: QuantizationAwareTrainingConfig, start: Mapping[str, AnyTensor] | None = None
    ) -> None:
        self._config, self.active = config, False
        self.quantized: dict[str, QuantizedTensor] = {}
        self._inputs: list[InputQuantizer] = []
        self._input_of: dict[nn.Module, InputQuantizer] = {}
        self._weights: dict[nn.Module, WeightQuantizer] = {}
        layers = self._layers(model, start or {})
        modules = dict(model.named_modules())
        for name, tensor in (start or {}).items():
            if isinstance(table := modules.get(name), nn.Embedding) and isinstance(tensor, QuantizedTensor):
                table.requires_grad_(False)  # trained as floats it would no longer be what its integers say
                self.quantized[name] = tensor
        if config.activation_bits is not None:
            groups = _by_input(model, layers)
            for group in groups:
                members = [layers[name] for name in group]
                quantizer = InputQuantizer(learned=config.activation_ranges == "learned", device=_device(members[0]))
                transform_input(members, NAME, quantizer)
                self._inputs.append(quantizer)
                self._input_of.update(dict.fromkeys(members, quantizer))
        for name, layer in layers.items():
            given = (start or {}).get(name)
            before = given if isinstance(given, QuantizedTensor) else None
            scheme = config.resolve() if before is None else before.scheme
            weight: torch.Tensor = layer.weight  # type: ignore[assignment]
            self._weights[layer] = WeightQuantizer(
                weight,
                scheme,
                learned=config.learns_weight_scales(scheme),
                transposed=is_conv1d(layer),
                start=before,
            )
            transform_weight(layer, NAME, self._weights[layer])

    def learned(self) -> list[nn.Parameter]:
        """Scales and ends of ranges."""
        return [p for module in (*self._weights.values(), *self._inputs) for p in module.parameters()]

    def step(self, *, active: bool, observing: bool) -> None:
        """Called at the start and after every optimizer step: take in what was observed, and round from now on or not."""
        _agree([quantizer for quantizer in self._inputs if quantizer.observing])
        for quantizer in self._inputs:
            quantizer.step()
            quantizer.active, quantizer.observing = active, observing or not quantizer.ready
        for weight in self._weights.values():
            weight.active = active
        self.active = active

    def finish(self, model: nn.Module) -> None:
        """Weights become the numbers that their integers stand for; `quantized` holds these."""
        names = {module: name for name, module in model.named_modules()}
        for layer, quantizer in self._weights.items():
            if layer in names:  # it may have been removed
                weight: torch.Tensor = layer.weight  # type: ignore[assignment]
                tensor = quantizer.quantize(weight)
                source = self._input_of.get(layer)
                scale = None if source is None else source.input_scale()
                self.quantized[names[layer]] = dataclasses.replace(tensor.to("cpu"), input_scale=scale)
                quantizer.active = False
                fold(layer, NAME)
                dense = tensor.dequantize(weight.dtype)
                weight.data.copy_(dense.t() if is_conv1d(layer) else dense)

    def _layers(self, model: nn.Module, start: Mapping[str, AnyTensor]) -> dict[str, nn.Module]:
        """The layers that are meant by name: those that are quantized already, and, where a scheme is asked for, the rest."""
        config, linear = self._config, linear_layers(model)
        if books := [name for name, tensor in start.items() if not isinstance(tensor, QuantizedTensor)]:
            raise UsageError(f"weights with codebooks cannot be trained: {', '.join(books[:5])}", where="qat")
        found = {name: linear[name] for name in start if name in linear}
        if config.has_scheme or not start:
            more: list[LinearLayer] = layers_to_quantize(model, config.resolve(), config.targets, config.ignore, start)
            found |= {layer.name: layer.module for layer in more}
        return found


def _by_input(model: Any, layers: Mapping[str, nn.Module]) -> list[list[str]]:
    """The layers in groups that read one tensor (query, key and value), seen in one forward on made-up inputs."""
    with steady(model):
        traced = trace(model, sample_inputs(model))
    groups: dict[Any, list[str]] = {}
    for name in layers:
        seen = traced[name].inputs if name in traced else []
        groups.setdefault(seen[0] if len(seen) == 1 else name, []).append(name)
    return list(groups.values())


def _agree(quantizers: Sequence[InputQuantizer]) -> None:
    """What any process has seen, all have: each sees batches of its own."""
    if quantizers and distributed.is_available() and distributed.is_initialized():
        seen = torch.stack([end for q in quantizers for end in (q.seen_low, -q.seen_high)])
        distributed.all_reduce(seen, distributed.ReduceOp.MIN)
        for quantizer, (low, high) in zip(quantizers, seen.reshape(-1, 2), strict=True):
            quantizer.seen_low.copy_(low)
            quantizer.seen_high.copy_(-high)


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device

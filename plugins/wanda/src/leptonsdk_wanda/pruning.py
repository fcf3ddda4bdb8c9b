"""From a checkpoint and calibration data to a pruned checkpoint, layer by layer."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from leptonsdk.calibration import LayerByLayer, calibration_inputs
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import choose_layers, weight_of
from leptonsdk_wanda.compressor import WandaConfig
from leptonsdk_wanda.masks import input_norms, keep, scores


def prune(checkpoint: Checkpoint, config: WandaConfig, context: StepContext) -> Checkpoint:
    """See `leptonsdk_wanda.Wanda`. Later layers see the inputs that pruned ones give them."""
    model = copy.deepcopy(checkpoint.model)
    chosen = choose_layers(model, config.targets, config.ignore, checkpoint.quantized)
    for layer in chosen:
        config.group(layer.in_features)
    layers = {layer.name: layer.module for layer in chosen}
    batches = calibration_inputs(model, context, config.batch_size)
    with LayerByLayer(model, layers, batches, positions=config.calibration_tokens) as walk:
        for group in walk:
            context.progress(group.position, len(walk.groups), group.names[0])
            norms = input_norms(batch.x for batch in walk.arrived(group))
            if not bool(norms.isfinite().all()):
                raise UsageError("the calibration inputs are not finite", where=f"layer '{group.names[0]}'")
            for name in group.names:
                _prune(layers[name], norms, config)
        for name in walk.unreached():  # no input is known: by size alone
            _prune(layers[name], torch.ones(()), config)
    context.progress(len(walk.groups), len(walk.groups), "pruned")
    return checkpoint.replace(model=model)


def _prune(layer: nn.Module, norms: Tensor, config: WandaConfig) -> None:
    weight = weight_of(layer)
    found = scores(weight, norms.to(weight.device))
    weight.masked_fill_(~keep(found, *config.group(weight.shape[1])), 0)

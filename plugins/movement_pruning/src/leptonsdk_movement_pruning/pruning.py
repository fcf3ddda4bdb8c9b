"""Masks at a model's layers: where they go, what they keep, and what is removed in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization import class_names, matches, tied_layers, weight_of
from leptonsdk.quantization.layers import is_conv1d, linear_layers
from leptonsdk.structure import find_units, fit_config, remove_heads, remove_neurons, sample_inputs
from leptonsdk.training import fold, transform_weight, whole
from leptonsdk_movement_pruning.config import LAYERS, LEARNT, UNITS, MovementPruningConfig
from leptonsdk_movement_pruning.masks import Mask, threshold_for
from leptonsdk_movement_pruning.pruning_blocks import Blocks

NAME = "pruning"


@dataclass(frozen=True)
class _Masked:
    """A layer with a mask of some structure."""

    name: str
    layer: nn.Module
    mask: Mask
    structure: str

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return weight

    def scores(self) -> Tensor:
        return self.mask.current(self.weight)


class Pruning:
    """The masks of a model. See `MovementPruning`, which calls this."""

    def __init__(self, model: Any, config: MovementPruningConfig) -> None:
        self._config = config
        self._in_weights = [structure for structure in config.structure if structure != LAYERS]
        self._units = find_units(model, sample_inputs(model)) if self._in_weights else ([], [])
        self.blocks = Blocks(model, config.sparsity(LAYERS)) if LAYERS in config.structure else None
        self.masked = list(self._attach(model))
        if self._in_weights and not self.masked:
            raise UsageError(
                f"no layer is left to prune by targets {list(config.targets)} and ignore {list(config.ignore)}"
            )

    def scores(self) -> list[nn.Parameter]:
        """What is learnt besides the weights."""
        gates = [] if self.blocks is None else self.blocks.scores()
        return [*(masked.mask.scores for masked in self.masked if masked.mask.learnt), *gates]

    def penalty(self) -> Tensor:
        """The mean score after a sigmoid (soft movement), or the summed size of the weights (l1), times its factor."""
        factor = self._config.resolved_regularization
        if self._config.method == "soft_movement":
            scores = self.scores()
            total = torch.stack([whole(torch.sigmoid(s).sum()) for s in scores]).sum()
            return factor * total / sum(s.numel() for s in scores)
        if self._config.method == "l1":
            return factor * torch.stack([whole(masked.weight.abs().sum()) for masked in self.masked]).sum()
        return whole(self.masked[0].weight.new_zeros(()))

    def cut(self, sparsity: Mapping[str, float], exact: bool) -> None:
        """Mask the lowest scores, so that each structure has this sparsity."""
        with torch.no_grad():
            for structure, share in sparsity.items():
                if structure == LAYERS and self.blocks is not None:
                    self.blocks.cut(share, freeze=exact and self._config.freeze)
                    continue
                members = [masked for masked in self.masked if masked.structure == structure]
                if bool(members[0].mask.frozen):
                    continue
                scores: Iterable[Tensor] = (masked.scores() for masked in members)  # sharded ones whole one by one
                common = None
                if self._config.resolved_budget == "global":
                    scores = list(scores)
                    common = threshold_for(torch.cat([s.flatten() for s in scores]), share, exact=exact)
                for masked, own in zip(members, scores, strict=True):
                    threshold = threshold_for(own, share, exact=exact) if common is None else common
                    if structure in UNITS:
                        threshold = self._whole(structure, own, threshold)
                    masked.mask.cut(own, threshold)
                    if exact and self._config.freeze:
                        masked.mask.freeze()

    def logs(self) -> dict[str, float]:
        """Sparsity of each structure, and the penalty as it is in the loss now, where the method has one."""
        found = {} if self.blocks is None else {LAYERS: self.blocks.sparsity()}
        for structure in self._in_weights:
            members = [masked for masked in self.masked if masked.structure == structure]
            cells = [masked.mask.counts[0] * masked.mask.counts[1] for masked in members]
            zeros = sum(masked.mask.sparsity * count for masked, count in zip(members, cells, strict=True))
            found[structure] = zeros / sum(cells)
        logs = {"sparsity" if len(found) == 1 else f"{structure}_sparsity": share for structure, share in found.items()}
        if self._config.resolved_regularization:
            with torch.no_grad():
                logs["penalty"] = float(self.penalty())
        return logs

    def finish(self, model: nn.Module) -> nn.Module:
        """Fold the masks, then remove heads and neurons of which nothing is left, and blocks that are skipped."""
        for masked in self.masked:
            fold(masked.layer, NAME)
        attentions, ffns = self._units
        modules = dict(model.named_modules())
        for attention in attentions:
            columns = _nonzero_columns(modules[attention.output])
            keep = columns.reshape(attention.groups, -1).any(1).nonzero().flatten().tolist()
            if len(keep) < attention.groups:
                remove_heads(model, attention, keep or [0])
        for ffn in ffns:
            keep = _nonzero_columns(modules[ffn.down]).nonzero().flatten().tolist()
            if len(keep) < ffn.neurons:
                remove_neurons(model, ffn, keep or [0])
        if self.blocks is not None:  # last, since the units' names count the blocks
            self.blocks.finish(model)
        fit_config(model)
        return model

    def _whole(self, structure: str, scores: Tensor, threshold: Tensor) -> Tensor:
        """The threshold moved so that a layer keeps one unit at least, and neurons in multiples."""
        kept = int((scores >= threshold).sum())
        multiple = self._config.round_to if structure == "ffn" else 1
        wanted = min(-(-max(kept, 1) // multiple) * multiple, scores.numel())
        return threshold if wanted == kept else scores.flatten().kthvalue(scores.numel() - wanted + 1).values

    def _attach(self, model: nn.Module) -> Iterator[_Masked]:
        config, attentions, ffns = self._config, *self._units
        modules, linear = dict(model.named_modules()), linear_layers(model)
        tied = tied_layers(model)

        def meant(name: str) -> bool:
            return name not in tied and matches(name, class_names(modules[name]), config.targets, config.ignore)

        for structure in self._in_weights:
            if structure == "heads":
                chosen = [(a.output, (weight_of(modules[a.output]).shape[0], _group_width(a))) for a in attentions]
            elif structure == "ffn":
                chosen = [(f.down, (weight_of(modules[f.down]).shape[0], 1)) for f in ffns]
            else:
                chosen = [(name, self._cells(structure, weight_of(layer))) for name, layer in linear.items()]
            chosen = [(name, cells) for name, cells in chosen if meant(name)]
            if structure in UNITS and not chosen:
                raise UsageError(f"{type(model).__name__} shows no {structure} that could be removed")
            for name, cells in chosen:
                layer = modules[name]
                weight = weight_of(layer)
                rows, columns = weight.shape
                if rows % cells[0] or columns % cells[1]:
                    raise UsageError(
                        f"blocks of {list(cells)} do not divide its weight [{rows}, {columns}]",
                        where=f"layer '{name}'",
                        hint="choose another block_shape, or add the layer to `ignore`",
                    )
                learnt = config.method in LEARNT
                mask = Mask((rows, columns), cells, learnt=learnt, transposed=is_conv1d(layer)).to(weight.device)
                transform_weight(layer, NAME, mask)
                masked = _Masked(name, layer, mask, structure)
                if learnt and config.initial_scores:
                    with torch.no_grad():
                        mask.scores.copy_(config.initial_scores * mask.size(masked.weight))
                yield masked

    def _cells(self, structure: str, weight: Tensor) -> tuple[int, int]:
        rows, columns = weight.shape
        return {
            "unstructured": (1, 1),
            "block": self._config.block_shape,
            "rows": (1, columns),
            "columns": (rows, 1),
        }[structure]


def _group_width(attention: Any) -> int:
    """Columns of the output layer that belong to one key-value head and its query heads."""
    return int(attention.heads // attention.groups * attention.value_size)


def _nonzero_columns(layer: nn.Module) -> Tensor:
    return (weight_of(layer).detach() != 0).any(0)

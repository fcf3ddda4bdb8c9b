"""Which of the student's layers learns from which of the teacher's, and how their widths meet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import make_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk_distillation.config import LayerMap

PROJECTIONS = "distillation_projections"
PROJECTED = "projected_states"
EMBEDDINGS = "embeddings"


def layer_pairs(layer_map: LayerMap, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer); 0 is what goes into the first layer.

    ``uniform`` takes every (teacher / student)-th layer, ``last`` the uppermost ones (TinyBERT, arXiv 1909.10351, section 4.4).

    Args:
        layer_map: As in the config.
        student: Number of the student's layers.
        teacher: Of the teacher's.

    Raises:
        UsageError: A pair names a layer that is not there.
    """
    if layer_map == "uniform":
        return [(i, round(i * teacher / max(student, 1))) for i in range(student + 1)]
    if layer_map == "last":
        return [(0, 0), *((i, max(i + teacher - student, 0)) for i in range(1, student + 1))]
    for i, j in layer_map:
        if not (0 <= i <= student and 0 <= j <= teacher):
            raise UsageError(
                f"layer_map pairs {i} with {j}, the student has layers 0 to {student}, the teacher 0 to {teacher}",
                where="distillation",
            )
    return list(layer_map)


def stack_names(two_stacks: bool, kind: str) -> list[str]:
    """The outputs that hold a kind (``hidden_states``, ``attentions``) of each stack of layers."""
    return [f"encoder_{kind}", f"decoder_{kind}"] if two_stacks else [kind]


def last_state(outputs: Mapping[str, Any]) -> Tensor | None:
    """What stands for the input in a vector space, ``[rows, positions, width]``: an encoder's last states."""
    for name in ("encoder_last_hidden_state", "last_hidden_state"):
        if isinstance(state := outputs.get(name), Tensor):
            return as_positions(state)
    states = outputs.get("hidden_states")
    return None if states is None else as_positions(states[-1])


def pooled(state: Tensor, attended: Tensor, pooling: str) -> Tensor:
    """Items ``[items, width]`` of ``[rows, positions, width]``: one per row, or each attended position (``tokens``)."""
    if pooling == "tokens":
        return state[attended]
    if pooling == "cls":
        return state[:, 0]
    if pooling == "last":
        last = (attended * torch.arange(1, attended.shape[1] + 1, device=attended.device)).argmax(1)
        return state[torch.arange(len(state), device=state.device), last]
    weights = attended.unsqueeze(-1).to(state.dtype)
    return (state * weights).sum(1) / weights.sum(1).clamp_min(1)


def as_positions(state: Tensor) -> Tensor:
    """``[rows, channels, height, width]`` of a convolutional model as ``[rows, positions, channels]``; others as they are."""
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state


def widths(model: nn.Module, two_stacks: bool) -> list[int | None]:
    """The width of each stack's states, from the config; None where it does not tell."""
    config: Any = getattr(model, "config", None)
    names = ("encoder", "decoder") if two_stacks else ("",)
    return [_width(getattr(config, name, None)) or _width(config) for name in names]


def _width(config: Any) -> int | None:
    width = getattr(config, "hidden_size", None)
    if width is None and (sizes := getattr(config, "hidden_sizes", None)):
        width = sizes[-1]
    if width is None and config is not None and hasattr(config, "get_text_config"):
        width = getattr(config.get_text_config(), "hidden_size", None)
    return width if isinstance(width, int) else None


def add_projections(
    model: nn.Module, teacher: nn.Module, stacks: Collection[str], *, two_stacks: bool, embeddings: bool, seed: int
) -> None:
    """Add linear maps to the teacher's width where the student's differs, one per stack (TinyBERT's W_h), within the forward.

    They are a submodule of the student, so that optimizers and checkpoints hold them, and a hook applies them inside its
    forward, so that DistributedDataParallel sees them used; `projected` finds what they made in the outputs.
    """
    remove_projections(model)
    generator = torch.Generator().manual_seed(seed)
    sizes = list(zip(widths(model, two_stacks), widths(teacher, two_stacks), strict=True))
    wanted = dict(zip(stacks, sizes, strict=False)) | ({EMBEDDINGS: sizes[0]} if embeddings else {})
    like = next(model.parameters())
    projections = nn.ModuleDict()
    for name, (narrow, wide) in wanted.items():
        if narrow is None or wide is None or narrow == wide:
            continue
        layer = nn.Linear(narrow, wide, bias=False, device="meta", dtype=like.dtype).to_empty(device=like.device)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(wide, narrow, generator=generator) * narrow**-0.5)
        projections[name] = layer
    if projections:
        model.add_module(PROJECTIONS, projections)
        model.register_forward_hook(_project)


def remove_projections(model: nn.Module) -> None:
    """Leave the model as it was, also where it is a copy of the one that they were added to."""
    for key, hook in list(model._forward_hooks.items()):
        if hook is _project:
            del model._forward_hooks[key]
    if hasattr(model, PROJECTIONS):
        delattr(model, PROJECTIONS)


def _project(module: nn.Module, _args: Any, outputs: Any) -> Any:
    made: dict[str, Any] = {}
    for name, layer in getattr(module, PROJECTIONS).items():
        if name == EMBEDDINGS:
            if (state := last_state(outputs)) is not None:
                made[name] = layer(state)
        elif outputs.get(name) is not None:
            made[name] = tuple(layer(as_positions(state)) for state in outputs[name])
    if not made:
        return outputs
    kind: Any = type(outputs)
    return _with_projected(kind)(**outputs, **{PROJECTED: made})


def projected(outputs: Mapping[str, Any], name: str) -> Any:
    """What a projection of this name made of the student's states, or None."""
    return (outputs.get(PROJECTED) or {}).get(name)


@cache
def _with_projected(outputs: type[Any]) -> type[Any]:
    """A class of outputs with one more field: wrappers take a ModelOutput apart and build it again from its fields."""
    return make_dataclass(f"Projected{outputs.__name__}", [(PROJECTED, Any, None)], bases=(outputs,))

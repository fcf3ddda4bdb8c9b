"""Shapes that a config cannot say, in a small file beside the weights, and how a model is built with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from leptonsdk.errors import CheckpointError, first_line
from leptonsdk.quantization.layers import is_conv1d, linear_layers, weight_of
from leptonsdk.structure.configs import CANNOT_BUILD, build, fit_config
from leptonsdk.structure.removal import KEY_HEADS, QUERY_HEADS, WIDTHS

__all__ = [
    "FILE",
    "Shapes",
    "fit_config",
    "load_shapes",
    "plain_class",
    "record_shapes",
    "resize",
    "save_shapes",
    "shaped_class",
]

FILE = "leptonsdk_shapes.json"
_VERSION = 1
_MARK = "_leptonsdk_shapes"
# The only attributes that a file may set.
_ATTRIBUTES = frozenset({*QUERY_HEADS, *KEY_HEADS, *WIDTHS})


@dataclass(frozen=True)
class Shapes:
    """What a model has otherwise than its config builds it.

    Attributes:
        shapes: ``(out, in)`` of linear layers, by module name.
        attributes: Numbers of heads and widths that a forward reads, by module name.
    """

    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.shapes or self.attributes)


def record_shapes(model: Any) -> Shapes:
    """What a model has otherwise than its config builds it; nothing where the config cannot build any model of its class.

    Raises:
        CheckpointError: It has fewer blocks than its config says, which the file cannot hold.
    """
    try:
        built = build(model)
    except CANNOT_BUILD:
        return Shapes()
    ours, theirs = dict(model.named_modules()), dict(built.named_modules())
    for name, stack in theirs.items():
        own = ours.get(name)
        if isinstance(stack, nn.ModuleList) and isinstance(own, nn.ModuleList) and len(stack) != len(own):
            raise CheckpointError(f"it has {len(own)} blocks, and its config cannot say so", where=name)
    before, after = ({n: _shape(layer) for n, layer in linear_layers(some).items()} for some in (built, model))
    shapes = {name: shape for name, shape in after.items() if before.get(name, shape) != shape}
    attributes: dict[str, dict[str, int]] = {}
    for name, module in ours.items():
        for key in _ATTRIBUTES & vars(module).keys() & vars(theirs.get(name, nn.Module())).keys():
            value, other = vars(module)[key], vars(theirs[name])[key]
            if _is_count(value) and _is_count(other) and value != other:
                attributes.setdefault(name, {})[key] = value
    return Shapes(shapes, attributes)


def save_shapes(model: Any, folder: str | Path) -> None:
    """Write the file of a saved model's folder where its config does not say its shapes; else remove an old one.

    Raises:
        CheckpointError: As of `record_shapes`.
    """
    path = Path(folder) / FILE
    record = record_shapes(model)
    if not record:
        path.unlink(missing_ok=True)
        return
    content = {
        "version": _VERSION,
        "shapes": {name: list(shape) for name, shape in sorted(record.shapes.items())},
        "attributes": {name: dict(sorted(values.items())) for name, values in sorted(record.attributes.items())},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_shapes(folder: str | Path) -> Shapes:
    """The shapes that a folder's file holds; nothing without a file.

    Raises:
        CheckpointError: The file cannot be read, is of another version, or sets what it may not.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return Shapes()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"it cannot be read: {first_line(error)}", where=str(path)) from error
    try:
        if content["version"] != _VERSION:
            raise CheckpointError(
                f"its version is {content['version']}, not {_VERSION}", where=str(path), hint="update leptonsdk"
            )
        shapes = {str(name): _checked_shape(shape) for name, shape in content["shapes"].items()}
        attributes = {str(name): _checked_attributes(values) for name, values in content["attributes"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"it is damaged: {type(error).__name__} {first_line(error)}", where=str(path)) from error
    return Shapes(shapes, attributes)


def resize(model: nn.Module, record: Shapes) -> None:
    """Make a freshly built model fit a record, in place: new linear layers without values, and attributes.

    Raises:
        CheckpointError: A module is missing or is no linear layer.
    """
    modules, linear = dict(model.named_modules()), linear_layers(model)
    for name, (outputs, inputs) in record.shapes.items():
        if name not in linear:
            raise CheckpointError(f"there is no linear layer '{name}'", where=FILE)
        model.set_submodule(name, _like(linear[name], outputs, inputs))
    for name, values in record.attributes.items():
        for key, value in values.items():
            if not _is_count(vars(modules[name]).get(key) if name in modules else None):
                raise CheckpointError(f"module '{name}' has no number '{key}'", where=FILE)
            setattr(modules[name], key, value)


def shaped_class(model_class: Any, record: Shapes) -> Any:
    """A subclass of a model class that builds models of recorded shapes.

    transformers' own ``from_pretrained`` loads weights into it, with all that it does to their names. Give the loaded model
    to `plain_class`. Without a record it is the class itself.
    """
    if not record:
        return model_class

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        model_class.__init__(self, config, *args, **kwargs)
        resize(self, record)

    names = {"__init__": __init__, "__module__": model_class.__module__, "__doc__": model_class.__doc__}
    return type(model_class.__name__, (model_class,), {**names, _MARK: record})


def plain_class(model: Any) -> Any:
    """The same model, as one of the architecture's own class again."""
    if _MARK in vars(type(model)):
        model.__class__ = type(model).__base__
    return model


def _like(layer: nn.Module, outputs: int, inputs: int) -> nn.Module:
    """A linear layer of the same class with other numbers of outputs and inputs, its values not set."""
    weight = weight_of(layer)
    made: nn.Module
    if is_conv1d(layer):
        made = type(layer)(outputs, inputs)
    else:
        made = nn.Linear(inputs, outputs, bias=getattr(layer, "bias", None) is not None, device="meta")
    made.to(weight.dtype).to_empty(device=weight.device)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
    return made.train(layer.training)


def _shape(layer: nn.Module) -> tuple[int, int]:
    if is_conv1d(layer):
        outputs, inputs = weight_of(layer).shape
        return outputs, inputs
    return int(layer.out_features), int(layer.in_features)  # type: ignore[arg-type]  # packed weights have other shapes


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _checked_shape(shape: Any) -> tuple[int, int]:
    outputs, inputs = shape
    if not (_is_count(outputs) and _is_count(inputs)):
        raise ValueError(f"{shape} is no shape")
    return outputs, inputs


def _checked_attributes(values: Mapping[str, Any]) -> dict[str, int]:
    for key, value in values.items():
        if key not in _ATTRIBUTES or not _is_count(value):
            raise ValueError(f"{key} = {value} cannot be set")
    return dict(values)

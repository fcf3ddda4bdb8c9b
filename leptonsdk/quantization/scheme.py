"""Schemes: how a weight becomes integers, in the terms of compressed-tensors. No torch here; a plan needs this.

A weight ``W`` of shape ``[out, in]`` becomes signed integers ``Q`` of ``num_bits`` with a scale (and, when asymmetric, a
zero point) for each piece of it, and ``W ≈ (Q - zero_point) * scale``. The strategy says what a piece is:

| strategy | pieces | scale |
|---|---|---|
| ``tensor`` | the whole weight | ``[1, 1]`` |
| ``channel`` | a row | ``[out, 1]`` |
| ``group`` | ``group_size`` neighbours in a row | ``[out, in / group_size]`` |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leptonsdk.errors import UsageError, did_you_mean

Strategy = Literal["tensor", "channel", "group"]

# Group sizes that kernels know: powers of two.
GROUP_SIZES = (16, 32, 64, 128, 256, 512)
DEFAULT_GROUP_SIZE = 128


class Pieces(BaseModel):
    """Bits, and what shares a scale or a codebook: the part that schemes of all kinds have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_bits: int = Field(ge=2, le=8, description="Bits per integer, 2 to 8")
    strategy: Strategy = Field("channel", description="What shares a scale: the tensor, a channel (row), or a group")
    group_size: int | None = Field(
        None, gt=0, description="Weights in a row that share a scale (strategy 'group' only)"
    )

    @model_validator(mode="after")
    def _group_size_belongs_to_group(self) -> Self:
        if (self.strategy == "group") != (self.group_size is not None):
            raise ValueError("group_size is given with strategy 'group', and only then")
        return self

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """The scale's shape for a weight of shape ``[out, in]``; `UsageError` when groups do not fit."""
        rows, columns = shape
        if self.strategy == "tensor":
            return 1, 1
        if self.group_size is None:
            return rows, 1
        if columns % self.group_size:
            check_fits(self, {"the weight": columns})
        return rows, columns // self.group_size

    def fits(self, in_features: int) -> bool:
        """Whether whole groups fill a row of that many weights."""
        return self.group_size is None or in_features % self.group_size == 0


class Scheme(Pieces):
    """How weights are quantized. Activations stay in float (the A16 of the presets' names)."""

    symmetric: bool = Field(True, description="No zero point: the integer 0 is the weight 0")

    @property
    def minimum(self) -> int:
        """The smallest integer, ``-2^(num_bits - 1)``."""
        return -(1 << (self.num_bits - 1))

    @property
    def maximum(self) -> int:
        """The largest integer, ``2^(num_bits - 1) - 1``."""
        return (1 << (self.num_bits - 1)) - 1

    @property
    def name(self) -> str:
        """The preset's name if it is one, else a short description such as ``W4A16 group 64 asymmetric``."""
        for name, preset in PRESETS.items():
            if preset == self:
                return name
        piece = f"group {self.group_size}" if self.group_size else self.strategy
        return f"W{self.num_bits}A16 {piece}{'' if self.symmetric else ' asymmetric'}"

    def to_weights(self) -> dict[str, Any]:
        """The ``weights`` entry of a compressed-tensors config group."""
        return {
            "num_bits": self.num_bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": self.strategy,
            "group_size": self.group_size,
            "dynamic": False,
        }

    @classmethod
    def from_weights(cls, weights: Mapping[str, Any]) -> Scheme:
        """Read the ``weights`` entry of a compressed-tensors config group; `UsageError` for what is not here."""
        size = weights.get("group_size")
        strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
        if weights.get("type", "int") != "int":
            raise UsageError(f"weights of type '{weights['type']}' are not integers")
        return _validated(
            num_bits=weights.get("num_bits", 8),
            symmetric=weights.get("symmetric", True),
            strategy=strategy,
            group_size=size if strategy == "group" else None,
        )

    @classmethod
    def preset(cls, name: str) -> Scheme:
        """A scheme by its name, in any case; `UsageError` with the nearest name for an unknown one."""
        try:
            return PRESETS[name.upper()]
        except KeyError:
            raise UsageError(f"unknown scheme '{name}'", hint=did_you_mean(name.upper(), PRESETS)) from None

    @classmethod
    def resolve(
        cls,
        scheme: str | Mapping[str, Any] | Scheme | None = None,
        *,
        bit_width: int | None = None,
        group_size: int | None = None,
        symmetric: bool | None = None,
    ) -> Scheme:
        """The scheme that a user means.

        Args:
            scheme: A preset's name or the fields of a scheme; then nothing else may be given.
            bit_width: Bits per integer. Without a group size, 8 bits go by channel and fewer by groups of 128.
            group_size: Weights that share a scale; -1 is a whole channel.
            symmetric: Default True.

        Raises:
            UsageError: Both ways or neither are used, or a value is out of range.
        """
        given = {"bit_width": bit_width, "group_size": group_size, "symmetric": symmetric}
        if scheme is not None:
            if extra := [key for key, value in given.items() if value is not None]:
                raise UsageError(f"a scheme is given, and {', '.join(extra)} besides", hint="give one or the other")
            if isinstance(scheme, Scheme):
                return scheme
            return cls.preset(scheme) if isinstance(scheme, str) else _validated(**scheme)
        if bit_width is None:
            raise UsageError("neither a scheme nor a bit_width is given", hint=f"schemes: {', '.join(PRESETS)}")
        if group_size is None and bit_width < 8:
            group_size = DEFAULT_GROUP_SIZE
        by_channel = group_size is None or group_size == -1
        return _validated(
            num_bits=bit_width,
            symmetric=True if symmetric is None else symmetric,
            strategy="channel" if by_channel else "group",
            group_size=None if by_channel else group_size,
        )


def _validated(**fields: Any) -> Scheme:
    try:
        return Scheme.model_validate(fields)
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, e['loc'])) or 'scheme'}: {e['msg']}" for e in error.errors()]
        raise UsageError(f"no such scheme: {'; '.join(reasons)}") from error


PRESETS: dict[str, Scheme] = {
    "W8A16": Scheme(num_bits=8, symmetric=True, strategy="channel", group_size=None),
    "W4A16": Scheme(num_bits=4, symmetric=True, strategy="group", group_size=DEFAULT_GROUP_SIZE),
    "W4A16_ASYM": Scheme(num_bits=4, symmetric=False, strategy="group", group_size=DEFAULT_GROUP_SIZE),
    "W3A16": Scheme(num_bits=3, symmetric=True, strategy="group", group_size=DEFAULT_GROUP_SIZE),
    "W2A16": Scheme(num_bits=2, symmetric=True, strategy="group", group_size=DEFAULT_GROUP_SIZE),
}


def match_pattern(pattern: str, name: str, class_names: Iterable[str]) -> bool:
    """Whether one pattern means a module.

    Args:
        pattern: ``re:REGEX`` matched from the start of the module's name, a module's full name or the dotted end of it
            (``q_proj``, ``self_attn.q_proj``), or a class name (``Linear``).
        name: The module's full name.
        class_names: Names of the module's class and its bases.
    """
    if pattern.startswith("re:"):
        try:
            return re.match(pattern.removeprefix("re:"), name) is not None
        except re.error as error:
            raise UsageError(f"'{pattern}' is no regular expression: {error}") from error
    return name == pattern or name.endswith(f".{pattern}") or pattern in class_names


def matches(name: str, class_name: str | Iterable[str], targets: Iterable[str], ignore: Iterable[str] = ()) -> bool:
    """Whether a module is among the targets and not ignored (compressed-tensors' rule; ends of names match as well)."""
    classes = {class_name} if isinstance(class_name, str) else set(class_name)
    return any(match_pattern(p, name, classes) for p in targets) and not any(
        match_pattern(p, name, classes) for p in ignore
    )


def fitting_group_sizes(in_features: int | Iterable[int]) -> tuple[int, ...]:
    """The usual group sizes (16 to 512) that divide one width, or every one of several."""
    widths = (in_features,) if isinstance(in_features, int) else tuple(in_features)
    return tuple(size for size in GROUP_SIZES if all(width % size == 0 for width in widths))


def check_fits(scheme: Pieces, layers: Mapping[str, int]) -> None:
    """Check that whole groups fill the rows of every layer.

    Args:
        scheme: The scheme for all of them.
        layers: ``in_features`` by layer name.

    Raises:
        UsageError: Names all layers that do not fit, by width, with the group sizes that do.
    """
    unfit: dict[int, list[str]] = {}
    for name, width in layers.items():
        if not scheme.fits(width):
            unfit.setdefault(width, []).append(name)
    if not unfit:
        return
    lines = [
        f"{width} inputs (fitting sizes: {', '.join(map(str, fitting_group_sizes(width))) or 'none'}): {', '.join(names)}"
        for width, names in sorted(unfit.items())
    ]
    common = fitting_group_sizes(layers.values())
    sizes = f"group_size {' or '.join(map(str, common))} fits all layers" if common else "no usual size fits all layers"
    raise UsageError(
        f"group_size {scheme.group_size} does not divide the inputs of {sum(map(len, unfit.values()))} layers:\n"
        + "\n".join(f"  {line}" for line in lines),
        hint=f"{sizes}; group_size -1 gives each row one scale; or ignore these layers",
    )

"""Tracing a transformers model into what coremltools converts.

Attention and its masks go through transformers' own registries (`AttentionInterface`, `AttentionMaskInterface`), so that
sliding windows and other patterns are kept, and no model family is named here.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from leptonsdk.errors import ExportError
from leptonsdk.exporting import Inputs, quiet

_ATTENTION = "leptonsdk_coreml"
# Added where a position may not be seen: finite in fp16, also with scores on top, and nothing after the softmax.
_HIDDEN = -3e4


class _Positional(nn.Module):
    """A model that takes its inputs by position, and returns its tensors as a tuple: what can be traced."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.structure: Any = None
        self.more = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, values, strict=True)), **self.more, return_dict=True)
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        self.structure = type(found)(**tensors)
        return tuple(tensors.values())


@dataclass(frozen=True)
class Traced:
    """A traced module and what is known of it.

    Attributes:
        module: What coremltools converts.
        inputs: What it was traced with, of types that an ML program takes.
        sizes: Each input's shape, ``batch`` and ``length`` where it varies.
        structure: What the model returned, tensors only, by name.
        limit: The longest sequence that the model takes, where there is a limit.
    """

    module: torch.jit.ScriptModule
    inputs: Inputs
    sizes: Mapping[str, tuple[int | str, ...]]
    structure: Any
    limit: int | None


def trace(model: Any, inputs: Mapping[str, Tensor]) -> Traced:
    """Trace a model's forward, without its cache.

    Raises:
        ExportError: The model's forward cannot be traced.
    """
    wrapped = _Positional(model, tuple(inputs)).eval()
    narrowed = {name: narrow(value) for name, value in inputs.items()}
    with torch.no_grad(), _plain_attention(model), quiet():
        try:
            module = torch.jit.trace(  # type: ignore[no-untyped-call]
                wrapped, tuple(narrowed.values()), check_trace=False, strict=False
            )
        except Exception as error:
            raise ExportError(
                f"{type(model).__name__} cannot be traced: {str(error).strip().splitlines()[0][:300]}",
                where="coreml",
                hint="the cause stands in the traceback",
            ) from error
    return Traced(module, narrowed, _sizes(narrowed), wrapped.structure, _length_limit(model))


def narrow(value: Tensor) -> Tensor:
    """A tensor of a type that an ML program takes: int32, or float32."""
    return value.to(torch.float32 if value.is_floating_point() else torch.int32)


@contextlib.contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, _mask)
    modules = [module for module in model.modules() if hasattr(module, "config")]
    before = {id(module.config): (module.config, module.config._attn_implementation) for module in modules}
    model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        for config, implementation in before.values():
            config._attn_implementation = implementation


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot product attention, ``[batch, heads, length, size]`` to ``[batch, length, heads, size]``."""
    groups = getattr(module, "num_key_value_groups", 1)
    found = nn.functional.scaled_dot_product_attention(
        query, _repeat(key, groups), _repeat(value, groups), attn_mask=attention_mask, scale=scaling
    )
    return found.transpose(1, 2), None


def _repeat(x: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    **_: Any,
) -> Tensor:
    """What is added to the scores: 0, or `_HIDDEN`; ``[batch or 1, 1, queries, keys]``."""
    queries = (torch.arange(q_length) + q_offset)[None, None, :, None]
    keys = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    seen = mask_function(zero, zero, queries, keys)
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, :].bool()
    added: Tensor = (1 - seen.to(dtype)) * _HIDDEN
    return added


def _sizes(inputs: Mapping[str, Tensor]) -> dict[str, tuple[int | str, ...]]:
    """Each input's shape, with ``batch`` and ``length`` for the axes that vary."""
    found: dict[str, tuple[int | str, ...]] = {}
    for name, value in inputs.items():
        text = value.dim() == 2 and not value.is_floating_point()
        varies = text or name in ("input_values", "inputs_embeds")
        found[name] = ("batch", "length", *value.shape[2:]) if varies else ("batch", *value.shape[1:])
    return found


def _length_limit(model: Any) -> int | None:
    """The most positions that a model has; learnt tables with a padding row (RoBERTa's) have fewer than they say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return None
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    padded = any(isinstance(table, nn.Embedding) and table.padding_idx is not None for table in tables)
    padding = next((t.padding_idx for t in tables if isinstance(t, nn.Embedding) and t.padding_idx is not None), 0)
    return int(limit) - (padding + 1 if padded else 0)

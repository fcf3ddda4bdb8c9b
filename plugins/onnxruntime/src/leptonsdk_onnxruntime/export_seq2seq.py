"""An encoder-decoder as two graphs: one that is run once per answer, one that is run for every token.

The encoder's graph also computes the keys and values that the decoder's attention to it reads, since they are the same for every
token; the decoder's graph takes them, and its own cache, as inputs. Names are those of the Hub's ONNX folders:
``present.0.encoder.key``, ``past_key_values.0.decoder.value``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leptonsdk_onnxruntime.export_torch import Traced, axes_of, export_graph, name_axes
from leptonsdk_onnxruntime.graph import NAMESPACE, rename

PAST, PRESENT = "past_key_values", "present"
_KINDS = ("key", "value")
_SOURCE = "source"  # what the parts call the model; not a part of its modules' names


class _Encoder(nn.Module):
    """The encoder, with the keys and values that the decoder will attend to."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.source, self.config = model, model.config

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from transformers import DynamicCache, EncoderDecoderCache

        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        states = self.source.get_encoder()(**inputs, **masked).last_hidden_state
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        token = torch.zeros(states.shape[0], 1, dtype=torch.long)  # any: reading one fills the cache
        read = {} if attention_mask is None else {"encoder_attention_mask": attention_mask}
        self.source.get_decoder()(
            input_ids=token, encoder_hidden_states=states, past_key_values=cache, use_cache=True, **read
        )
        return states, *_tensors(cache.cross_attention_cache)


class _Decoder(nn.Module):
    """Logits and cache after some more tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.source, self.config = model, model.config

    def forward(
        self,
        input_ids: torch.Tensor,
        own: list[torch.Tensor],
        encoder: list[torch.Tensor],
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        from transformers import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        cache = EncoderDecoderCache(_cache(own), _cache(encoder))
        cache.is_updated = dict.fromkeys(range(len(own) // 2), True)
        first = encoder[0]
        # Only its shape is read, since the keys and values that would be made of it are there.
        states = first.new_zeros(first.shape[0], first.shape[2], self.config.hidden_size)
        masked = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
        found = self.source(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
            **masked,
        )
        return found.logits, *_tensors(cache.self_attention_cache)


def trace_encoder_decoder(model: Any, inputs: Mapping[str, torch.Tensor], opset: int) -> tuple[Traced, Traced]:
    """Encoder and decoder.

    Args:
        model: Whisper, T5 and the like.
        inputs: Of the encoder; two rows at least, with padding in the mask.
        opset: ONNX opset.
    """
    given = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    encoder_part, decoder_part = _Encoder(model), _Decoder(model)
    with torch.no_grad():
        _, *cross = encoder_part(**given)
    layers = len(cross) // 2
    encoder = export_graph(encoder_part, given, {name: _dynamic(axes_of(name, v)) for name, v in given.items()}, opset)
    names = ["last_hidden_state", *(f"{PRESENT}.{i}.encoder.{kind}" for i in range(layers) for kind in _KINDS)]
    dims: dict[str, str] = {}
    _rename_outputs(encoder.program.graph, names)
    for value in encoder.program.graph.inputs:
        name_axes(value, axes_of(value.name, given[value.name]), dims)

    start = torch.full((2, 2), int(model.config.decoder_start_token_id))
    with torch.no_grad():
        # Three tokens that were there: any number that is neither that of the new ones nor 1.
        _, *own = decoder_part(start[:, :1].repeat(1, 3), _empty(cross), cross, given.get("attention_mask"))
    sample: dict[str, Any] = {"input_ids": start, "own": own, "encoder": cross}
    axes: dict[str, Any] = {"input_ids": _dynamic((0, 1))}
    axes.update(own=[_dynamic((0, 2))] * len(own), encoder=[_dynamic((0, 2))] * len(cross))
    if "attention_mask" in given:
        sample["encoder_attention_mask"] = given["attention_mask"]
        axes["encoder_attention_mask"] = _dynamic((0, 1))
    decoder = export_graph(decoder_part, sample, axes, opset)
    graph = decoder.program.graph
    for value in list(graph.inputs):
        part, _, position = str(value.name).rpartition(".")
        if part in ("own", "encoder"):
            kind, whose = _KINDS[int(position) % 2], "decoder" if part == "own" else "encoder"
            rename(graph, value, f"{PAST}.{int(position) // 2}.{whose}.{kind}")
    _rename_outputs(graph, ["logits", *(f"{PRESENT}.{i}.decoder.{kind}" for i in range(layers) for kind in _KINDS)])
    past: dict[str, str] = {}
    for value in graph.inputs:
        whose = str(value.name).split(".")[-2] if str(value.name).startswith(PAST) else ""
        length = {"decoder": "past_sequence_length", "encoder": "encoder_sequence_length"}.get(whose)
        if length is not None:
            name_axes(value, {0: "batch_size", 2: length}, past)
        else:
            mask = value.name == "encoder_attention_mask"
            name_axes(value, {0: "batch_size", 1: "encoder_sequence_length" if mask else "sequence_length"}, past)
    for traced in (encoder, decoder):
        _forget_parts(traced.program.graph)
    return Traced(encoder.program, dims, None), Traced(decoder.program, past, None)


def _dynamic(axes: Any) -> dict[int, Any]:
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


def _tensors(cache: Any) -> list[torch.Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _cache(tensors: list[torch.Tensor]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache


def _empty(like: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor[:, :, :0] for tensor in like]


def _rename_outputs(graph: Any, names: list[str]) -> None:
    for value, name in zip(graph.outputs, names, strict=True):
        rename(graph, value, name)


def _forget_parts(graph: Any) -> None:
    """Modules and weights are called as in the model itself."""
    for name, value in list(graph.initializers.items()):
        if name.startswith(f"{_SOURCE}."):
            rename(graph, value, name.removeprefix(f"{_SOURCE}."))
    for node in graph:
        if (names := node.metadata_props.get(NAMESPACE)) is not None:
            node.metadata_props[NAMESPACE] = "/".join(part.removeprefix(f"{_SOURCE}.") for part in names.split("/"))

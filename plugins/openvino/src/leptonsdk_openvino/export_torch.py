"""The one place that knows `transformers.exporters`, which calls itself experimental."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino as ov
import torch

from leptonsdk.errors import ExportError
from leptonsdk_openvino.graph import drop_output, keep_in_state, name_weights, rename_ports
from leptonsdk_openvino.silence import converting

# Axes that vary, by input; other inputs vary along the batch, and text-like ones (two-dimensional integers) along both.
_AXES: Mapping[str, tuple[int, ...]] = {
    "pixel_values": (0,),
    "input_features": (0,),
    "input_values": (0, 1),
    "inputs_embeds": (0, 1),
}
_ENCODED = "encoder_outputs.last_hidden_state"
_DECODER_NAMES = {
    "decoder_input_ids": "input_ids",
    "attention_mask": "encoder_attention_mask",
    _ENCODED: "encoder_hidden_states",
}
_PROMPT = 3  # tokens in the cache of a traced decoder; any number that is not the number of new ones, nor 1


def trace(model: Any, inputs: Mapping[str, torch.Tensor]) -> ov.Model:
    """Trace a model that is called once per answer (encoders, classifiers, vision models)."""
    return _export(model, dict(inputs), _axes(inputs))


def trace_decoder(model: Any, inputs: Mapping[str, torch.Tensor]) -> ov.Model:
    """Trace a causal language model as one graph with its key-value cache as state.

    It reads a prompt when its state has been reset, and goes on from it otherwise. Inputs are named as on the Hub:
    ``input_ids``, ``attention_mask`` (of all tokens so far), ``position_ids`` and ``beam_idx`` (which row of the state goes on
    in each row of the batch).
    """
    from transformers.exporters.utils import decompose_for_generation

    with converting():
        decoder, sample = decompose_for_generation(model, dict(inputs), multi_token_decode=True)["decode"]
    return _export(decoder, sample, _axes(sample))


def trace_encoder_decoder(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[ov.Model, ov.Model]:
    """Trace encoder and decoder of a model such as Whisper or T5.

    The decoder reads ``input_ids``, ``encoder_hidden_states``, for texts ``encoder_attention_mask``, and ``beam_idx``, and returns
    ``logits``. Keys and values of its self-attention and of the attention to the encoder are state; the latter are computed
    when the state is empty, that is once per answer.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    encoder = model.get_encoder()
    given = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    encoded = encoder(**given, return_dict=True)
    start = torch.full((2, _PROMPT + 2), int(model.config.decoder_start_token_id))
    past = {name: value for name, value in given.items() if name == "attention_mask"}
    prompt = model(
        **past, encoder_outputs=encoded, decoder_input_ids=start[:, :_PROMPT], use_cache=True, return_dict=True
    )
    cache = EncoderDecoderCache(prompt.cache.self_attention_cache, DynamicCache())
    sample = {**past, "encoder_outputs": encoded, "decoder_input_ids": start[:, _PROMPT:], "cache": cache}
    layers = len(prompt.cache.self_attention_cache.layers)
    axes = {**_axes(sample), "encoder_outputs": [_dims(0, 1)], "cache": _cache_dims(layers)}
    decoder = _export(model, {**sample, "use_cache": True}, axes)
    keep_in_state(decoder, "cross_attention_cache")
    drop_output(decoder, "encoder_last_hidden_state")
    rename_ports(decoder, _DECODER_NAMES)
    return _export(encoder, given, _axes(given), owner=model), decoder


def _export(module: Any, inputs: dict[str, Any], axes: Mapping[str, Any], owner: Any = None) -> ov.Model:
    from transformers.exporters import OpenVINOConfig, OpenVINOExporter

    with converting(), torch.no_grad():
        try:
            exported = OpenVINOExporter().export(
                module, inputs, OpenVINOConfig(dynamic=True, dynamic_shapes=dict(axes))
            )
        except Exception as error:
            raise ExportError(
                f"{type(module).__name__} cannot be traced to OpenVINO: {str(error).strip().splitlines()[0][:300]}",
                hint="the cause stands in the traceback; `transformers.exporters` may not support this model yet",
            ) from error
    graph: ov.Model = exported.components["model"].program
    name_weights(graph, owner or module)
    return graph


def _axes(inputs: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            both = value.dim() == 2 and not value.is_floating_point()
            found[name] = _dims(*_AXES.get(name, (0, 1) if both else (0,)))
        elif hasattr(value, "layers"):
            found[name] = _cache_dims(len(value.layers))
    return found


def _cache_dims(layers: int) -> list[Any]:
    """A cache flattens to keys and values of each layer, [batch, heads, length, head size]."""
    return [_dims(0, 2) for _ in range(2 * layers)]


def _dims(*axes: int) -> dict[int, Any]:
    return dict.fromkeys(axes, torch.export.Dim.AUTO)

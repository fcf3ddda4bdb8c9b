"""Running an encoder-decoder: the encoder's graph once, the decoder's for every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from leptonsdk.exporting import Outputs, Seq2SeqSettings, generate_seq2seq
from leptonsdk_onnxruntime.export_seq2seq import PAST, PRESENT
from leptonsdk_onnxruntime.runner import OnnxRunner

_OWN = ".decoder."


class Seq2SeqRunner:
    """Runs both graphs.

    Args:
        encoder: The encoder's graph.
        decoder: The decoder's.
        settings: How the model generates.
    """

    def __init__(self, encoder: OnnxRunner, decoder: OnnxRunner, settings: Mapping[str, Any]) -> None:
        self.encoder, self.decoder, self.settings = encoder, decoder, Seq2SeqSettings(**settings)
        self.runtime = encoder.runtime
        self.input_names = encoder.input_names | {"decoder_input_ids"}
        shapes = {value.name: value.shape for value in decoder.session.get_inputs()}
        self._own = {name: shape for name, shape in shapes.items() if name.startswith(PAST) and _OWN in name}
        self._present = [name.replace(PAST, PRESENT, 1) for name in self._own]

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Logits [batch, length, vocabulary] of all ``decoder_input_ids``."""
        if (ids := inputs.get("decoder_input_ids")) is None:
            raise TypeError("the model needs the input 'decoder_input_ids'")
        encoded = self._encode(inputs)
        logits, _ = self._decode(ids, self._empty(ids.shape[0]), encoded)
        return Outputs(logits=torch.from_numpy(logits.numpy()))

    def generate(self, *, max_new_tokens: int | None = None, **options: Any) -> torch.Tensor:
        """The ids that transformers' ``generate`` returns: `leptonsdk.exporting.generate_seq2seq`, whose options these are.

        Args:
            max_new_tokens: At most; default: the model's own length.
            options: The encoder's inputs, and options.
        """
        inputs = {name: options.pop(name) for name in list(options) if isinstance(options[name], torch.Tensor)}
        encoded = self._encode(inputs)
        rows = next(iter(inputs.values())).shape[0]

        def step(tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> Any:
            logits, cache = self._decode(tokens, self._empty(rows) if cache is None else cache, encoded)
            return torch.from_numpy(logits.numpy()[:, -1]), cache

        return generate_seq2seq(step, rows, self.settings, max_new_tokens=max_new_tokens, **options)

    def _encode(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, ort.OrtValue]:
        """What the decoder reads of the encoder; it stays where ONNX Runtime made it."""
        full = self.encoder.full_feed({name: v for name, v in inputs.items() if name in self.encoder.input_names})
        feed = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in full.items()}
        names = [name for name in self.encoder.output_names if name.startswith(PRESENT)]
        found = self.encoder.session.run_with_ort_values(names, feed)
        encoded = {name.replace(PRESENT, PAST, 1): value for name, value in zip(names, found, strict=True)}
        if "encoder_attention_mask" in self.decoder.input_names:
            encoded["encoder_attention_mask"] = feed["attention_mask"]
        return encoded

    def _decode(
        self, tokens: torch.Tensor, cache: Mapping[str, ort.OrtValue], encoded: Mapping[str, ort.OrtValue]
    ) -> tuple[ort.OrtValue, dict[str, ort.OrtValue]]:
        ids = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tokens.cpu().numpy().astype(np.int64)))
        feed = {"input_ids": ids, **cache, **encoded}
        known = {name: value for name, value in feed.items() if name in self.decoder.input_names}
        logits, *present = self.decoder.session.run_with_ort_values(["logits", *self._present], known)
        return logits, dict(zip(self._own, present, strict=True))

    def _empty(self, rows: int) -> dict[str, ort.OrtValue]:
        """Keys and values of length 0, [batch, heads, 0, head size]."""
        return {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros((rows, shape[1], 0, shape[3]), np.float32))
            for name, shape in self._own.items()
        }

"""Running language models with their key-value cache as OpenVINO's state, and generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino as ov
import torch

from leptonsdk.exporting import Generating, Outputs, complete_inputs, generate_seq2seq
from leptonsdk_openvino.runner import OpenVINORunner


class DecoderRunner(Generating, OpenVINORunner):
    """Runs a causal language model: it reads a prompt when its state has been reset, and goes on from it otherwise."""

    def __init__(self, compiled: ov.CompiledModel, precision: str, pad_token_id: int | None = None) -> None:
        super().__init__(compiled, precision)
        self.pad_token_id = pad_token_id

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Logits [batch, length, vocabulary] of a prompt, read with an empty cache."""
        self.request.reset_state()
        return super().__call__(**inputs)

    def step(
        self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: bool | None
    ) -> tuple[torch.Tensor, bool]:
        if cache is None:
            self.request.reset_state()
        given = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        return self.infer(given).logits[:, -1], True


class Seq2SeqRunner(OpenVINORunner):
    """Runs an encoder, and a decoder whose state holds its own keys and values and those of the encoder's output."""

    def __init__(
        self, encoder: ov.CompiledModel, decoder: ov.CompiledModel, precision: str, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(encoder, precision)
        self.decoder = OpenVINORunner(decoder, precision)
        self.settings = settings
        self.encoder_names = self.input_names
        self.input_names = self.encoder_names | {"decoder_input_ids"}

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """``logits`` [batch, length, vocabulary] of ``decoder_input_ids``, read with an empty cache, and what the encoder made."""
        if inputs.get("decoder_input_ids") is None:
            raise TypeError("the model needs the input 'decoder_input_ids'; generate() needs none")
        encoded = self._encode(inputs)
        self.decoder.request.reset_state()
        outputs = self.decoder.infer({**encoded, "input_ids": inputs["decoder_input_ids"]})
        return Outputs(**outputs, encoder_last_hidden_state=encoded["encoder_hidden_states"])

    def generate(
        self,
        *,
        max_new_tokens: int | None = None,
        language: str | None = None,
        task: str | None = None,
        do_sample: bool = False,
        seed: int | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """The ids that transformers' ``generate`` returns: `leptonsdk.exporting.generate_seq2seq`, which takes its arguments.

        Tensors among ``inputs`` go to the encoder, the rest is for `logits_processors`.
        """
        given = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        encoded = self._encode(given)

        def step(tokens: torch.Tensor, mask: Any, positions: Any, cache: bool | None) -> tuple[torch.Tensor, bool]:
            if cache is None:
                self.decoder.request.reset_state()
            return self.decoder.infer({**encoded, "input_ids": tokens}).logits[:, -1], True

        return generate_seq2seq(
            step,
            encoded["encoder_hidden_states"].shape[0],
            self.settings,
            max_new_tokens=max_new_tokens,
            language=language,
            task=task,
            do_sample=do_sample,
            seed=seed,
            **{name: value for name, value in inputs.items() if name not in given},
        )

    def _encode(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        given = complete_inputs(inputs, self.encoder_names)
        encoded = {"encoder_hidden_states": self.infer(given).last_hidden_state}
        if "attention_mask" in given:
            encoded["encoder_attention_mask"] = given["attention_mask"]
        return encoded

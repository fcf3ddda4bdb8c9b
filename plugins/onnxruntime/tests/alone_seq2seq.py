"""Greedy generation by the two graphs of an encoder-decoder, with NumPy and ONNX Runtime alone."""

import json
from pathlib import Path

import numpy as np
import onnxruntime


def run(entry, inputs):
    """Of the encoder's inputs and ``new_tokens``: ``ids`` [rows, new] after the start, padding from a row's end token on."""
    first, new = Path(entry), int(inputs.pop("new_tokens"))
    rules = json.loads((first.parent.parent / "generation_config.json").read_text())
    paths = [first, first.with_name(first.name.replace("encoder", "decoder"))]
    encoder, decoder = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths)

    def call(session, feed):
        names = [value.name for value in session.get_outputs()]
        known = {value.name: feed[value.name] for value in session.get_inputs()}
        found = dict(zip(names, session.run(names, known), strict=True))
        return {name.replace("present", "past_key_values"): value for name, value in found.items()}

    rows = len(next(iter(inputs.values())))
    state = {
        value.name: np.zeros((rows, value.shape[1], 0, value.shape[3]), np.float32)
        for value in decoder.get_inputs()
        if ".decoder." in value.name
    }
    state |= call(encoder, inputs)
    state |= {f"encoder_{name}": value for name, value in inputs.items()}  # its mask
    tokens = np.full((rows, 1), rules["decoder_start_token_id"])
    running, ids = np.ones((rows, 1), bool), []
    for _ in range(new):
        state |= call(decoder, {**state, "input_ids": tokens})
        tokens = state["logits"][:, -1:].argmax(-1)
        running &= tokens != rules["eos_token_id"]
        tokens = np.where(running, tokens, rules["pad_token_id"])
        ids.append(tokens)
    return {"ids": np.concatenate(ids, axis=1)}

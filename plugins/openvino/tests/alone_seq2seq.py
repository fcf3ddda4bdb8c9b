"""Greedy generation by a saved encoder-decoder, with NumPy and OpenVINO alone: the decoder's keys and values are its state."""

import json
from pathlib import Path

import numpy as np
import openvino as ov


def run(entry, inputs):
    """Of the encoder's inputs and ``new_tokens``: ``ids`` [rows, new] after the start, padding from a row's end token on."""
    folder = Path(entry).parent
    rules = json.loads((folder.parent / "generation_config.json").read_text())
    paths = [folder / f"openvino_{part}_model.xml" for part in ("encoder", "decoder")]
    models = [ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for path in paths]
    encoder, decoder = (model.create_infer_request() for model in models)
    new = int(inputs.pop("new_tokens"))
    feed = {"encoder_hidden_states": encoder.infer(inputs)["last_hidden_state"]}
    if "attention_mask" in inputs:
        feed["encoder_attention_mask"] = inputs["attention_mask"]
    rows = len(feed["encoder_hidden_states"])
    feed["beam_idx"] = np.arange(rows, dtype=np.int32)
    start = [rules["decoder_start_token_id"], rules.get("no_timestamps_token_id")]
    tokens = np.array([[token for token in start if token is not None]] * rows)
    running, ids = np.ones((rows, 1), bool), []
    for step in range(new):
        logits = decoder.infer({**feed, "input_ids": tokens})["logits"][:, -1]
        logits[
            :, (rules.get("suppress_tokens") or []) + (step == 0) * (rules.get("begin_suppress_tokens") or [])
        ] = -np.inf
        tokens = logits.argmax(-1)[:, None]
        running &= tokens != rules["eos_token_id"]
        tokens = np.where(running, tokens, rules["pad_token_id"])
        ids.append(tokens)
    return {"ids": np.concatenate(ids, axis=1)}

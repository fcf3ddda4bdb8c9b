"""Greedy generation by a saved decoder, with NumPy and ONNX Runtime alone: its cache goes in and comes out."""

import numpy as np
import onnxruntime


def run(entry, inputs):
    """Of ``input_ids``, ``attention_mask`` and ``new_tokens``: ``ids`` [rows, new] and the first step's ``logits``."""
    session = onnxruntime.InferenceSession(entry, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clip(min=0)
    cache = {
        value.name: np.zeros((len(mask), value.shape[1], 0, value.shape[3]), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    steps, ids = [], []
    for _ in range(int(inputs["new_tokens"])):
        feed = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, **cache}
        found = dict(zip(names, session.run(names, feed), strict=True))
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
        steps.append(found["logits"])
        tokens = steps[-1][:, -1:].argmax(-1)
        ids.append(tokens)
        mask, positions = np.concatenate([mask, np.ones_like(tokens)], axis=1), positions[:, -1:] + 1
    return {"ids": np.concatenate(ids, axis=1), "logits": steps[0]}

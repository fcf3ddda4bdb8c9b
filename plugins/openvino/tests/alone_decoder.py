"""Greedy generation by a saved decoder, with NumPy and OpenVINO alone: its cache is state inside of it."""

import numpy as np
import openvino as ov


def run(entry, inputs):
    """Of ``input_ids``, ``attention_mask`` and ``new_tokens``: ``ids`` [rows, new] and the first step's ``logits``."""
    model = ov.Core().compile_model(entry, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # From the notes in the file.
    assert model.get_property("KV_CACHE_PRECISION").to_string() == "f32"
    assert model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    request = model.create_infer_request()
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clip(min=0)
    steps, ids = [], []
    for _ in range(int(inputs["new_tokens"])):
        feed = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        feed["beam_idx"] = np.arange(len(mask), dtype=np.int32)
        steps.append(request.infer(feed)["logits"].copy())
        tokens = steps[-1][:, -1:].argmax(-1)
        ids.append(tokens)
        mask, positions = np.concatenate([mask, np.ones_like(tokens)], axis=1), positions[:, -1:] + 1
    return {"ids": np.concatenate(ids, axis=1), "logits": steps[0]}

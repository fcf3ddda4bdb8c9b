"""llm-compressor's GPTQ, run by its own environment's python: a job as JSON in, its figures as JSON out. No leptonsdk here."""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokens = torch.cat(
        [value for name, value in sorted(load_file(job["calibration"]).items()) if name.endswith("input_ids")]
    )
    rows = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})
    weights = {
        "num_bits": job["config"]["bit_width"],
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": job["config"]["group_size"],
    }
    recipe = GPTQModifier(
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
        ignore=["lm_head"],
        actorder="static",
    )
    start = time.perf_counter()
    oneshot(model=model, dataset=rows, recipe=recipe, num_calibration_samples=len(rows), max_seq_length=tokens.shape[1])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model.save_pretrained(job["out"], save_compressed=True)
    AutoTokenizer.from_pretrained(job["model"]).save_pretrained(job["out"])
    print(json.dumps({"seconds": seconds, "peak": peak}))


if __name__ == "__main__":
    main()

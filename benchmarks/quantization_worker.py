"""One quantization in a process of its own, so that its peak memory is its own: a job as JSON in, its figures as JSON out."""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from safetensors.torch import load_file

import leptonsdk as lepton


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    model = lepton.load_model(job["model"], dtype=getattr(torch, job["dtype"]))
    calibration = None
    if job["calibration"]:
        batches: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in sorted(load_file(job["calibration"]).items()):
            batch, _, key = name.partition(".")
            batches.setdefault(batch, {})[key] = tensor
        calibration = list(batches.values())
    start = time.perf_counter()
    if job["method"] is not None:
        model = lepton.quantize_model(model, calibration=calibration, method=job["method"], **job["config"])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lepton.save_model(model, job["out"])
    print(json.dumps({"seconds": seconds, "peak": peak}))


if __name__ == "__main__":
    main()

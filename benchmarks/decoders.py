"""A language model with its cache in ONNX Runtime and OpenVINO: fp32, int8, and a 4-bit GPTQ checkpoint's own integers.

Reads MODELS_DIR/smollm2 and DATA_DIR/wikitext2/wiki.valid.tokens. Greedy text is compared with torch's, that of packed artifacts with
their checkpoint's; integers are read back out of the saved graphs. Tokens per second come from one child process per variant, by
turns.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, markdown, write_results

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.gating import ratio_of_medians
from leptonsdk.pipeline.fingerprints import available_threads

PROMPTS = ("The capital of France is", "Once upon a time, in a village by the sea,", "def fibonacci(n):")
NEW_TOKENS = 64
TORCH, PACKED = "torch fp32", "gptq 4 bits"
# By name: backend, whether the quantized checkpoint goes in, config.
VARIANTS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "ONNX Runtime fp32": ("onnxruntime", False, {"precision": "fp32"}),
    "ONNX Runtime int8-dynamic": ("onnxruntime", False, {"precision": "int8-dynamic"}),
    f"ONNX Runtime {PACKED}": ("onnxruntime", True, {"precision": "packed"}),
    "OpenVINO fp32": ("openvino", False, {"precision": "fp32"}),
    "OpenVINO int8-weights": ("openvino", False, {"precision": "int8-weights"}),
    f"OpenVINO {PACKED}": ("openvino", True, {"precision": "packed"}),
}


def same_integers(artifact: lepton.Artifact, quantized: Any) -> bool:
    """Whether the saved graph's integers and scales are the checkpoint's, bit for bit."""
    found = installed_plugins().get("backend", artifact.backend).integers(artifact)
    return found.keys() == quantized.keys() and all(
        np.array_equal(found[name].integers, tensor.integers.numpy())
        and np.array_equal(found[name].scale, tensor.scale.float().numpy())
        for name, tensor in quantized.items()
    )


def generator(subject: Any, threads: int) -> Any:
    """``generate`` of a model or an artifact, never ending before its time."""
    if isinstance(subject, lepton.Artifact):
        runner = open_subject(subject, installed_plugins(), threads=threads).runner
        return lambda **inputs: runner.generate(**inputs, max_new_tokens=NEW_TOKENS, eos_token_id=None)
    torch.set_num_threads(threads)
    subject.model.generation_config.eos_token_id = None
    return lambda **inputs: subject.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)


def serve(folder: str, threads: int) -> None:
    """The child process: for every line it reads, continues all prompts, and answers tokens and seconds."""
    subject = lepton.Artifact.open(folder) if (Path(folder) / "leptonsdk.json").exists() else lepton.load_model(folder)
    processor = lepton.load_model(folder).processor if not isinstance(subject, lepton.Artifact) else None
    if processor is None:
        from transformers import AutoTokenizer

        processor = AutoTokenizer.from_pretrained(folder)
    generate = generator(subject, threads)
    for _ in sys.stdin:
        tokens, start = [], time.perf_counter()
        for prompt in PROMPTS:
            inputs = processor(prompt, return_tensors="pt")
            tokens.append(generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist())
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - start}), flush=True)


def by_turns(folders: dict[str, Path], threads: int, turns: int) -> dict[str, tuple[Any, list[float]]]:
    """Tokens, and seconds of each turn, of every variant; the first round warms up."""
    children = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, folder in folders.items()
    }
    found: dict[str, tuple[Any, list[float]]] = {name: (None, []) for name in folders}
    for turn in range(turns + 1):
        for name, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline())
            found[name] = (answer["tokens"], found[name][1] + ([answer["seconds"]] if turn else []))
        print(f"turn {turn} of {turns}", flush=True)
    for child in children.values():
        child.communicate()
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--windows", type=int, default=4, help="Windows of 1,024 tokens for perplexity, about.")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    work: Path = options.work_dir / "decoders"
    shutil.rmtree(work, ignore_errors=True)
    threads = available_threads()
    model = lepton.load_model(options.models_dir / "smollm2", dtype=torch.float32)
    text = (options.data_dir / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    held_out = [text[len(text) // 2 :][: options.windows * 5000]]
    calibration = [text[start : start + 2000] for start in range(0, 64_000, 2000)]
    print("quantizing", flush=True)
    smaller = lepton.quantize_model(model, 4, group_size=64, calibration=calibration)
    folders = {TORCH: options.models_dir / "smollm2", f"torch {PACKED}": work / "gptq"}
    lepton.save_model(smaller, folders[f"torch {PACKED}"])
    artifacts: dict[str, lepton.Artifact] = {}
    for name, (backend, packed, config) in VARIANTS.items():
        print(f"exporting {name}", flush=True)
        folders[name] = work / name.replace(" ", "-")
        artifacts[name] = lepton.export(
            smaller if packed else model, backend, folders[name], samples=calibration[:4], **config
        )
    timed = by_turns(folders, threads, options.turns)
    fp16 = 2 * sum(p.numel() for p in model.model.parameters())
    embeddings = model.model.get_input_embeddings().weight.numel()
    rows = []
    for name in folders:
        tokens, seconds = timed[name]
        expected = timed[f"torch {PACKED}" if PACKED in name else TORCH][0]
        same = sum(
            a == b for ours, theirs in zip(tokens, expected, strict=True) for a, b in zip(ours, theirs, strict=True)
        )
        artifact = artifacts.get(name)
        subject = artifact or (model if name == TORCH else smaller)
        perplexity = lepton.evaluate(subject, held_out, batch_size=1).value("perplexity")
        ratio = ratio_of_medians(np.array(timed[TORCH][1]), np.array(seconds), 0.95, seed=0)
        count = len(PROMPTS) * NEW_TOKENS
        rows.append(
            {
                "variant": name,
                "MB": f"{artifact.bytes_on_disk / 1e6:.1f}" if artifact else "",
                "integers": ("equal" if same_integers(artifact, smaller.quantized) else "DIFFERENT")
                if artifact and PACKED in name
                else "",
                f"same greedy tokens of {count}": same,
                "perplexity": f"{perplexity:.3f}",
                "tokens/s": f"{count / np.median(seconds):.1f}",
                "over torch fp32": f"{np.median(timed[TORCH][1]) / np.median(seconds):.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]",
            }
        )
        print(rows[-1], flush=True)
    layers = fp16 - 2 * embeddings
    parts = [
        markdown(rows),
        f"{threads} threads; greedy continuations of {len(PROMPTS)} prompts by {NEW_TOKENS} tokens, one at a time, "
        f"{options.turns} turns; tokens per second (median) include the prompts; ratios with 95 % intervals. *Same greedy tokens*: as "
        f"torch has them in fp32, of {PACKED} as torch has them of the same checkpoint. Perplexity on {options.windows} windows of "
        "1,024 tokens of WikiText-2 validation text (second half); calibration from its beginning.",
        f"In fp16 the model has {fp16 / 1e6:.0f} MB: {layers / 1e6:.0f} of layers and {2 * embeddings / 1e6:.0f} of embeddings, "
        f"which are tied to the output layer and stay in fp32 ({4 * embeddings / 1e6:.0f} MB) in the packed artifacts.",
        *(
            f"{name}: without the embeddings {(a.bytes_on_disk - 4 * embeddings) / layers:.2f} of the layers' fp16 size."
            for name, a in artifacts.items()
            if PACKED in name
        ),
    ]
    command = "python benchmarks/decoders.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    packages = ["onnx", "onnxruntime", "openvino", "nncf"]
    write_results("decoders", "SmolLM2-135M in ONNX Runtime and OpenVINO", parts, packages, command)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()

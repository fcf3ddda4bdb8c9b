"""SST-2 with a fine-tuned MiniLM in every runtime and precision, beside what peers' default routes make of it.

Reads MODELS_DIR/minilm-sst2 and DATA_DIR/sst2/{train,dev}.tsv. Accuracy on all of dev and on its first 2,000 rows; latency at
sequence 32, batch 1 and 32, every variant in a child process, timed by turns. Core ML cannot be timed here: `coreml.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import backends_peers as peers
from common import accuracy_drop, arguments, inputs_of_shapes, markdown, milliseconds, speedup, write_results

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.data import DataSpec
from leptonsdk.data.loading import load_data
from leptonsdk.evaluation.harness import input_batches
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.timing import Target, measure
from leptonsdk.hooks import EvaluationSettings
from leptonsdk.pipeline.fingerprints import available_threads

LENGTH, BATCHES = 32, (1, 32)
STATIC = [{"batch_size": batch, "sequence_length": LENGTH} for batch in BATCHES]
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "ONNX Runtime, fp32": ("onnxruntime", {"precision": "fp32"}),
    "ONNX Runtime, int8-dynamic": ("onnxruntime", {"precision": "int8-dynamic"}),
    "ONNX Runtime, int8-static": ("onnxruntime", {"precision": "int8-static"}),
    "OpenVINO, fp32": ("openvino", {"precision": "fp32"}),
    "OpenVINO, fp32 in bf16": ("openvino", {"precision": "fp32", "inference_precision": "bf16"}),
    "OpenVINO, int8": ("openvino", {"precision": "int8"}),
    "OpenVINO, int8, static shapes": ("openvino", {"precision": "int8", "static_shapes": STATIC}),
    "OpenVINO, int8, the rest in bf16": ("openvino", {"precision": "int8", "inference_precision": "bf16"}),
    "OpenVINO, int8, the rest in bf16, static shapes": (
        "openvino",
        {"precision": "int8", "inference_precision": "bf16", "static_shapes": STATIC},
    ),
    "OpenVINO, int8-weights": ("openvino", {"precision": "int8-weights"}),
}
PEERS = {
    "onnxruntime": ("peer: quantize_dynamic per tensor", "peer: quantize_dynamic per channel", "peer: quantize_static"),
    "openvino": ("peer: transformers' exporter, defaults", "peer: NNCF, defaults"),
}
# Our int8 against the best peer of its runtime: the one that loses least.
INT8 = {"onnxruntime": "ONNX Runtime, int8-static", "openvino": "OpenVINO, int8, static shapes"}
FIRST, CALIBRATION, TORCH = 2000, 300, "torch fp32"


def made_by_peers(model: Any, train: Any, plugins: Any, samples: Any, work: Path) -> dict[str, lepton.Artifact]:
    """The peers' artifacts. ONNX Runtime's quantizers write invalid nodes for opset 23's `Attention`: they get opset 20."""
    subject = open_subject(model, plugins)
    batches = [dict(b) for b in input_batches(subject, train, plugins, settings=EvaluationSettings(batch_size=1))]
    batch = dict(next(input_batches(subject, train, plugins, settings=EvaluationSettings(batch_size=4))))
    plain = lepton.export(model, "onnxruntime", work / "opset20", precision="fp32", opset=20, samples=samples)
    tensor, channel, static = PEERS["onnxruntime"]
    default, quantized = PEERS["openvino"]
    return {
        tensor: peers.onnxruntime_dynamic(plain, work / "dynamic-tensor", per_channel=False),
        channel: peers.onnxruntime_dynamic(plain, work / "dynamic-channel", per_channel=True),
        static: peers.onnxruntime_static(plain, work / "static", batches),
        default: peers.openvino_plain(model, work / "plain", batch),
        quantized: peers.openvino_nncf(model, work / "nncf", batch, batches),
    }


def against_peers(scores: dict[str, Any], artifacts: dict[str, lepton.Artifact], timed: Any) -> list[dict[str, object]]:
    """Our int8 beside the most accurate quantized peer of its runtime."""
    rows = []
    for runtime, ours in INT8.items():
        quantized = [name for name in PEERS[runtime] if not name.endswith("exporter, defaults")]
        peer = max(quantized, key=lambda name: scores[name].columns["correct"].mean())
        row: dict[str, object] = {"ours": ours, "best peer": peer.removeprefix("peer: ")}
        right, base = (scores[name].columns["correct"] for name in (ours, peer))
        row["accuracy lost over the peer, 95 % interval"] = accuracy_drop(right, base)
        row["bytes, ours / peer's"] = f"{artifacts[ours].bytes_on_disk:,} / {artifacts[peer].bytes_on_disk:,}"
        for old, new in zip(timed[peer].latencies, timed[ours].latencies, strict=True):
            row[f"b{new.batch_size}, times as fast"] = speedup(old, new)
        rows.append(row)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    work: Path = options.work_dir / "backends"
    shutil.rmtree(work, ignore_errors=True)
    plugins, threads = installed_plugins(), available_threads()
    model = lepton.load_model(options.models_dir / "minilm-sst2")
    evaluator = plugins.get("evaluator", model.task)
    dev = load_data(DataSpec(path=str(options.data_dir / "sst2" / "dev.tsv")), evaluator, plugins)
    calibration = DataSpec(path=str(options.data_dir / "sst2" / "train.tsv"), limit=CALIBRATION)
    train = load_data(calibration, evaluator, plugins)

    artifacts = {}
    for number, (variant, (backend, config)) in enumerate(OURS.items()):
        print(f"exporting {variant}", flush=True)
        artifacts[variant] = lepton.export(
            model, backend, work / str(number), calibration=calibration, samples=dev, **config
        )
    artifacts |= made_by_peers(model, train, plugins, dev, work)
    subjects: dict[str, Any] = {TORCH: model, **artifacts}
    scores = {}
    for name, subject in subjects.items():
        print(f"scoring {name}", flush=True)
        scores[name] = lepton.evaluate(subject, dev)
    inputs = inputs_of_shapes(model, dev, plugins, BATCHES, LENGTH)
    targets = [Target(TORCH, "checkpoint", str(options.models_dir / "minilm-sst2"), model.task)]
    targets += [Target(name, "artifact", str(artifact.folder), model.task) for name, artifact in artifacts.items()]
    print("timing by turns", flush=True)
    timed = measure(targets, inputs, threads=threads, turns=options.turns)

    fp32_bytes = 4 * sum(p.numel() for p in model.model.parameters())
    baseline = scores[TORCH].columns["correct"]
    rows = []
    for name, scored in scores.items():
        correct = scored.columns["correct"]
        size = artifacts[name].bytes_on_disk if name in artifacts else fp32_bytes
        row: dict[str, object] = {
            "variant": name,
            "computes in": timed[name].runtime,
            "MB": f"{size / 1e6:.2f}",
            f"dev {FIRST}": f"{correct[:FIRST].mean():.4f}",
            f"dev {len(correct)}": f"{correct.mean():.4f}",
            "drop, 95 % interval": accuracy_drop(correct, baseline),
        }
        for old, new in zip(timed[TORCH].latencies, timed[name].latencies, strict=True):
            row[f"b{new.batch_size} ms"] = milliseconds(new)
            row[f"b{new.batch_size} speedup"] = speedup(old, new)
        rows.append(row)
    parts = [
        markdown(rows),
        f"{threads} threads, {options.turns} turns; milliseconds are medians of turns with quartiles, speedups are against "
        f"torch fp32 with 95 % intervals (bootstrap of turns). Static ranges, ours and the peers', come from {CALIBRATION} rows of "
        "train.",
        "## Our int8 beside the best int8 peer of its runtime\n\n" + markdown(against_peers(scores, artifacts, timed)),
        "The best peer is the one with the highest accuracy on dev; ratios are of medians, with 95 % intervals. *Static shapes*: the "
        "runner compiles one graph for each of the two timed shapes (`static_shapes`), another for all other inputs; the peers', and "
        "our other rows, have one graph for all.",
    ]
    command = "python benchmarks/backends.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    packages = ["onnx", "onnxruntime", "onnxscript", "openvino", "nncf"]
    write_results("backends", "MiniLM fine-tuned on SST-2 in every runtime", parts, packages, command)


if __name__ == "__main__":
    main()

"""SST-2 with a fine-tuned MiniLM in ONNX Runtime: our precisions beside ONNX Runtime's own dynamic quantizer.

Reads MODELS_DIR/minilm-sst2 and DATA_DIR/sst2/{train,dev}.tsv. Accuracy on all of dev and on its first 2,000 rows; latency
at sequence 32, batch 1 and 32, every variant in a child process, timed by turns.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
from common import accuracy_drop, arguments, inputs_of_shapes, markdown, milliseconds, speedup, write_results
from onnxruntime.quantization import QuantType, quantize_dynamic

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.data import DataSpec
from leptonsdk.data.loading import load_data
from leptonsdk.evaluation.timing import Target, measure
from leptonsdk.pipeline.fingerprints import available_threads

OURS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "int8-dynamic": {"precision": "int8-dynamic"},
    "int8-dynamic, scales by row": {"precision": "int8-dynamic", "activation_scales": "row"},
    "int8-dynamic, in blocks": {"precision": "int8-dynamic", "activation_scales": "block"},
    "int8-static": {"precision": "int8-static"},
}
FIRST = 2000


def peer(source: lepton.Artifact, folder: Path, per_channel: bool) -> lepton.Artifact:
    """ONNX Runtime's ``quantize_dynamic`` on an fp32 graph, as its documentation has it. (It writes invalid nodes for the
    `Attention` of opset 23.)
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.folder, folder)
    graph = folder / "onnx" / "model.onnx"
    model = onnx.load(str(graph))
    weights = {initializer.name for initializer in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]  # stale entries for weights make the quantizer's shape inference fail
    model.graph.value_info.extend(kept)
    onnx.save(model, str(graph))
    quantized = folder / "onnx" / "model_quantized.onnx"
    quantize_dynamic(str(graph), str(quantized), per_channel=per_channel, weight_type=QuantType.QInt8)
    graph.unlink()
    name = f"quantize_dynamic per {'channel' if per_channel else 'tensor'}"
    artifact = lepton.Artifact(
        folder,
        "onnxruntime",
        name,
        source.task,
        "onnx/model_quantized.onnx",
        ("onnx/model_quantized.onnx",),
        source.details,
    )
    artifact.write_manifest()
    return artifact


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    work: Path = options.work_dir / "onnxruntime_sst2"
    shutil.rmtree(work, ignore_errors=True)
    plugins, threads = installed_plugins(), available_threads()
    model = lepton.load_model(options.models_dir / "minilm-sst2")
    evaluator = plugins.get("evaluator", model.task)
    dev = load_data(DataSpec(path=str(options.data_dir / "sst2" / "dev.tsv")), evaluator, plugins)
    train = DataSpec(path=str(options.data_dir / "sst2" / "train.tsv"), limit=512)

    artifacts = {}
    for number, (variant, config) in enumerate(OURS.items()):
        print(f"exporting {variant}")
        artifacts[f"ours {variant}"] = lepton.export(
            model, "onnxruntime", work / str(number), calibration=train, samples=dev, **config
        )
    plain = lepton.export(model, "onnxruntime", work / "plain", precision="fp32", opset=20, samples=dev)
    for per_channel in (False, True):
        made = peer(plain, work / f"peer-{per_channel}", per_channel)
        artifacts[f"peer {made.precision}"] = made

    subjects: dict[str, Any] = {"torch fp32": model, **artifacts}
    scores = {}
    for name, subject in subjects.items():
        print(f"scoring {name}")
        scores[name] = lepton.evaluate(subject, dev)
    inputs = inputs_of_shapes(model, dev, plugins, (1, 32), 32)
    targets = [Target("torch fp32", "checkpoint", str(options.models_dir / "minilm-sst2"), model.task)]
    targets += [Target(name, "artifact", str(artifact.folder), model.task) for name, artifact in artifacts.items()]
    print("timing by turns")
    measured = measure(targets, inputs, threads=threads, turns=options.turns)

    fp32_bytes = 4 * sum(p.numel() for p in model.model.parameters())
    baseline = scores["torch fp32"].columns["correct"]
    rows = []
    for name, scored in scores.items():
        correct = scored.columns["correct"]
        size = artifacts[name].bytes_on_disk if name in artifacts else fp32_bytes
        row: dict[str, object] = {
            "variant": name,
            "MB": f"{size / 1e6:.1f}",
            "smaller": f"{fp32_bytes / size:.2f}x",
            f"dev {FIRST}": f"{correct[:FIRST].mean():.4f}",
            f"dev {len(correct)}": f"{correct.mean():.4f}",
            "drop, 95 % interval": accuracy_drop(correct, baseline),
        }
        for old, new in zip(measured["torch fp32"].latencies, measured[name].latencies, strict=True):
            row[f"b{new.batch_size} ms"] = milliseconds(new)
            row[f"b{new.batch_size} speedup"] = speedup(old, new)
        rows.append(row)
    parts = [
        markdown(rows),
        f"{threads} threads, {options.turns} turns; milliseconds are medians of turns with quartiles, speedups are against "
        "torch fp32 with 95 % intervals (bootstrap of turns). Static ranges come from 512 rows of train.",
    ]
    command = "python benchmarks/onnxruntime_sst2.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results(
        "onnxruntime_sst2",
        "MiniLM fine-tuned on SST-2 in ONNX Runtime",
        parts,
        ["onnx", "onnxruntime", "onnxscript"],
        command,
    )


if __name__ == "__main__":
    main()

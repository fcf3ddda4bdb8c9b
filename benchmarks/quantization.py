"""Low-bit weights: perplexity of SmolLM2 at 4 and 3 bits, accuracy of MiniLM on SST-2 at 8, 4 and 3, seconds and memory.

Reads MODELS_DIR/smollm2, MODELS_DIR/minilm-sst2, DATA_DIR/sst2/{train,dev}.tsv and DATA_DIR/wikitext2/wiki.valid.tokens: its
first 64 x 512 tokens calibrate; perplexity is taken on wiki.test.tokens if that is there, else on the end of the same file.
Every variant is made in a process of its own, saved, and measured as it stands on disk. A peer runs in its own environment:
`--peer llmcompressor=/path/to/python`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import arguments, markdown, write_results
from safetensors.torch import save_file

import leptonsdk as lepton
from leptonsdk.data import DataSpec
from leptonsdk.evaluation.weights import profile_safetensors
from leptonsdk.gating import paired_proportions
from leptonsdk.pipeline.fingerprints import available_threads

HERE = Path(__file__).parent
ROWS, LENGTH, BATCH = 64, 512, 4
WINDOWS = 32
GROUP = 64

Variant = tuple[str, str | None, dict[str, Any], bool]  # name, compressor, config, whether it reads calibration data


def variants(bits: tuple[int, ...]) -> list[Variant]:
    """What is measured at these bit widths."""
    found: list[Variant] = [("fp", None, {}, False)]
    for width in bits:
        scheme = {"bit_width": width, "group_size": GROUP}
        found.append((f"rtn min-max {width} bits", "rtn", {**scheme, "observer": "minmax"}, False))
        found.append((f"rtn {width} bits", "rtn", scheme, False))
        found += [
            (f"gptq {preset} {width} bits", "gptq", {**scheme, "preset": preset}, True)
            for preset in ("fast", "default", "best")
        ]
        found.append((f"awq {width} bits", "awq", scheme, True))
    found.append(("bitsandbytes nf4", "bitsandbytes", {"quant_type": "nf4"}, False))
    return found


def run(
    job: dict[str, Any], python: str = sys.executable, script: Path = HERE / "quantization_worker.py"
) -> dict[str, Any]:
    """One job in a child process; what it says last is its figures, which are kept beside what it made."""
    kept = Path(f"{job['out']}.json")
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    print(f"making {Path(job['out']).name}", flush=True)
    done = subprocess.run([python, str(script), json.dumps(job)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script.name} failed for {job['out']}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    kept.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def make(
    model: Path, work: Path, name: str, method: str | None, config: dict[str, Any], calibration: Path | None, dtype: str
) -> tuple[Path, dict[str, Any]]:
    out = work / name.replace(" ", "-")
    job = {
        "model": str(model),
        "out": str(out),
        "method": method,
        "config": config,
        "calibration": None if calibration is None else str(calibration),
        "threads": available_threads(),
        "dtype": dtype,
    }
    return out, run(job)


def language_model(options: Any, work: Path) -> list[dict[str, object]]:
    model = options.models_dir / "smollm2"
    tokenizer = lepton.load_model(model).processor
    text = (options.data_dir / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    tokens = tokenizer(text[: ROWS * LENGTH * 6], return_tensors="pt", verbose=False)["input_ids"][0]
    rows = tokens[: ROWS * LENGTH].reshape(-1, BATCH, LENGTH)
    calibration = work / "calibration.safetensors"
    save_file({f"{i:03d}.input_ids": batch.contiguous() for i, batch in enumerate(rows)}, calibration)
    test = options.data_dir / "wikitext2" / "wiki.test.tokens"
    held_out = test.read_text(encoding="utf-8")[:200_000] if test.is_file() else text[-150_000:]
    ids = tokenizer(held_out, verbose=False)["input_ids"][: WINDOWS * 1024]
    held_out = tokenizer.decode(ids)

    table: list[dict[str, object]] = []
    made: list[tuple[str, Path, dict[str, Any]]] = []
    for name, method, config, calibrated in variants((4, 3)):
        if options.only and not any(part in name for part in options.only):
            continue
        dtype = "bfloat16" if method == "gptq" else "float32"
        made.append((name, *make(model, work, name, method, config, calibration if calibrated else None, dtype)))
    for peer in options.peer:
        name, _, python = peer.partition("=")
        for bits in (4, 3):
            job = {
                "model": str(model),
                "out": str(work / f"{name}-{bits}"),
                "calibration": str(calibration),
                "threads": available_threads(),
            }
            job["config"] = {"bit_width": bits, "group_size": GROUP}
            figures = run(job, python, HERE / "peers" / f"run_{name}.py")
            made.append((f"peer {name} {bits} bits", Path(str(job["out"])), figures))
    for name, folder, figures in made:
        scores = lepton.evaluate(folder, [held_out], task="text-generation", batch_size=1, max_length=1024)
        table.append(
            {
                "variant": name,
                "perplexity": f"{scores.value('perplexity'):.2f}",
                "bits per weight": f"{profile_safetensors(folder).bits_per_weight:.2f}",
                "seconds": f"{figures['seconds']:.0f}" if figures["seconds"] else "not kept",
                "peak RSS": f"{figures['peak'] / 1e9:.2f} GB" if figures["peak"] else "not kept",
            }
        )
        print(table[-1], flush=True)
    return table


def classifier(options: Any, work: Path) -> list[dict[str, object]]:
    model = options.models_dir / "minilm-sst2"
    dev, train = (str(options.data_dir / "sst2" / f"{name}.tsv") for name in ("dev", "train"))
    source = lepton.load_model(model)
    baseline = lepton.evaluate(source, dev).columns["correct"]
    table: list[dict[str, object]] = [
        {"variant": "fp32", "accuracy": f"{baseline.mean():.4f}", "drop, 95 % interval": "", "bits per weight": "32.00"}
    ]
    for bits in (8, 4, 3):
        for method in ("rtn", "gptq"):
            calibration = DataSpec(path=train, limit=512) if method == "gptq" else None
            smaller = lepton.quantize_model(source, bits, group_size=GROUP, method=method, calibration=calibration)
            folder = lepton.save_model(smaller, work / f"sst2-{method}-{bits}")
            correct = lepton.evaluate(folder, dev).columns["correct"]
            drop = paired_proportions(correct, baseline, 0.95)
            table.append(
                {
                    "variant": f"{method} {bits} bits",
                    "accuracy": f"{correct.mean():.4f}",
                    "drop, 95 % interval": f"{baseline.mean() - correct.mean():+.4f} [{drop.low:+.4f}, {drop.high:+.4f}]",
                    "bits per weight": f"{profile_safetensors(folder).bits_per_weight:.2f}",
                }
            )
            print(table[-1], flush=True)
    return table


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="llmcompressor=/path/to/python"
    )
    parser.add_argument("--resume", action="store_true", help="Go on with what an interrupted run has made.")
    parser.add_argument(
        "--only", nargs="*", help="Parts of the names of the language model's variants; no table is kept."
    )
    options = parser.parse_args()
    work: Path = options.work_dir / "quantization"
    if not options.resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    perplexities = language_model(options, work)
    if options.only:
        print(markdown(perplexities))
        return
    accuracies = classifier(options, work)
    test = (options.data_dir / "wikitext2" / "wiki.test.tokens").is_file()
    parts = [
        "## SmolLM2-135M",
        markdown(perplexities),
        f"Groups of {GROUP}, symmetric, embeddings and head in float (bits per weight count them, scales and zero points too; of the "
        f"file). Calibration: {ROWS} x {LENGTH} tokens from the start of WikiText-2's validation text. Perplexity of the saved folder on "
        f"{WINDOWS} windows of 1,024 tokens of its {'test' if test else 'validation'} text{'' if test else ' (the end)'}. Seconds: the "
        f"quantization alone, {available_threads()} threads, one run; peak memory: of the whole process, model included.",
        "## MiniLM on SST-2",
        markdown(accuracies),
        f"Groups of {GROUP}; all of dev (6,735 rows); GPTQ's calibration: up to 512 rows of train.",
    ]
    command = "python benchmarks/quantization.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results("quantization", "Low-bit weights", parts, ["bitsandbytes"], command)


if __name__ == "__main__":
    main()

"""Core ML programs off macOS: size, agreement with torch and accuracy of what was saved, by reference evaluation.

Reads MODELS_DIR/{minilm-sst2,smollm2}, DATA_DIR/sst2/dev.tsv and DATA_DIR/wikitext2/wiki.valid.tokens; trains the digits ViT of
recipes/digits_vit.py. Nothing is timed: only Core ML itself could say how fast its programs are.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import accuracy_drop, arguments, markdown, write_results

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.data import DataSpec
from leptonsdk.errors import ExportError

FP16, INT8, INT4 = {"precision": "fp16"}, {"precision": "int8"}, {"precision": "int4"}
PALETTIZED: dict[str, Any] = {"precision": "palettized", "bits": 4, "group_size": 16}
VARIANTS: Mapping[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp16": FP16,
    "int8": INT8,
    "palettized, 4 bits": PALETTIZED,
    "int4, blocks of 32": INT4,
}
GATE = {"accuracy": {"max_drop": 0.01, "confidence": 0.95}}


def classified(model: Any, data: Any, samples: Any, work: Path) -> tuple[list[dict[str, object]], str]:
    """A classifier in every precision, against the same model in torch; and what evaluated it."""
    baseline = lepton.evaluate(model, data)
    right = baseline.columns["correct"]
    fp32 = 4 * sum(p.numel() for p in model.model.parameters())
    rows: list[dict[str, object]] = [
        {"variant": "torch fp32", "MB": f"{fp32 / 1e6:.2f}", "bits per weight": 32, "differs by": "", "rms": ""}
        | {"accuracy": f"{right.mean():.4f}", "drop, 95 % interval": "", "gate": ""}
    ]
    for name, config in VARIANTS.items():
        artifact = lepton.export(model, "coreml", work / name, samples=samples, **config)
        weights = installed_plugins().get("backend", "coreml").weights(artifact)
        scores = lepton.evaluate(artifact, data)
        parity = artifact.details["parity"]
        rows.append(
            {
                "variant": name,
                "MB": f"{artifact.bytes_on_disk / 1e6:.2f}",
                "bits per weight": f"{weights.bits_per_weight:.2f}",
                "differs by": f"{parity['max_abs_diff']:.1e}",
                "rms": f"{parity['relative_rms']:.1e}",
                "accuracy": f"{scores.columns['correct'].mean():.4f}",
                "drop, 95 % interval": accuracy_drop(scores.columns["correct"], right),
                "gate": lepton.gate(baseline, scores, GATE).verdict,
            }
        )
        print(rows[-1], flush=True)
    return rows, scores.runtime


def language_model(model: Any, text: str, windows: int, work: Path) -> list[dict[str, object]]:
    """A language model without its cache: agreement on real text, and perplexity."""
    data = [text[: windows * 5000]]
    samples = [text[start : start + 400] for start in range(0, 3200, 400)]
    rows: list[dict[str, object]] = []
    expected = lepton.evaluate(model, data, batch_size=1).value("perplexity")
    rows.append({"variant": "torch fp32", "MB": f"{4 * model.model.num_parameters() / 1e6:.0f}", "differs by": ""})
    rows[-1] |= {"rms": "", "same next token": "", "perplexity": f"{expected:.3f}"}
    quantized = lepton.quantize_model(model, bit_width=4, group_size=64)
    subjects = {
        "fp32": (model, {"precision": "fp32"}),
        "fp16": (model, FP16),
        "int8": (model, INT8),
        "packed: rtn, 4 bits, groups of 64": (quantized, {"compute_precision": "fp16"}),
    }
    for name, (source, config) in subjects.items():
        try:
            artifact = lepton.export(source, "coreml", work / name, samples=samples, **config)
        except ExportError as error:  # its row says so, and the others' hours are not lost
            rows.append({"variant": name, "same next token": f"refused: {error.message}"})
            continue
        scores = lepton.evaluate(artifact, data, batch_size=1)
        parity = artifact.details["parity"]
        rows.append(
            {
                "variant": name,
                "MB": f"{artifact.bytes_on_disk / 1e6:.0f}",
                "differs by": f"{parity['max_abs_diff']:.1e}",
                "rms": f"{parity['relative_rms']:.1e}",
                "same next token": f"{parity['argmax_agreement']:.4f}",
                "perplexity": f"{scores.value('perplexity'):.3f}",
            }
        )
        print(rows[-1], flush=True)
        shutil.rmtree(artifact.folder)
    return rows


def digits(folder: Path) -> Any:
    """The ViT of recipes/digits_vit.py, trained."""
    path = Path(__file__).parents[1] / "recipes" / "digits_vit.py"
    spec = importlib.util.spec_from_file_location("digits_vit", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    recipe.train(folder)
    return lepton.load_model(folder, task="image-classification")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--windows", type=int, default=4, help="Windows of 1,024 tokens for perplexity, about.")
    parser.add_argument("--limit", type=int, help="Use that many rows of dev.tsv.")
    options = parser.parse_args()
    work: Path = options.work_dir / "coreml"
    shutil.rmtree(work, ignore_errors=True)
    torch.manual_seed(0)

    dev = DataSpec(path=str(options.data_dir / "sst2" / "dev.tsv"), limit=options.limit)
    sst2, runtime = classified(lepton.load_model(options.models_dir / "minilm-sst2"), dev, dev, work / "sst2")
    test = DataSpec(path="digits", split="test")
    vit, _ = classified(digits(work / "digits-model"), test, test, work / "digits")
    text = (options.data_dir / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    smollm2 = language_model(lepton.load_model(options.models_dir / "smollm2"), text, options.windows, work / "smollm2")
    parts = [
        f"Every figure of a Core ML program here is a **reference evaluation, not executed by Core ML**: the saved package is read "
        f"back and computed operation by operation in torch (`{runtime.partition(': ')[2]}`). It shows what graph and "
        'weights are worth, not what Apple\'s kernels do. "differs by" is the greatest difference to torch over samples of real '
        "data, rms the root mean square of it relative to the outputs'.",
        "## MiniLM fine-tuned on SST-2, all of dev.tsv\n\n" + markdown(sst2),
        "Gate: accuracy may drop by 0.01 at 95 % confidence.",
        "## ViT on scikit-learn's digits, test split\n\n" + markdown(vit),
        "## SmolLM2-135M, one forward without cache\n\n" + markdown(smollm2),
        f"Perplexity on the first {options.windows * 5000:,} characters of WikiText-2 validation text in windows of 1,024 "
        "tokens. The packed one is compared with its own quantized checkpoint; its fp32 scales are rounded to fp16.",
    ]
    command = "python benchmarks/coreml.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results("coreml", "Core ML programs by reference evaluation", parts, ["coremltools"], command)


if __name__ == "__main__":
    main()

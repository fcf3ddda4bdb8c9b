"""Whisper tiny.en at 8 and 4 bits, and in ONNX Runtime and OpenVINO: word error rate on spoken digits, gated against the source model.

Reads MODELS_DIR/whisper and DATA_DIR/fsdd/recordings. One digit alone gives Whisper no context (half of them are misheard), so
that clips of eight digits by one speaker are joined, with pauses. Calibration clips are of other recordings than the gate's.
"""

from __future__ import annotations

import random
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, kept, markdown, write_results
from scipy.io import wavfile

import leptonsdk as lepton
from leptonsdk.evaluation.weights import profile_safetensors

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LENGTH, PAUSE, CLIPS, CALIBRATION = 8, 0.25, 150, 64
MAX_DROP = 0.03
VARIANTS: dict[str, dict[str, Any]] = {
    "rtn 8 bits": {"bit_width": 8},
    "rtn 4 bits": {"bit_width": 4, "group_size": 64},
    "gptq 4 bits": {"bit_width": 4, "group_size": 64, "calibration": True},
}
EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ONNX Runtime fp32": ("onnxruntime", {"precision": "fp32"}),
    "ONNX Runtime int8-dynamic": ("onnxruntime", {"precision": "int8-dynamic"}),
    "OpenVINO fp32": ("openvino", {"precision": "fp32"}),
    "OpenVINO int8": ("openvino", {"precision": "int8"}),
    "OpenVINO int8-weights": ("openvino", {"precision": "int8-weights"}),
}


def clips(recordings: Path, count: int, takes: range, seed: int) -> list[dict[str, Any]]:
    """Rows of ``audio`` and ``text``: digits drawn at random, the speakers in turn, from some of their takes."""
    speakers = sorted({path.stem.split("_")[1] for path in recordings.glob("*.wav")})
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        digits = [draw.randrange(10) for _ in range(LENGTH)]
        parts: list[Any] = []
        for digit in digits:
            name = f"{digit}_{speakers[index % len(speakers)]}_{draw.choice(takes)}.wav"
            rate, samples = wavfile.read(recordings / name)
            level = samples.astype(np.float32)
            parts += [0.6 * level / np.abs(level).max(), np.zeros(int(PAUSE * rate), np.float32)]
        audio = {"array": np.concatenate(parts), "sampling_rate": rate}
        rows.append({"audio": audio, "text": " ".join(WORDS[digit] for digit in digits)})
    return rows


def judged(name: str, scores: lepton.Scores, baseline: lepton.Scores) -> dict[str, object]:
    """A row: word error rate, what it lost, and what the gate says."""
    result = lepton.gate(baseline, scores, {"wer": {"max_drop": MAX_DROP}})
    (condition,) = result.conditions
    low, high = condition.interval.low, condition.interval.high
    drop = scores.value("wer") - baseline.value("wer")
    row = {"variant": name, "WER": f"{scores.value('wer'):.4f}"}
    return {**row, "drop, 95 % interval": f"{drop:+.4f} [{low:+.4f}, {high:+.4f}]", "verdict": result.verdict}


def main() -> None:
    options = arguments(__doc__).parse_args()
    recordings = options.data_dir / "fsdd" / "recordings"
    held_out = clips(recordings, CLIPS, range(25), 0)
    calibration = clips(recordings, CALIBRATION, range(25, 50), 1)
    work: Path = options.work_dir / "speech"
    source = lepton.load_model(options.models_dir / "whisper")
    settings: dict[str, Any] = {"batch_size": 8, "options": {"normalizer": "digits", "max_new_tokens": 40}}
    baseline = lepton.evaluate(source, held_out, **settings)
    fp32 = {"variant": "torch fp32", "WER": f"{baseline.value('wer'):.4f}", "drop, 95 % interval": "", "verdict": ""}

    def quantized(name: str, config: dict[str, Any]) -> dict[str, object]:
        data = calibration if config.get("calibration") else None
        start = time.perf_counter()
        smaller = lepton.quantize_model(source, **{**config, "calibration": data})
        seconds = time.perf_counter() - start
        folder = lepton.save_model(smaller, work / name.replace(" ", "-"))
        row = judged(name, lepton.evaluate(folder, held_out, **settings), baseline)
        bits = profile_safetensors(folder).bits_per_weight
        return {**row, "bits per weight": f"{bits:.2f}", "seconds": f"{seconds:.0f}"}

    table: list[dict[str, object]] = [{**fp32, "bits per weight": "32.00", "seconds": ""}]
    table += [kept(work / f"{name}.json", partial(quantized, name, config)) for name, config in VARIANTS.items()]

    def exported(name: str, backend: str, config: dict[str, Any]) -> dict[str, object]:
        folder = work / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)  # of an export that was interrupted
        artifact = lepton.export(source, backend, folder, calibration=calibration, **config)
        row = judged(name, lepton.evaluate(artifact, held_out, **settings), baseline)
        return {**row, "MB": f"{artifact.bytes_on_disk / 1e6:.1f}"}

    parameters = sum(p.numel() for p in source.model.parameters())
    runtimes: list[dict[str, object]] = [{**fp32, "MB": f"{4 * parameters / 1e6:.1f}"}]
    runtimes += [kept(work / f"{name}.json", partial(exported, name, *how)) for name, how in EXPORTS.items()]
    parts = [
        markdown(table),
        f"{CLIPS} clips of {LENGTH} digits from the Free Spoken Digit Dataset, greedy transcripts, every digit a word; limit on the "
        f"drop {MAX_DROP}. GPTQ calibrates on up to {CALIBRATION} clips of other recordings; groups of 64, embeddings and head in "
        "float. Bits per weight count those, and the scales.",
        "## In its runtimes\n\n" + markdown(runtimes),
        f"The same clips and gate, transcribed in the runtime itself. OpenVINO's int8 calibrates its encoder on {CALIBRATION} clips of other "
        "recordings; its decoder has int8 weights.",
    ]
    command = "python benchmarks/speech.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results("speech", "Whisper tiny.en, low-bit weights", parts, ["jiwer", "onnxruntime", "openvino"], command)


if __name__ == "__main__":
    main()

"""A decoder with KV cache in ONNX Runtime: greedy text against torch's, tokens per second, perplexity of int8.

Reads MODELS_DIR/smollm2 and DATA_DIR/wikitext2/wiki.valid.tokens.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from common import arguments, markdown, write_results

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.pipeline.fingerprints import available_threads

PROMPTS = ("The capital of France is", "Once upon a time, in a village by the sea,", "def fibonacci(n):")
NEW_TOKENS = 64


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8-dynamic", "int8-static"])
    parser.add_argument("--windows", type=int, default=8, help="Windows of 1,024 tokens for perplexity.")
    options = parser.parse_args()
    work: Path = options.work_dir / "onnxruntime_decoder"
    shutil.rmtree(work, ignore_errors=True)
    plugins, threads = installed_plugins(), available_threads()
    model = lepton.load_model(options.models_dir / "smollm2")
    tokenizer = model.processor
    model.model.generation_config.eos_token_id = None  # both write on after an end, neither is kept from writing it
    text = (options.data_dir / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    held_out = text[len(text) // 2 :][: options.windows * 5000]
    calibration = [text[start : start + 2000] for start in range(0, 64_000, 2000)]

    def greedy(generate: object, prompt: str) -> tuple[list[int], float]:
        inputs = tokenizer(prompt, return_tensors="pt")
        start = time.perf_counter()
        tokens = generate(**inputs, max_new_tokens=NEW_TOKENS)  # type: ignore[operator]
        seconds = time.perf_counter() - start
        return tokens[0, inputs["input_ids"].shape[1] :].tolist(), seconds

    def from_torch(**inputs: object) -> torch.Tensor:
        generated: torch.Tensor = model.model.generate(**inputs, do_sample=False)
        return generated

    expected = {prompt: greedy(from_torch, prompt) for prompt in PROMPTS}
    parameters = sum(p.numel() for p in model.model.parameters())
    perplexity = lepton.evaluate(model, [held_out], batch_size=1).value("perplexity")
    seconds = sum(expected[prompt][1] for prompt in PROMPTS)
    rows: list[dict[str, object]] = [
        {
            "variant": "torch fp32",
            "MB": f"{4 * parameters / 1e6:.0f}",
            "export s": "",
            "perplexity": f"{perplexity:.2f}",
            "KL to torch": "",
            f"same greedy tokens of {len(PROMPTS) * NEW_TOKENS}": "",
            "tokens/s": f"{len(PROMPTS) * NEW_TOKENS / seconds:.1f}",
        }
    ]
    for precision in options.precisions:
        start = time.perf_counter()
        artifact = lepton.export(model, "onnxruntime", work / precision, precision=precision, calibration=calibration)
        exported = time.perf_counter() - start
        runner = open_subject(artifact, plugins, threads=threads).runner
        same, seconds = 0, 0.0
        for prompt, (tokens, _) in expected.items():
            found, spent = greedy(lambda **inputs: runner.generate(**inputs, eos_token_id=None), prompt)  # noqa: B023
            same += sum(a == b for a, b in zip(tokens, found, strict=True))
            seconds += spent
        scores = lepton.evaluate(artifact, [held_out], batch_size=1, baseline=model)
        rows.append(
            {
                "variant": f"onnxruntime {precision}",
                "MB": f"{artifact.bytes_on_disk / 1e6:.0f}",
                "export s": f"{exported:.0f}",
                "perplexity": f"{scores.value('perplexity'):.2f}",
                "KL to torch": f"{scores.value('kl'):.5f}",
                f"same greedy tokens of {len(PROMPTS) * NEW_TOKENS}": same,
                "tokens/s": f"{len(PROMPTS) * NEW_TOKENS / seconds:.1f}",
            }
        )
        print(rows[-1])
    note = (
        f"{threads} threads; greedy continuation of {len(PROMPTS)} prompts by {NEW_TOKENS} tokens, one run each; tokens per "
        f"second include the prompt. Perplexity on {options.windows} windows or fewer of 1,024 tokens of WikiText-2 validation "
        "text (second half); calibration from its beginning."
    )
    command = "python benchmarks/onnxruntime_decoder.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results(
        "onnxruntime_decoder", "SmolLM2-135M in ONNX Runtime", [markdown(rows), note], ["onnx", "onnxruntime"], command
    )


if __name__ == "__main__":
    main()

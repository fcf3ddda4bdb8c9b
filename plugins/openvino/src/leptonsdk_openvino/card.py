"""How to load an artifact with OpenVINO alone, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from leptonsdk.hooks import ModelCard

_RUN = """\
model = openvino.Core().compile_model(f"{{folder}}/{entry}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
names = {{port.get_any_name() for port in model.inputs}}
outputs = model({{name: value for name, value in inputs.items() if name in names}})
print({{port.get_any_name(): outputs[port].shape for port in model.outputs}})"""


def add_to_card(card: ModelCard, artifact: Mapping[str, Any]) -> None:
    """A section on one artifact."""
    title = f"With OpenVINO ({artifact['precision']})"
    details, entry = artifact["details"], PurePosixPath(artifact["entry"])
    example = card.example("np")
    if details.get("stateful") or "decoder" in details or example is None:
        kept = " Its keys and values are state inside of the model." if details.get("stateful") else ""
        card.add_loading(title, f"`openvino.Core().compile_model` opens `{entry}`.{kept} `leptonsdk-openvino` runs it.")
        return
    hint = details.get("inference_precision", "f32")
    first, _, rest = example.partition("\n")
    lines = [
        f"import openvino\nfrom huggingface_hub import snapshot_download\n{first}",
        rest,
        f'folder = snapshot_download("{card.repo_id}", allow_patterns="{entry.parts[0]}/*")',
        _RUN.format(entry=entry, hint=hint),
    ]
    text = "\n\nOpenVINO computes in bfloat16 by itself where the processor has it; the numbers above were measured in "
    text += f"{hint}."
    if shapes := details.get("static_shapes"):
        sizes = ", ".join(" x ".join(map(str, next(iter(shape.values())))) for shape in shapes)
        text += (
            f" Inputs of {sizes} had a graph of their own: `openvino.Core().read_model`, then `reshape` before "
            "`compile_model`."
        )
    card.add_loading(title, "`pip install openvino transformers`\n\n```python\n" + "\n".join(lines) + f"\n```{text}")

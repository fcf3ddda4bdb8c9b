"""How to load an artifact with ONNX Runtime alone, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from leptonsdk.hooks import ModelCard

_RUN = """\
session = onnxruntime.InferenceSession(f"{{folder}}/{entry}")
names = {{value.name for value in session.get_inputs()}}
outputs = session.run(None, {{name: value for name, value in inputs.items() if name in names}})
print({{value.name: output.shape for value, output in zip(session.get_outputs(), outputs)}})"""

_GENERATE = """\
session = onnxruntime.InferenceSession(f"{{folder}}/{entry}")
ids, names = inputs["input_ids"], [value.name for value in session.get_outputs()]
cache = {{
    value.name: np.zeros([1, value.shape[1], 0, value.shape[3]], dtype=np.float32)
    for value in session.get_inputs()
    if value.name.startswith("past_key_values.")
}}
new = ids
for _ in range(20):  # greedy
    feed = {{
        "input_ids": new,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None, -new.shape[1] :],
    }}
    outputs = dict(zip(names, session.run(None, {{**feed, **cache}})))
    cache = {{name: outputs[name.replace("past_key_values", "present")] for name in cache}}
    new = outputs["logits"][:, -1:].argmax(-1)
    ids = np.concatenate([ids, new], axis=1)
print(processor.decode(ids[0]))"""


def add_to_card(card: ModelCard, artifact: Mapping[str, Any]) -> None:
    """A section on one artifact."""
    title = f"With ONNX Runtime ({artifact['precision']})"
    entry = PurePosixPath(artifact["entry"])
    card.tags.append("onnxruntime")
    if "seq2seq" in artifact["details"]:
        files = " and ".join(f"`{name}`" for name in artifact["files"] if name.endswith(".onnx"))
        text = (
            f"{files}: the first runs once, the second for every token, with its keys and values as inputs and outputs."
        )
        card.add_loading(title, f"{text} `leptonsdk-onnxruntime` runs the two as one model.")
        return
    example = card.example("np")
    if example is None:
        card.add_loading(title, f"`onnxruntime` opens `{entry}`.")
        return
    decodes = any(value["name"].startswith("past_key_values.") for value in artifact["details"]["inputs"])
    numpy = "import numpy as np\n" if decodes and "import numpy" not in example else ""
    first, _, rest = example.partition("\n")
    lines = [
        f"{numpy}import onnxruntime\nfrom huggingface_hub import snapshot_download\n{first}",
        rest,
        f'folder = snapshot_download("{card.repo_id}", allow_patterns="{entry.parts[0]}/*")',
        (_GENERATE if decodes else _RUN).format(entry=entry),
    ]
    card.add_loading(title, "`pip install onnxruntime transformers`\n\n```python\n" + "\n".join(lines) + "\n```")

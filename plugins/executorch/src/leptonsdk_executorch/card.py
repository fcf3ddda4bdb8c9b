"""How to run an artifact in ExecuTorch's own runtime, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leptonsdk.hooks import ModelCard

_RUN = """\
program = Runtime.get().load_program(hf_hub_download("{repo_id}", "{entry}"))
outputs = program.load_method("forward").execute([inputs[name] for name in {names}])
print({{name: output.shape for name, output in zip({outputs}, outputs)}})"""


def add_to_card(card: ModelCard, artifact: Mapping[str, Any]) -> None:
    """A section on one artifact."""
    details, entry = artifact["details"], artifact["entry"]
    title, shapes = f"With ExecuTorch ({artifact['precision']})", details["inputs"]
    names = [port["name"] for port in shapes]
    takes = ", ".join(f"`{port['name']}` {' x '.join(map(_size, port['shape']))} ({port['dtype']})" for port in shapes)
    text = f"An Android or iOS app opens `{entry}` with ExecuTorch's `Module`. It takes {takes}."
    example = card.example("pt")
    if example is not None:
        first, _, rest = example.partition("\n")
        code = _RUN.format(repo_id=card.repo_id, entry=entry, names=names, outputs=details["outputs"])
        imports = f"from executorch.runtime import Runtime\nfrom huggingface_hub import hf_hub_download\n{first}"
        python = f"```python\n{imports}\n{rest}\n{code}\n```"
        text = f"`pip install executorch transformers`, and in Python:\n\n{python}\n\n{text}"
    card.add_loading(title, text)


def _size(size: int | list[int]) -> str:
    return f"{size[0]} to {size[-1]}" if isinstance(size, list) else str(size)

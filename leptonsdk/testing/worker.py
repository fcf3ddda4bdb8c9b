"""Runs in a process without leptonsdk: loads what a plugin wrote as anyone would, and says what it computes.

It reads a request as a line of JSON and answers with one; tensors go through safetensors files. It imports nothing of leptonsdk.
"""

import importlib.abc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

BLOCKED = "leptonsdk"


class _Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        top = name.partition(".")[0]
        if top == BLOCKED or top.startswith(f"{BLOCKED}_"):
            raise ImportError(f"'{name}' is not to be had here: what a plugin writes must work without leptonsdk")


def _model(request: dict[str, Any]) -> dict[str, Any]:
    """A model folder through plain ``from_pretrained``."""
    import torch
    import transformers
    from safetensors.torch import load_file

    config = json.loads((Path(request["folder"]) / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(request["folder"])
    with torch.inference_mode():
        return {request["output"]: model.eval()(**load_file(request["inputs"]))[request["output"]].float().clone()}


def _script(request: dict[str, Any]) -> dict[str, Any]:
    """An artifact by its backend's own few lines."""
    import torch
    from safetensors.numpy import load_file

    names: dict[str, Any] = {"__name__": "alone"}
    exec(compile(request["code"], "<run_alone>", "exec"), names)
    outputs = names["run"](request["entry"], load_file(request["inputs"]))
    return {name: torch.as_tensor(value).float().clone() for name, value in outputs.items()}


def main() -> None:
    sys.meta_path.insert(0, _Blocker())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    for line in sys.stdin:
        request = json.loads(line)
        try:
            from safetensors.torch import save_file

            save_file(_script(request) if "code" in request else _model(request), request["outputs"])
            answer = {}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

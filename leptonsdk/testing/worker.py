"""Runs in a process without leptonsdk: loads what a plugin wrote as anyone would, and says what it computes.

It reads a request as a line of JSON and answers with one; tensors go through safetensors files. It imports nothing of leptonsdk,
and of other packages only what a request needs: some may be kept out too, by their names as arguments.
"""

import importlib.abc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

BLOCKED = ("leptonsdk", *sys.argv[1:])


class _Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        top = name.partition(".")[0]
        if any(top == blocked or top.startswith(f"{blocked}_") for blocked in BLOCKED):
            raise ImportError(f"'{name}' is not to be had here: what a plugin writes must work without leptonsdk")


def _model(request: dict[str, Any]) -> None:
    """A model folder through plain ``from_pretrained``."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    config = json.loads((Path(request["folder"]) / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(request["folder"])
    with torch.inference_mode():
        found = model.eval()(**load_file(request["inputs"]))[request["output"]]
    save_file({request["output"]: found.float().clone()}, request["outputs"])


def _script(request: dict[str, Any]) -> None:
    """An artifact by a few lines of code."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    names: dict[str, Any] = {"__name__": "alone"}
    exec(compile(request["code"], "<run_alone>", "exec"), names)
    outputs = names["run"](request["entry"], load_file(request["inputs"]))
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    types = {name: array.dtype if array.dtype.kind in "iu" else np.float32 for name, array in arrays.items()}
    save_file({name: np.asarray(x, types[name], order="C") for name, x in arrays.items()}, request["outputs"])


def main() -> None:
    sys.meta_path.insert(0, _Blocker())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    for line in sys.stdin:
        request = json.loads(line)
        try:
            (_script if "code" in request else _model)(request)
            answer = {}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

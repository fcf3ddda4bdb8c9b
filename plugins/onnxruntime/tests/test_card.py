"""The model card's code runs, and computes what the model computes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from leptonsdk_onnxruntime.card import add_to_card

from leptonsdk.hooks import ModelCard


class Processor:
    def __init__(self, inputs):
        self.inputs = inputs

    def __call__(self, *words, **options):
        return self.inputs

    def decode(self, ids):
        return ids.tolist()


def run_snippet(artifact, inputs):
    """Execute the card's code on an artifact's folder, with made-up inputs in the place of a tokenizer's; its variables."""
    card = ModelCard("me/toy", artifact.task)
    add_to_card(card, artifact.describe())
    ((_, text),) = card.sections
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = re.sub(r"\bsnapshot_download\(.*\)", repr(str(artifact.folder)), code)
    code = re.sub(r"processor = .*", "", code)
    space = {"processor": Processor(inputs)}
    exec(code, space)
    return space


def test_an_encoders_code_gives_its_outputs(exports, tiny):
    batch = tiny.batch("bert", 2, 8, seed=3)
    with torch.no_grad():
        expected = tiny.models["bert"]().model(**batch).logits.numpy()
    found = run_snippet(exports("bert"), {name: value.numpy() for name, value in batch.items()})["outputs"]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_decoders_code_generates_as_transformers_does(name, exports, tiny):
    batch = tiny.batch(name, 1, 8, seed=5)
    expected = tiny.models[name]().model.generate(**batch, do_sample=False, max_new_tokens=20, eos_token_id=None)
    found = run_snippet(exports(name), {key: value.numpy() for key, value in batch.items()})["ids"]
    assert np.array_equal(found, expected.numpy())

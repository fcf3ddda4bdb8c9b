"""The model card's code runs, and computes what the model computes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from leptonsdk_openvino.card import add_to_card

from leptonsdk.hooks import ModelCard


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_cards_code_gives_the_models_outputs(name, exports, make):
    artifact, batch = exports(name), make.batch(name, 2)
    card = ModelCard("me/toy", artifact.task)
    add_to_card(card, artifact.describe())
    ((_, text),) = card.sections
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = re.sub(r"\bsnapshot_download\(.*\)", repr(str(artifact.folder)), code)
    code = re.sub(r"processor = .*", "", code)
    inputs = {key: value.numpy() for key, value in batch.items()}
    space = {"processor": lambda *words, **options: inputs}
    exec(code, space)
    with torch.no_grad():
        expected = make.model(name)(**batch).logits.numpy()
    np.testing.assert_allclose(space["outputs"][0], expected, atol=1e-3)

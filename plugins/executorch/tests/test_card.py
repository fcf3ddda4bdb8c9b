"""The model card's code runs in ExecuTorch's own runtime, and computes what the model computes."""

from __future__ import annotations

import re

import pytest
import torch

from leptonsdk.hooks import ModelCard


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_cards_code_gives_the_models_outputs(name, exports, make):
    from leptonsdk_executorch.card import add_to_card

    artifact, batch = exports(name), make.batch(name, 2)
    card = ModelCard("me/toy", artifact.task)
    add_to_card(card, artifact.describe())
    ((_, text),) = card.sections
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = re.sub(r"\bhf_hub_download\(.*?\)", repr(str(artifact.folder / artifact.entry)), code)
    code = re.sub(r"processor = .*", "", code)
    space = {"processor": lambda *words, **options: batch}
    exec(code, space)
    with torch.no_grad():
        expected = make.model(name)(**batch).logits
    torch.testing.assert_close(space["outputs"][0], expected, atol=1e-4, rtol=1e-3)

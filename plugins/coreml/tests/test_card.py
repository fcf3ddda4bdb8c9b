"""The model card's code is Python, and names the package."""

from __future__ import annotations

import re

from leptonsdk_coreml.card import add_to_card

from leptonsdk.hooks import ModelCard


def test_the_card_says_how_to_open_the_package():
    card = ModelCard("me/toy", "text-classification")
    details = {"minimum_deployment_target": "iOS18"}
    add_to_card(card, {"entry": "coreml/model.mlpackage", "precision": "int8", "details": details})
    ((title, text),) = card.sections
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert title == "With Core ML (int8)"
    assert 'MLModel(f"{folder}/coreml/model.mlpackage")' in code
    assert "iOS18" in text

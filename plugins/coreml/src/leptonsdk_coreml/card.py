"""How to load an artifact with Core ML, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from leptonsdk.hooks import ModelCard

_TEXT = """\
`pip install coremltools huggingface_hub`; predictions need macOS.

```python
import coremltools
from huggingface_hub import snapshot_download

folder = snapshot_download("{repo_id}", allow_patterns="{top}/*")
model = coremltools.models.MLModel(f"{{folder}}/{entry}")
print(model.input_description)  # model.predict takes these by name
```

In Xcode, drag `{entry}` into the project. It needs {target} or later. Off macOS its accuracy was evaluated by reference: graph and
weights are those measured, the rounding of Apple's own kernels is not."""


def add_to_card(card: ModelCard, artifact: Mapping[str, Any]) -> None:
    """A section on one artifact."""
    entry = PurePosixPath(artifact["entry"])
    target = artifact["details"]["minimum_deployment_target"]
    text = _TEXT.format(repo_id=card.repo_id, top=entry.parts[0], entry=entry, target=target)
    card.add_loading(f"With Core ML ({artifact['precision']})", text)

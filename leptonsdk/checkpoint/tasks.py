"""Which class loads the models of a task, and which task a model is for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

from leptonsdk.errors import CheckpointError, first_line
from leptonsdk.references import task_of_architecture

_VISION_TASKS = frozenset({"image-classification", "object-detection", "image-segmentation", "semantic-segmentation"})
_SPEECH_TASKS = frozenset({"audio-classification"})
_WRITES = "text2text-generation"
# What transformers makes tokenizers of, beside the files that a tokenizer's class names.
_VOCABULARIES = ("tokenizer.json", "*.model", "*.tiktoken", "tekken.json")
_BOTH_TASKS = frozenset({"automatic-speech-recognition", "image-to-text"})


def hub_task(task: str) -> str:
    """The Hub's name of a task. A plugin's own evaluation of one is called ``HUB-TASK/NAME``: its models are that task's."""
    return task.partition("/")[0]


def model_class_for(task: str, config: Any = None) -> Any:
    """The Auto class that loads models of a task, as optimum's TasksManager has it.

    Speech recognition has two, for encoder-decoders and for CTC: the config tells which.
    """
    from optimum.exporters.tasks import TasksManager

    try:
        task = TasksManager.map_from_synonym(hub_task(task))
        model_type = getattr(config, "model_type", None) if task == "automatic-speech-recognition" else None
        return TasksManager.get_model_class_for_task(task, model_type=model_type)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"unknown task '{task}'", hint=f"{first_line(error)}") from error


def infer_task(config: Any, name: str) -> str:
    """The task of a model's first architecture."""
    return task_of(getattr(config, "architectures", None) or (), name)


def task_of(architectures: Iterable[str], name: str) -> str:
    from optimum.exporters.tasks import TasksManager

    for architecture in architectures:
        told, cls = task_of_architecture(architecture), getattr(transformers, architecture, None)
        if cls is not None:
            try:
                task = str(TasksManager.infer_task_from_model(cls))
            except (KeyError, ValueError):
                pass
            else:  # BART's one class fills masks too: its name says what it is for
                return _WRITES if (task, told) == ("fill-mask", _WRITES) else task
        if told is not None:
            return told
    raise CheckpointError("its task cannot be inferred", where=name, hint="give one: `model.task`, or --task")


def load_processor(folder: Path, task: str, **options: Any) -> Any:
    """The processing class of a task's models (tokenizer, image processor, feature extractor, or processor), or None."""
    task = hub_task(task)
    loaders: tuple[Any, ...] = (AutoTokenizer, AutoProcessor)
    if task in _VISION_TASKS:
        loaders = (AutoImageProcessor,)
    elif task in _SPEECH_TASKS:
        loaders = (AutoFeatureExtractor,)
    elif task in _BOTH_TASKS:
        loaders = (AutoProcessor,)
    for loader in loaders:
        try:
            processor = loader.from_pretrained(folder, **options)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
        return processor if _has_vocabulary(processor, folder) else None
    return None


def _has_vocabulary(processor: Any, folder: Path) -> bool:
    """Whether the folder holds what a tokenizer was made of, where it is made of files.

    Where none is there, transformers makes one of a few special tokens, to which every text is unknown.
    """
    own = getattr(getattr(processor, "tokenizer", processor), "vocab_files_names", {})
    return not own or any(next(folder.glob(name), None) for name in (*own.values(), *_VOCABULARIES))

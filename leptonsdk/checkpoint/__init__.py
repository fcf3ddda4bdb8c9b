"""Checkpoints: a model in memory with its processing class, task and provenance, loaded and saved."""

from leptonsdk.checkpoint.hub import download
from leptonsdk.checkpoint.loading import load_checkpoint, load_like, load_skeleton
from leptonsdk.checkpoint.model import Checkpoint, Source
from leptonsdk.checkpoint.tasks import hub_task, infer_task, load_processor, model_class_for

__all__ = [
    "Checkpoint",
    "Source",
    "download",
    "hub_task",
    "infer_task",
    "load_checkpoint",
    "load_like",
    "load_processor",
    "load_skeleton",
    "model_class_for",
]

"""The built-in plugin: round-to-nearest, vocabulary trimming, and the tasks and datasets that come with the core, through the same door."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.data.digits import Digits
from leptonsdk.data.docstrings import PythonDocstrings
from leptonsdk.evaluation.tasks.classification import ImageClassification, TextClassification
from leptonsdk.evaluation.tasks.embedding import FeatureExtraction
from leptonsdk.evaluation.tasks.speech_recognition import SpeechRecognition
from leptonsdk.evaluation.tasks.text_generation import TextGeneration
from leptonsdk.hooks import Compressor, DatasetProvider, Evaluator, hookimpl
from leptonsdk.quantization.compressor import RoundToNearest
from leptonsdk.vocabulary import TrimVocabulary


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [RoundToNearest, TrimVocabulary]


@hookimpl
def lepton_evaluators() -> Iterable[type[Evaluator]]:
    return [TextClassification, ImageClassification, FeatureExtraction, TextGeneration, SpeechRecognition]


@hookimpl
def lepton_datasets() -> Iterable[type[DatasetProvider]]:
    return [PythonDocstrings, Digits]

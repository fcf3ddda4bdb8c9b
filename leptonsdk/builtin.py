"""The built-in plugin: round-to-nearest, vocabulary trimming, and the tasks and datasets that come with the core, through the same door."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.data.digits import Digits
from leptonsdk.data.docstrings import PythonDocstrings
from leptonsdk.evaluation.tasks.classification import AudioClassification, ImageClassification, TextClassification
from leptonsdk.evaluation.tasks.embedding import FeatureExtraction
from leptonsdk.evaluation.tasks.fill_mask import FillMask
from leptonsdk.evaluation.tasks.question_answering import QuestionAnswering
from leptonsdk.evaluation.tasks.sequence_to_sequence import Summarization, TextToText, Translation
from leptonsdk.evaluation.tasks.speech_recognition import SpeechRecognition
from leptonsdk.evaluation.tasks.text_generation import TextGeneration
from leptonsdk.evaluation.tasks.token_classification import TokenClassification
from leptonsdk.hooks import Compressor, DatasetProvider, Evaluator, hookimpl
from leptonsdk.quantization.compressor import RoundToNearest
from leptonsdk.vocabulary import TrimVocabulary


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [RoundToNearest, TrimVocabulary]


@hookimpl
def lepton_evaluators() -> Iterable[type[Evaluator]]:
    return [
        TextClassification,
        TokenClassification,
        QuestionAnswering,
        FillMask,
        FeatureExtraction,
        TextGeneration,
        TextToText,
        Summarization,
        Translation,
        ImageClassification,
        AudioClassification,
        SpeechRecognition,
    ]


@hookimpl
def lepton_datasets() -> Iterable[type[DatasetProvider]]:
    return [PythonDocstrings, Digits]

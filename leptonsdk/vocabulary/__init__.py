"""Vocabulary trimming: fewer tokens, and as many rows less in the embeddings."""

from __future__ import annotations

from leptonsdk.vocabulary.compressor import TrimVocabulary, TrimVocabularyConfig

__all__ = ["TrimVocabulary", "TrimVocabularyConfig"]

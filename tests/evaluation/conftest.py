"""Tiny models of each task, made from configs, with tokenizers that cut words into pieces."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = "the a of in is who where what river city capital tower London Paris Nile Ada wrote first program".split()
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def _tokenizer(folder: Path, length: int) -> int:
    """BERT's, with a few words and every letter, alone and as a later piece; the size of its vocabulary."""
    from transformers import BertTokenizer

    characters = [*string.ascii_letters, *string.digits, *string.punctuation]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *WORDS]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=False, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def bert_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a random BERT of a class, whose inputs are ``length`` tokens at most."""
    import torch
    import transformers

    def make(architecture: str, length: int = 48, **config: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture.lower())
        size = _tokenizer(folder, length)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = transformers.BertConfig(
                vocab_size=size,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=length,
                initializer_range=0.5,  # so that answers differ
                **config,
            )
            getattr(transformers, architecture)(made).eval().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tagger(bert_for: Callable[..., Path]) -> Path:
    labels = dict(enumerate(TAGS))
    return bert_for("BertForTokenClassification", id2label=labels, label2id={tag: n for n, tag in labels.items()})


@pytest.fixture(scope="session")
def reader(bert_for: Callable[..., Path]) -> Path:
    return bert_for("BertForQuestionAnswering")

"""Processors of the tiny models: a word-piece tokenizer, an image processor, Whisper's; made in memory."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

LENGTH = 64
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "adefgilmorst"
WORDS = (
    "good film",
    "great film",
    "a dream of the sea",
    "it made me smile",
    "dull",
    "so slow",
    "the story is flat",
    "a real gem",
)
_COMMON = "good bad film story the of it is was me so great awful dull real slow dream smile sea gem made flat".split()
_RARE = "radio metal tiger mist rose ladder frost tram model solar gold field stem".split()
_PIECES = (*_SPECIALS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_COMMON, *_RARE)
RARE = len(_RARE)
"""So many words at the end of the vocabulary are in no data; they can be put together from letters."""
SPECIAL = len(_SPECIALS)


def _vocabulary() -> dict[str, int]:
    return {token: number for number, token in enumerate(_PIECES)}


def _pieces() -> Tokenizer:
    made = Tokenizer(models.WordPiece(_vocabulary(), unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def _fast(made: Tokenizer) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=LENGTH,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tokenizer() -> Any:
    """Of encoders: each text between [CLS] and [SEP]."""
    made = _pieces()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _fast(made)


def plain_tokenizer() -> Any:
    """Of language models: the text alone."""
    return _fast(_pieces())


def image_processor() -> Any:
    return transformers.ViTImageProcessor(size={"height": 16, "width": 16})


def speech_processor() -> Any:
    """Whisper's, of one second of sound."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = [letter for letter in letters if letter.isascii() and letter.isalpha()] + ["Ġ", "'", ".", ","]
    tokens = ["<pad>", "<unk>", special[1], special[0], special[2], *plain][:LENGTH]
    tokenizer = transformers.WhisperTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    return transformers.WhisperProcessor(
        transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1), tokenizer
    )

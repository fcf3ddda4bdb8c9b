"""What a model writes against rouge-score's and sacrebleu's own corpus values."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import leptonsdk as lepton
from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.overlap import TRANSLATION_METRICS, bleu_counts, chrf_counts, rouge
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.tasks.sequence_to_sequence import Summarization, TextToText, Translation
from leptonsdk.gating import get_statistic
from leptonsdk.hooks import EvaluationSettings, load_plugins

PLUGINS = load_plugins()
REFERENCES = [
    "The council approved the new bridge on Monday.",
    "Heavy rain closed two schools in the north.",
    "She won the race, and then she slept for ten hours.",
    "No.",
    "Prices rose by 3.5% in May, the bank said.",
    "It was the best of times, it was the worst of times.",
]
WRITTEN = [
    "The council approved a new bridge Monday.",
    "Two schools were closed by heavy rain.",
    "",
    "Yes",
    "Prices rose by 3.5% in May, the bank said.",
    "it was the worst of the times",
]
BLEU, CHRF = TRANSLATION_METRICS


def values(references: list[str], written: list[str]) -> tuple[float, float]:
    columns = {**bleu_counts(references, written, "here"), **chrf_counts(references, written, "here")}
    bleu, chrf = (get_statistic(m.statistic).value([columns[name] for name in m.columns]) for m in (BLEU, CHRF))
    return bleu, chrf


@pytest.mark.parametrize(
    "part", [slice(None), slice(0, 1), slice(2, 3), slice(3, 4), slice(1, 4), slice(4, 5), slice(5, 6)], ids=str
)
def test_counts_make_sacrebleus_corpus_values(part: slice) -> None:
    import sacrebleu

    references, written = REFERENCES[part], WRITTEN[part]
    bleu, chrf = values(references, written)
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(written, [references]).score, rel=1e-9)
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(written, [references]).score, rel=1e-9)


def test_resamples_have_the_corpus_values_of_what_was_drawn() -> None:
    import sacrebleu

    rng = np.random.default_rng(0)
    counts = rng.multinomial(6, np.full(6, 1 / 6), size=30)
    columns = {**bleu_counts(REFERENCES, WRITTEN, ""), **chrf_counts(REFERENCES, WRITTEN, "")}
    for metric, corpus in ((BLEU, sacrebleu.corpus_bleu), (CHRF, sacrebleu.corpus_chrf)):
        resampled = get_statistic(metric.statistic).resampled([columns[name] for name in metric.columns], counts)
        for row, value in zip(counts, resampled, strict=True):
            drawn = np.repeat(np.arange(6), row)
            expected = corpus([WRITTEN[i] for i in drawn], [[REFERENCES[i] for i in drawn]]).score
            assert value == pytest.approx(expected, rel=1e-9)


def test_rouge_is_rouge_scores() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    columns = rouge(REFERENCES, WRITTEN, "here")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for number, pair in enumerate(zip(REFERENCES, WRITTEN, strict=True)):
        for name, score in scorer.score(*pair).items():
            assert columns[name][number] == score.fmeasure
    assert columns["rougeL"][4] == 1
    assert columns["rouge2"][2] == 0


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 over the letters of the references."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    letters = sorted(set("".join(REFERENCES + WRITTEN)) | set("abcdefghijklmnopqrstuvwxyz: "))
    vocabulary = {token: n for n, token in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
            initializer_factor=3.0, task_specific_params={"summarization": {"prefix": "summarize: "}},
        )  # fmt: skip
        T5ForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["text2text-generation", "summarization", "translation"])
def test_a_random_t5_is_scored_like_its_own_generate(t5: Path, task: str) -> None:
    import sacrebleu
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    rows = [
        {"text": w or "x", "output" if task != "summarization" else "summary": r}
        for w, r in zip(WRITTEN, REFERENCES, strict=True)
    ]
    model = lepton.load_model(t5, task=None if task == "text2text-generation" else task)
    assert model.task == task
    options = {"max_new_tokens": 12}
    scores = lepton.evaluate(model, rows, batch_size=4, options=options)
    tokenizer, plain = AutoTokenizer.from_pretrained(t5), AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    prefix = "summarize: " if task == "summarization" else ""
    written, losses, tokens = [], 0.0, 0
    for row, reference in zip(rows, REFERENCES, strict=True):
        inputs = tokenizer(prefix + row["text"], return_tensors="pt")
        labels = tokenizer(text_target=reference, return_tensors="pt").input_ids
        with torch.no_grad():
            losses += float(plain(**inputs, labels=labels).loss) * labels.shape[1]
            written.append(tokenizer.decode(plain.generate(**inputs, max_new_tokens=12)[0], skip_special_tokens=True))
        tokens += labels.shape[1]
    assert len(set(written)) > 1
    assert scores.value("perplexity") == pytest.approx(np.exp(losses / tokens), rel=1e-4)
    offered = scores.values()
    assert ("rougeL" in offered, "bleu" in offered) == (task != "translation", task != "summarization")
    if "rougeL" in offered:
        assert scores.columns["rougeL"].tolist() == rouge(REFERENCES, written, "")["rougeL"].tolist()
    if "bleu" in offered:
        assert scores.value("bleu") == pytest.approx(sacrebleu.corpus_bleu(written, [REFERENCES]).score)
        assert scores.value("chrf") == pytest.approx(sacrebleu.corpus_chrf(written, [REFERENCES]).score)
    backward = lepton.evaluate(model, rows[::-1], batch_size=3, options=options)
    for name, column in scores.columns.items():
        np.testing.assert_allclose(backward.columns[name][::-1], column, rtol=1e-5, err_msg=name)


class Oracle:
    """A runner that writes what it is given to write."""

    runtime, input_names = "oracle", frozenset({"input_ids"})

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        self.tokenizer, self.texts, self.asked = tokenizer, list(texts), []

    def __call__(self, **inputs: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.zeros(*inputs["decoder_input_ids"].shape, len(self.tokenizer)))

    def generate(self, *, max_new_tokens: int, **inputs: torch.Tensor) -> torch.Tensor:
        self.asked += self.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
        count = inputs["input_ids"].shape[0]
        texts, self.texts = self.texts[:count], self.texts[count:]
        return self.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]


def test_a_perfect_model_scores_the_most(t5: Path) -> None:
    subject = open_subject(lepton.load_model(t5), PLUGINS)
    oracle = Oracle(subject.processor, REFERENCES)
    settings = EvaluationSettings(batch_size=4, options={**subject.options, "prefix": "do: "})
    rows = Dataset.from_dict({"source": WRITTEN, "target": REFERENCES})
    columns = TextToText().evaluate(oracle, subject.processor, rows, settings)
    assert {name: columns[name].tolist() for name in ("rouge1", "rougeL")} == {"rouge1": [1] * 6, "rougeL": [1] * 6}
    assert [get_statistic(m.statistic).value([columns[n] for n in m.columns]) for m in (BLEU, CHRF)] == pytest.approx(
        [100, 100]
    )
    assert oracle.asked == [f"do: {text}" for text in WRITTEN]


def test_what_the_decoder_reads_is_what_the_model_makes_of_labels(t5: Path) -> None:
    subject = open_subject(lepton.load_model(t5), PLUGINS)
    settings = EvaluationSettings(options=subject.options)
    rows = {"source": WRITTEN[:2], "target": REFERENCES[:2]}
    training = TextToText().training_batch(subject.processor, rows, settings)
    inputs = TextToText().encode(subject.processor, rows, settings)
    own = subject.runner.model.prepare_decoder_input_ids_from_labels(training["labels"])
    assert torch.equal(inputs["decoder_input_ids"], own)
    assert set(inputs) == {"input_ids", "attention_mask", "decoder_input_ids"} | (set(inputs) & {"token_type_ids"})
    assert (training["labels"] == -100).any()
    assert torch.isfinite(subject.runner.model(**training).loss)
    assert "decoder_input_ids" not in TextToText().encode(subject.processor, {"source": ["a"]}, settings)


def test_bart_writes_and_starts_as_its_config_says(tmp_path: Path, t5: Path) -> None:
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

    size = len(AutoTokenizer.from_pretrained(t5))
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             {"layers": 1, "attention_heads": 2, "ffn_dim": 32}.items()}  # fmt: skip
    config = BartConfig(
        vocab_size=size, d_model=16, max_position_embeddings=64, decoder_start_token_id=1, eos_token_id=1, bos_token_id=1,
        pad_token_id=0, forced_eos_token_id=1, **sizes,
    )  # fmt: skip
    BartForConditionalGeneration(config).eval().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(t5).save_pretrained(tmp_path)
    model = lepton.load_model(tmp_path)
    assert model.task == "text2text-generation"
    subject = open_subject(model, PLUGINS)
    rows = {"source": WRITTEN[:2], "target": REFERENCES[:2]}
    settings = EvaluationSettings(options=subject.options)
    labels = TextToText().training_batch(subject.processor, rows, settings)["labels"]
    own = subject.runner.model.prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(TextToText().encode(subject.processor, rows, settings)["decoder_input_ids"], own)
    scores = lepton.evaluate(model, [{"source": "a", "target": "b c"}] * 2, options={"max_new_tokens": 4})
    assert np.isfinite(list(scores.values().values())).all()
    model.model.generation_config.forced_eos_token_id = model.model.generation_config.eos_token_id = None
    scores = lepton.evaluate(model, [{"source": "a", "target": "b c"}])  # it writes on to its last position
    assert np.isfinite(list(scores.values().values())).all()


def test_a_runner_that_cannot_write_has_a_perplexity(t5: Path) -> None:
    subject = open_subject(lepton.load_model(t5), PLUGINS)
    forward = subject.runner.__call__

    class Forward:
        runtime, input_names = "other 1.0", subject.runner.input_names

        def __call__(self, **inputs: torch.Tensor) -> Any:
            return forward(**inputs)

    rows = Dataset.from_dict({"source": WRITTEN, "target": REFERENCES})
    settings = EvaluationSettings(options=subject.options)
    with pytest.raises(EvaluationError, match="summarization: other 1.0 cannot generate"):
        Summarization().evaluate(Forward(), subject.processor, rows, settings)
    settings = EvaluationSettings(options={**subject.options, "generate": False})
    assert set(Summarization().evaluate(Forward(), subject.processor, rows, settings)) == {"nll", "target_tokens"}
    without = EvaluationSettings(options={})
    with pytest.raises(EvaluationError, match="names no decoder_start_token_id"):
        Summarization().evaluate(Forward(), subject.processor, rows, without)


def test_a_column_of_translations_needs_its_languages(t5: Path) -> None:
    model = lepton.load_model(t5, task="translation")
    rows = [{"translation": {"en": "the bank", "de": "die bank"}}, {"translation": {"en": "no", "de": "nein"}}]
    with pytest.raises(DataError, match="has the languages de, en.*source_language"):
        lepton.evaluate(model, rows)
    options = {"source_language": "en", "target_language": "de", "max_new_tokens": 4}
    scores = lepton.evaluate(model, rows, options=options)
    pairs = [{"source": "the bank", "target": "die bank"}, {"source": "no", "target": "nein"}]
    assert scores.values() == lepton.evaluate(model, pairs, options=options).values()
    with pytest.raises(DataError, match="needs the columns {source, target} or {translation}"):
        lepton.evaluate(model, [{"english": "a"}])


def test_wrong_rows_and_missing_packages_are_named(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the target of row 1 is no text: None"):
        lepton.evaluate(t5, [{"source": "a", "target": "b"}, {"source": "a", "target": None}])
    with pytest.raises(DataError, match="no target has a word"):
        lepton.evaluate(t5, [{"source": "a", "target": " "}])
    rows = [{"source": "a", "target": "b"}] * 2
    for module, task in (("sacrebleu.metrics", "translation"), ("rouge_score.rouge_scorer", "summarization")):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            package = module.partition(".")[0]
            with pytest.raises(EvaluationError, match=rf"{package} is not installed.*pip install 'leptonsdk\[text\]'"):
                lepton.evaluate(lepton.load_model(t5, task=task), rows)


def test_a_gate_on_bleu_gives_an_interval(t5: Path) -> None:
    rows = [{"source": w or "x", "target": r} for w, r in zip(WRITTEN, REFERENCES, strict=True)] * 4
    model = lepton.load_model(t5, task="translation")
    options = {"max_new_tokens": 30}
    baseline = lepton.evaluate(model, rows, options=options)
    with torch.no_grad():
        model.model.shared.weight.mul_(-1)
    conditions = {name: {"max_drop": 100} for name in ("bleu", "chrf")}
    result = lepton.gate(baseline, lepton.evaluate(model, rows, options=options), conditions)
    assert result.verdict == "pass"
    assert all(c.interval.low <= c.drop <= c.interval.high for c in result.conditions)
    assert result.conditions[1].interval.low < result.conditions[1].interval.high


def test_translation_is_a_task_of_its_own() -> None:
    assert {"text2text-generation", "summarization", "translation"} <= set(PLUGINS.names("evaluator"))
    assert {metric.name for metric in Translation.metrics} == {"bleu", "chrf", "perplexity"}

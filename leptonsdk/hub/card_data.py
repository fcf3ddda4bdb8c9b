"""The card's metadata: what the Hub's search, licence and evaluation boxes read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from leptonsdk.report import format as fmt
from leptonsdk.report.models import COSTS, Models, primary_metrics

if TYPE_CHECKING:
    from huggingface_hub import CardData, EvalResult, ModelCardData

_OURS: Final = "leptonsdk"  # marks the evaluation results that are ours to update
_SENTENCES = "modules.json"


def card_data(
    manifest: Mapping[str, Any],
    models: Models,
    paths: Sequence[str],
    quant_method: str | None,
    inherited: Mapping[str, Any],
    tags: Iterable[str],
    name: str,
) -> ModelCardData:
    """Metadata of a fresh card.

    Args:
        manifest: What is pushed, see `leptonsdk.hub.manifest`.
        models: The same, read.
        paths: Every file of the repository.
        quant_method: Of the root's checkpoint, where it is quantized.
        inherited: The source's licence and language.
        tags: More tags.
        name: The repository's.
    """
    from huggingface_hub import ModelCardData

    base = manifest["source"].get("base_model")
    kinds = {folder_of(entry) or entry["backend"] for entry in manifest["artifacts"]}
    own = ["leptonsdk", *sorted(kinds), *([quant_method] if quant_method else [])]
    results = evaluation_results(manifest, models)
    return ModelCardData(
        **{
            **inherited,
            "base_model": base,
            "base_model_relation": relation(manifest) if base else None,
            "library_name": library(manifest, paths, kinds),
            "pipeline_tag": manifest["task"],
            "tags": list(dict.fromkeys([*own, *tags])),
            "eval_results": results or None,
            "model_name": name if results else None,
        }
    )


def folder_of(artifact: Mapping[str, Any]) -> str:
    """The folder at the root that an artifact stands in (``onnx``); empty where it stands at the root itself."""
    return str(PurePosixPath(artifact["entry"]).parent).partition("/")[0].strip(".")


def relation(manifest: Mapping[str, Any]) -> str:
    """How the Hub's family tree calls it: ``finetune`` where its weights were trained, else ``quantized``."""
    trained = any(row["kind"] == "train" for row in manifest["ledger"])
    return "finetune" if trained else "quantized"


def library(manifest: Mapping[str, Any], paths: Sequence[str], kinds: set[str]) -> str | None:
    """The library that loads what is pushed: of the root's weights, else of the first artifact."""
    if manifest["root"] != "none":
        return "sentence-transformers" if _SENTENCES in paths else "transformers"
    return next(iter(sorted(kinds)), None)


def evaluation_results(manifest: Mapping[str, Any], models: Models) -> list[EvalResult]:
    """Each judged metric of each pushed model (each primary one, where there is no gate), with its interval."""
    from huggingface_hub import EvalResult

    spec = manifest["recipe"]["data"]["eval"]
    conditions = {(c["subject"], c["metric"]): c for c in manifest["conditions"] if c["metric"] not in COSTS}
    results = []
    for model in models.candidates:
        for metric in primary_metrics(manifest, models):
            if (value := model.value(metric)) is None:
                continue
            told: dict[str, Any] = {_OURS: True, "examples": manifest["data"]["examples"], "model": model.name}
            if (baseline := models.baseline.value(metric)) is not None:
                told["baseline"] = baseline
            if (judged := conditions.get((model.name, metric.name))) is not None:
                told |= {
                    "drop": judged["drop"],
                    "drop_interval": list(judged["interval"]),
                    "confidence": judged["confidence"],
                    "method": judged["method"],
                    "max_drop": judged["limit"],
                    "verdict": judged["verdict"],
                }
            results.append(
                EvalResult(
                    task_type=manifest["task"],
                    dataset_type=str(spec["path"]),
                    dataset_name=str(manifest["data"]["label"]),
                    dataset_config=spec.get("name"),
                    dataset_split=spec.get("split"),
                    metric_type=metric.name.partition(":")[2] or metric.name,
                    metric_value=value,
                    metric_name=f"{fmt.title(metric.label)} ({model.name})",
                    metric_args=told,
                )
            )
    return results


def merge(fresh: ModelCardData, existing: CardData) -> CardData:
    """An existing card's metadata with ours laid over it.

    Ours are the keys about the base model, library and task, our tags among the tags, and our evaluation results among the
    results. Licence and language are set where nobody has set them; every other key stays.
    """
    theirs = [r for r in existing.get("eval_results") or () if _OURS not in (r.metric_args or {})]
    for key in ("base_model", "base_model_relation", "library_name", "pipeline_tag"):
        if (value := fresh.get(key)) is not None:
            existing[key] = value
    for key, value in fresh.__dict__.items():
        if value is not None and existing.get(key) is None:
            existing[key] = value
    existing["tags"] = list(dict.fromkeys([*(existing.get("tags") or ()), *(fresh.tags or ())]))
    results = [*theirs, *(fresh.eval_results or ())]
    existing["eval_results"] = results or None
    existing["model_name"] = (existing.get("model_name") or fresh.model_name) if results else None
    return existing

"""Checks of evaluators: one finite score per example, which depends on nothing but the example and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leptonsdk.errors import LeptonError
from leptonsdk.testing.bench import expect, listed
from leptonsdk.testing.check import CheckFailed, check
from leptonsdk.testing.evaluators import open_scoring, rows_of, scoring, scorings

_CLOSE = 1e-4  # padding differs from batch to batch, and with it the last bits


def _apart(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of columns that differ by more than rounding; one NaN is like another."""

    def close(a: NDArray[Any], b: NDArray[Any]) -> bool:
        return a.shape == b.shape and bool(np.allclose(a, b, rtol=_CLOSE, atol=_CLOSE, equal_nan=True))

    return sorted(
        n for n in ours.keys() | theirs.keys() if n not in ours or n not in theirs or not close(ours[n], theirs[n])
    )


@check("scores-finite", "every score is a finite number", "evaluator")
def scores_finite(plugin: type[Any], config: Mapping[str, Any]) -> None:
    for one in scorings(plugin, config):
        broken = [name for name, values in one.columns().items() if not np.isfinite(values.astype(float)).all()]
        expect(
            not broken, f"NaN or infinite scores in {listed(broken)}", plugin.name, "say what an empty example scores"
        )


@check("one-score-per-example", "every column has one score for each example", "evaluator")
def one_score_per_example(plugin: type[Any], config: Mapping[str, Any]) -> None:
    for one in scorings(plugin, config):
        count = len(one.examples)
        other = [f"{name} {list(v.shape)}" for name, v in one.columns().items() if v.shape != (count,)]
        expect(not other, f"of {count} examples, columns have the shapes {listed(other)}", plugin.name)


@check("order-does-not-matter", "examples in another order have the same scores, in that order", "evaluator")
def order_does_not_matter(plugin: type[Any], config: Mapping[str, Any]) -> None:
    for one in scorings(plugin, config):
        order = np.random.default_rng(0).permutation(len(one.examples))
        moved = one.columns(one.examples.select(order.tolist()))
        expected = {name: v[order] if len(v) == len(order) else v for name, v in one.columns().items()}
        apart = _apart(expected, moved)
        hint = "score an example by itself; sort nothing, or put it back into the rows' order"
        expect(not apart, f"in another order, other scores in {listed(apart)}", plugin.name, hint)


@check("batch-size-does-not-matter", "scores are the same in batches of any size", "evaluator")
def batch_size_does_not_matter(plugin: type[Any], config: Mapping[str, Any]) -> None:
    for one in scorings(plugin, config):
        whole = one.columns()
        for size in (1, len(one.examples)):
            apart = _apart(whole, one.columns(batch_size=size))
            hint = "leave padding out by the attention mask, and average over an example's own positions"
            expect(not apart, f"in batches of {size}, other scores in {listed(apart)}", plugin.name, hint)


@check(
    "deterministic",
    "the same model and examples have the same scores, whatever the global generators are at",
    "evaluator",
)
def deterministic(plugin: type[Any], config: Mapping[str, Any]) -> None:
    one = scoring(plugin, config)
    first = one.columns()
    torch.manual_seed(1)
    np.random.seed(1)
    apart = _apart(first, one.columns())
    expect(not apart, f"a second time, other scores in {listed(apart)}", plugin.name, "draw nothing, or by the example")


@check("makes-its-metrics", "the columns of every metric that it declares are made", "evaluator")
def makes_its_metrics(plugin: type[Any], config: Mapping[str, Any]) -> None:
    made = {name for one in scorings(plugin, config) for name in one.columns()}
    lacking = [
        f"{m.name} ({', '.join(sorted(set(m.columns) - made))})" for m in plugin.metrics if not set(m.columns) <= made
    ]
    expect(not lacking, f"columns of metrics are never made: {listed(lacking)}", plugin.name)


@check("refuses-missing-columns", "data that lacks a column is told by a LeptonError, never by a KeyError", "evaluator")
def refuses_missing_columns(plugin: type[Any], config: Mapping[str, Any]) -> None:
    checkpoint = scoring(plugin, config).checkpoint
    roles = sorted(set(plugin.columns))
    for left_out in roles:
        rows = rows_of(plugin, [role for role in roles if role != left_out])
        if not rows:
            continue
        try:
            open_scoring(plugin, config, checkpoint, rows).columns()
        except LeptonError:
            continue
        except Exception as error:
            raise CheckFailed(
                f"without the column '{left_out}': {type(error).__name__}: {error}",
                where=plugin.name,
                hint="name the role in `required`, or do without it",
            ) from error

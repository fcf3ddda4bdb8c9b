"""A run in one plain sentence, with its headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from leptonsdk.gating import ratio_of_medians
from leptonsdk.report import format as fmt
from leptonsdk.report.conditions import Condition
from leptonsdk.report.models import MetricInfo, Model, Models, Timing

_CONFIDENCE = 0.95
SYMBOLS: Final = {"pass": "✓", "fail": "✗", "inconclusive": "?", "none": "·"}
TITLES: Final = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive", "none": "No gate"}


@dataclass(frozen=True)
class Headline:
    """The verdict on the whole run, and a sentence for each model that was judged."""

    verdict: str
    title: str
    symbol: str
    meaning: str
    sentences: tuple[tuple[str, str, str], ...]  # model, its verdict ("none" without a gate), sentence


def headline(
    state: Mapping[str, Any], models: Models, conditions: Sequence[Condition], metrics: Sequence[MetricInfo]
) -> Headline:
    """What the run found. ``metrics`` are the primary ones."""
    verdict = str(state.get("verdict") or "none")
    sentences = []
    for model in models.candidates:
        own = [c for c in conditions if c.subject == model.name]
        sentences.append((model.name, _worst(own), _sentence(models, model, own, metrics)))
    return Headline(
        verdict,
        TITLES.get(verdict, fmt.title(verdict)),
        SYMBOLS.get(verdict, "·"),
        _meaning(verdict, models, conditions),
        tuple(sentences),
    )


def headline_setting(models: Models, conditions: Sequence[Condition]) -> tuple[int | None, int | None] | None:
    """The shape whose latency is told first: the gate's first one, else the largest batch."""
    for condition in conditions:
        if condition.metric == "latency":
            return condition.detail.get("batch_size"), condition.detail.get("sequence_length")
    return max(models.settings, key=lambda s: (s[0] or 0, s[1] or 0), default=None)


def _worst(conditions: Sequence[Condition]) -> str:
    """The verdict on one model, put together from the gate's verdicts as the gate does."""
    given = {c.verdict for c in conditions}
    return next((v for v in ("fail", "inconclusive", "pass") if v in given), "none")


def _sentence(models: Models, model: Model, own: Sequence[Condition], metrics: Sequence[MetricInfo]) -> str:
    parts = [_times(own, "size", fmt.compared(models.baseline.bytes, model.bytes, "smaller", "larger"), "as large")]
    if (setting := headline_setting(models, own)) is not None:
        before, after = models.baseline.timing(setting), model.timing(setting)
        if before is not None and after is not None:
            parts.append(f"{_speed(own, before, after)} at {fmt.setting(*setting).partition(',')[0]}")
    for metric in metrics:
        condition = next((c for c in own if c.metric == metric.name), None)
        if condition is not None:
            moved = f"changed by {condition.estimate}"
            if condition.value == 0:
                moved = f"unchanged {condition.interval_text}".rstrip()
            parts.append(f"{metric.label} {moved} (limit {condition.limit_text})")
            continue
        before_value, after_value = models.baseline.value(metric), model.value(metric)
        if before_value is None or after_value is None:
            continue
        change = fmt.change(after_value - before_value, after_value)
        parts.append(f"{metric.label} unchanged" if change == "0" else f"{metric.label} changed by {change}")
    sentence = ", ".join(part for part in parts if part)
    return f"{fmt.title(sentence)}." if sentence else "Nothing was measured of it."


def _speed(own: Sequence[Condition], before: Timing, after: Timing) -> str | None:
    """How much faster; where the gate did not ask, with the interval over the turns, and no claim where that holds 1."""
    told = _times(own, "latency", fmt.compared(before.median, after.median, "faster", "slower"), "as fast")
    if told is None or any(c.metric == "latency" for c in own) or not 1 < len(before.turns) == len(after.turns):
        return told
    interval = ratio_of_medians(np.array(before.turns), np.array(after.turns), _CONFIDENCE, seed=0)
    if interval.low <= 1 <= interval.high:
        return "as fast as before, as far as its turns can tell"
    ends = (interval.low, interval.high) if after.median < before.median else (1 / interval.high, 1 / interval.low)
    return f"{told} [{', '.join(fmt.ratio(end).rstrip('x') for end in ends)}]"


def _times(own: Sequence[Condition], cost: str, compared: str | None, same: str) -> str | None:
    """A comparison, told with the digits that the first condition on it needs where it says the same."""
    first = next((c for c in own if c.metric == cost), None)
    if compared is None:
        return None
    if compared.endswith("as before"):
        return compared.replace("as before", f"{same} as before")
    told = first is not None and first.kind.startswith("min_") and first.detail.get("baseline_is") != "fp32"
    if first is None or not told or first.value < 1:  # below 1 the words turn round: 1.10x larger, not 0.91x smaller
        return compared
    return f"{first.value_text} {compared.partition(' ')[2]}"


def _meaning(verdict: str, models: Models, conditions: Sequence[Condition]) -> str:
    """What the verdict says, and what to do about one that says little."""
    total = len(conditions)
    met = f"{sum(c.verdict == 'pass' for c in conditions)} of {total} conditions {'is' if total == 1 else 'are'} met"
    if verdict == "pass":
        every = "Both" if total == 2 else f"All {total}"
        return "The gate's condition is met." if total == 1 else f"{every} conditions of the gate are met."
    several = len(models.candidates) > 1
    if verdict == "fail":
        return f"Not met: {_named(conditions, 'fail', several)}. {fmt.title(met)}."
    if verdict == "inconclusive":
        evidence = "more examples" if any(c.is_metric and c.verdict == verdict for c in conditions) else "more turns"
        return (
            f"Cannot be told yet: {_named(conditions, verdict, several)}. The limit lies inside the interval; "
            f"measuring with {evidence} narrows it. {fmt.title(met)}."
        )
    return "The recipe states no gate, so nothing was judged; the numbers below are what was measured."


def _named(conditions: Sequence[Condition], verdict: str, several: bool) -> str:
    """The conditions with a verdict, by name, and by subject where there are several."""
    names: dict[str, list[str]] = {}
    for condition in conditions:
        if condition.verdict == verdict:
            names.setdefault(condition.subject, []).append(condition.name)
    if not several:
        return fmt.joined(list(dict.fromkeys(name for own in names.values() for name in own)))
    return "; ".join(f"{fmt.joined(list(dict.fromkeys(own)))} of {subject}" for subject, own in names.items())

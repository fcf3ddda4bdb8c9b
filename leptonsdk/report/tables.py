"""The page's tables as rows of text: models side by side, the ledger, the export's own loss, where and how it was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from leptonsdk.report import format as fmt
from leptonsdk.report.models import MetricInfo, Model, Models, public

_KINDS: Final = {"source": "source model", "compress": "compressed", "train": "trained", "export": "exported"}
# What backends note of an export's parity, as people call it; other keys are shown by their own names.
_PARITY: Final = {
    "max_abs_diff": "largest difference",
    "mean_abs_diff": "mean difference",
    "relative_rms": "relative RMS",
    "max_abs_output": "largest output",
    "argmax_agreement": "share with the same top label",
}


@dataclass(frozen=True)
class Cell:
    """A value, what it means beside the baseline, and a tone: ``better``, ``worse`` or nothing."""

    text: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """A quantity of every model."""

    head: str
    hint: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    rows: tuple[Row, ...]


def model_groups(models: Models) -> list[Group]:
    """Everything measured of every model, a column each. Rows that nothing was measured for are left out."""
    memory = _costs(
        models, lambda m: m.memory, fmt.size, "less", "more", "Peak memory", "added by loading and running it"
    )
    groups = [
        Group(
            "Size",
            (
                _costs(models, lambda m: m.bytes, fmt.size, "smaller", "larger", "On disk", "weight files"),
                _row(models, "Bits per weight", "scales and zero points included", _bits),
                _row(models, "Sparsity", "weights that are exactly zero", lambda m: fmt.share(m.sparsity)),
                _row(models, "Parameters", "", lambda m: fmt.count(m.parameters)),
            ),
        ),
        Group("Metrics", tuple(_metric(models, metric) for metric in models.metrics)),
        Group("Latency", tuple(_timing(models, setting) for setting in models.settings)),
        Group("Memory and runtime", (memory, _row(models, "Runtime", "", lambda m: m.runtime or fmt.NONE))),
    ]
    kept = [
        Group(group.title, tuple(row for row in group.rows if any(c.text != fmt.NONE for c in row.cells)))
        for group in groups
    ]
    return [group for group in kept if group.rows]


def _row(models: Models, head: str, hint: str, show: Callable[[Model], str]) -> Row:
    return Row(head, hint, tuple(Cell(show(model)) for model in models.all))


def _bits(model: Model) -> str:
    return fmt.NONE if model.bits_per_weight is None else fmt.fixed(model.bits_per_weight, 2)


def _costs(
    models: Models,
    take: Callable[[Model], float | None],
    show: Callable[[float | None], str],
    less: str,
    more: str,
    head: str,
    hint: str,
) -> Row:
    before = take(models.baseline)
    cells = []
    for model in models.all:
        value = take(model)
        words = None if model is models.baseline else fmt.compared(before, value, less, more)
        cells.append(Cell(show(value), words or "", _cost_tone(before, value)))
    return Row(head, hint, tuple(cells))


def _cost_tone(before: float | None, after: float | None) -> str:
    if before is None or after is None or (fmt.compared(before, after, "", "") or "").endswith("as before"):
        return ""
    return "better" if after < before else "worse"


def _metric(models: Models, metric: MetricInfo) -> Row:
    before = models.baseline.value(metric)
    cells = []
    for model in models.all:
        value = model.value(metric)
        if model is models.baseline or value is None or before is None:
            note = "by definition" if model is models.baseline and metric.reference else ""
            cells.append(Cell(fmt.metric(value), note))
            continue
        word = metric.judged(value - before)
        change = "unchanged" if word == "same" else f"{fmt.change(value - before, value)}, {word}"
        cells.append(Cell(fmt.metric(value), change, word if word != "same" else ""))
    return Row(fmt.title(metric.label), metric.better, tuple(cells))


def _timing(models: Models, setting: tuple[int | None, int | None]) -> Row:
    before = models.baseline.timing(setting)
    cells = []
    for model in models.all:
        timing = model.timing(setting)
        if timing is None:
            cells.append(Cell("not measured" if model.role == "artifact" else fmt.NONE))
            continue
        quartiles = f"{fmt.duration(timing.low).removesuffix(' ms')} to {fmt.duration(timing.high)}"
        speed = None
        if before is not None and model is not models.baseline:
            speed = fmt.compared(before.median, timing.median, "faster", "slower")
        note = f"{speed}; {quartiles}" if speed else quartiles
        tone = _cost_tone(before.median, timing.median) if before is not None else ""
        cells.append(Cell(fmt.duration(timing.median), note, tone))
    return Row(fmt.title(fmt.setting(*setting)), "median, quartiles of the turns", tuple(cells))


@dataclass(frozen=True)
class LedgerRow:
    """What one step gave (size) and cost (metrics), beside the model it started from."""

    name: str
    kind: str
    size: Cell
    metrics: tuple[Cell, ...]
    seconds: str
    memory: str


def ledger_rows(state: Mapping[str, Any], models: Models) -> list[LedgerRow]:
    """The ledger in ``run.json``: each row compares with the step before, an export with the last checkpoint."""
    rows = []
    before: Mapping[str, Any] | None = None
    by_name = {model.name: model for model in models.all}
    for entry in state.get("ledger") or ():
        model = by_name.get(str(entry["name"]))
        old = before.get("bytes") if before else None
        given = fmt.compared(old, entry.get("bytes"), "smaller", "larger") or ""
        rows.append(
            LedgerRow(
                name=str(entry["name"]),
                kind=_KINDS.get(str(entry.get("kind")), str(entry.get("kind") or "")),
                size=Cell(fmt.size(entry.get("bytes")), given, _cost_tone(old, entry.get("bytes"))),
                metrics=tuple(_ledger_metric(entry, metric, first=before is None) for metric in models.metrics),
                seconds=fmt.seconds(model.seconds) if model else fmt.NONE,
                memory=fmt.size(model.entry.get("peak_memory_bytes")) if model else fmt.NONE,
            )
        )
        if entry.get("kind") != "export":
            before = entry
    return rows


def _ledger_metric(entry: Mapping[str, Any], metric: MetricInfo, *, first: bool) -> Cell:
    value = (entry.get("values") or {}).get(metric.name)
    if first:
        return Cell(fmt.metric(0.0 if value is None and metric.reference else value))
    change = ledger_change(entry, metric)
    word = metric.judged(change)
    note = "unchanged" if word == "same" else f"{fmt.change(change, value)}, {word}" if word else ""
    return Cell(fmt.metric(value), note, word if word != "same" else "")


def ledger_change(entry: Mapping[str, Any], metric: MetricInfo) -> float | None:
    """A metric's change since the step before. The baseline's distance to itself is 0, though nobody measured it."""
    change: float | None = (entry.get("change") or {}).get(metric.name)
    if change is None and metric.reference:
        change = (entry.get("values") or {}).get(metric.name)
    return change


@dataclass(frozen=True)
class ExportLoss:
    """What an export alone changed: how far its outputs are from torch's, and each metric beside the checkpoint's."""

    name: str
    parity: tuple[tuple[str, str], ...]
    metrics: str


def export_losses(state: Mapping[str, Any], models: Models) -> list[ExportLoss]:
    """One per artifact."""
    entries = {str(entry["name"]): entry for entry in state.get("ledger") or ()}
    losses = []
    for model in models.artifacts:
        parity = (model.entry.get("details") or {}).get("parity")
        changes = []
        for metric in models.metrics:
            change = ledger_change(entries.get(model.name, {}), metric)
            if change is not None and fmt.known(change):
                value = model.value(metric)
                word = metric.judged(change)
                changes.append(
                    f"{metric.label} {'unchanged' if word == 'same' else fmt.change(change, value) + ' ' + word}"
                )
        losses.append(ExportLoss(model.name, tuple(_parity(public(parity))), fmt.joined(changes)))
    return [loss for loss in losses if loss.parity or loss.metrics]


def _parity(parity: Any) -> list[tuple[str, str]]:
    """What was found, and last what was allowed of the ``measure`` that the backend held against its ``tolerance``."""
    if not isinstance(parity, Mapping) or not {"measure", "tolerance"} <= parity.keys():
        return _flat(parity)
    measure = str(parity["measure"])
    found = {key: value for key, value in parity.items() if key not in ("measure", "tolerance")}
    return [*_flat(found), (f"allowed {_PARITY.get(measure, measure.replace('_', ' '))}", _scalar(parity["tolerance"]))]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested JSON data as pairs of a dotted name and text."""
    if value is None or value == {} or value == []:
        return []
    if isinstance(value, Mapping):
        return [
            pair
            for key, inner in value.items()
            for pair in _flat(inner, f"{name} {_PARITY.get(key, key)}".strip().replace("_", " "))
        ]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(_scalar(inner) for inner in value))]
    return [(name or "difference", _scalar(value))]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if 0.9 < value < 1:  # a cosine, say: what counts is how far from 1 it is
        return fmt.fixed(value, fmt.decimals_of(1 - value, 2))
    return f"{value:.3g}"


def times(state: Mapping[str, Any], models: Models) -> list[tuple[str, str, str]]:
    """Each piece of work: name, time, peak memory of the process that did it."""
    work = state.get("work") or {}
    if not work:
        work = {model.name: model.entry for model in models.all if model.seconds is not None}
    return [
        (str(name), fmt.seconds(entry.get("seconds")), fmt.size(entry.get("peak_memory_bytes")))
        for name, entry in work.items()
    ]


def facts(state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the numbers come from: model, data, machine, seed."""
    model, data, machine = (state.get(key) or {} for key in ("model", "data", "hardware"))
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    place = [machine.get("processor"), machine.get("machine"), f"{cores} cores" if cores else None]
    place += [f"{fmt.size(memory)} of memory" if memory else None, machine.get("system")]
    found = [
        ("Model", public(model.get("id"))),
        ("Task", state.get("task")),
        ("Evaluated on", public(data.get("label"))),
        ("Examples", data.get("examples")),
        ("Data fingerprint", data.get("fingerprint")),
        ("Hardware", ", ".join(str(part) for part in place if part)),
        ("Threads", state.get("threads")),
        ("Seed", state.get("seed")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]

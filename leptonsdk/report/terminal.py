"""A run in the terminal: models side by side, conditions, one line of verdict. Readable from 80 columns up."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from leptonsdk.report import format as fmt
from leptonsdk.report.conditions import Condition, read_conditions
from leptonsdk.report.models import MetricInfo, Model, Models, primary_metrics, read_models
from leptonsdk.report.words import SYMBOLS, headline

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_STYLES: Final = {"pass": "green", "fail": "red", "inconclusive": "yellow", "worse": "red", "better": "green"}
_ASCII: Final = {"✓": "+", "✗": "x", "?": "?", "·": "-"}
_HEAD_WIDTH: Final = 14
_MODEL_WIDTH: Final = 18  # holds an interval: [-0.0057, +0.0012]
_GAP: Final = 3
_WIDE: Final = 100  # from here on the conditions need not be squeezed


def summary(state: Mapping[str, Any]) -> Summary:
    """What a run found, to be printed by a rich console.

    Args:
        state: ``run.json`` as data.
    """
    return Summary(state)


class Summary:
    """A renderable that lays itself out for the console's width: models that do not fit go into a further table."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.models = read_models(state)
        self.conditions = read_conditions(state, self.models)
        self.metrics = primary_metrics(state, self.models)
        self.headline = headline(state, self.models, self.conditions, self.metrics)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        plain = options.ascii_only
        room = (options.max_width - _HEAD_WIDTH) // (_MODEL_WIDTH + _GAP)
        others = [*self.models.steps, *self.models.artifacts]
        per_table = max(1, room - 1)
        chunks = [others[start : start + per_table] for start in range(0, len(others), per_table)] or [[]]
        for chunk in chunks:
            yield self._models_table([self.models.baseline, *chunk], plain)
        if self.conditions:
            yield self._conditions_table(plain, options.max_width)
        yield self._verdict_line(plain)

    def _models_table(self, models: Sequence[Model], plain: bool) -> Table:
        table = _table(plain)
        table.add_column("", max_width=_HEAD_WIDTH, style="bold", overflow="fold")
        for model in models:
            table.add_column(_wrapped(model.name, _MODEL_WIDTH), max_width=_MODEL_WIDTH, overflow="fold")
        for head, cells in _rows(self.models, models, self.metrics, self.conditions):
            if any(cell.plain not in ("", fmt.NONE) for cell in cells):
                table.add_row(Text(head), *cells)
        if self.conditions:
            verdicts = {name: verdict for name, verdict, _ in self.headline.sentences}
            table.add_row(Text("verdict"), *(_verdict(verdicts.get(m.name, ""), plain) for m in models))
        return table

    def _conditions_table(self, plain: bool, width: int) -> Table:
        table = _table(plain)
        table.expand = width < _WIDE
        table.add_column("condition", overflow="fold", ratio=3 if table.expand else None)
        table.add_column("measured", overflow="fold", ratio=3 if table.expand else None)
        table.add_column("limit", overflow="fold")
        table.add_column("verdict", no_wrap=True)
        subjects = list(dict.fromkeys(condition.subject for condition in self.conditions))
        for subject in subjects:
            if len(subjects) > 1:
                table.add_row(_wrapped(f"{subject}:", _MODEL_WIDTH, "bold"))
            for condition in self.conditions:
                if condition.subject == subject:
                    told = condition.quantity if condition.quantity != condition.name else ""
                    table.add_row(
                        Text(" ".join(part for part in (condition.name, told) if part)),
                        Text(condition.estimate),
                        Text(condition.bound),
                        _verdict(condition.verdict, plain),
                    )
        return table

    def _verdict_line(self, plain: bool) -> Text:
        head = self.headline
        symbol = _ASCII.get(head.symbol, "") if plain else head.symbol
        line = Text.assemble((f"{symbol} {head.title}. ", f"bold {_STYLES.get(head.verdict, '')}".strip()))
        if len(head.sentences) == 1:
            line.append(f"{head.sentences[0][2]} ")
        line.append(head.meaning if head.verdict != "none" else "The recipe states no gate, so nothing was judged.")
        return line


def _table(plain: bool) -> Table:
    return Table(box=box.ASCII2 if plain else box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _rows(
    models: Models, shown: Sequence[Model], metrics: Sequence[MetricInfo], conditions: Sequence[Condition]
) -> Iterator[tuple[str, list[Text]]]:
    base = models.baseline
    yield "size", [_amount(fmt.size(m.bytes), fmt.compared(base.bytes, m.bytes, "smaller", "larger")) for m in shown]
    for metric in metrics:
        yield metric.label, [_metric(models, m, metric, conditions) for m in shown]
    for setting in models.settings:
        cells = []
        for model in shown:
            before, after = base.timing(setting), model.timing(setting)
            speed = fmt.compared(before.median, after.median, "faster", "slower") if before and after else None
            cells.append(_amount(fmt.duration(after.median if after else None), speed))
        yield fmt.setting(*setting), cells
    yield "memory", [_amount(fmt.size(m.memory), fmt.compared(base.memory, m.memory, "less", "more")) for m in shown]


def _amount(text: str, note: str | None) -> Text:
    cell = Text(text)
    if note and note != "as before":
        worse, same = note.endswith(("larger", "slower", "more")), note.endswith("as before")
        cell.append(f"\n{note}", style="dim" if same else _STYLES["worse" if worse else "better"])
    return cell


def _metric(models: Models, model: Model, metric: MetricInfo, conditions: Sequence[Condition]) -> Text:
    value, before = model.value(metric), models.baseline.value(metric)
    cell = Text(fmt.metric(value))
    if model is models.baseline:
        cell.append(f"\n{metric.better}", style="dim")
    elif value is not None and before is not None:
        word = metric.judged(value - before)
        condition = next((c for c in conditions if c.metric == metric.name and c.subject == model.name), None)
        change = condition.value_text if condition is not None else fmt.change(value - before, value)
        cell.append("\nunchanged" if word == "same" else f"\n{change} {word}", style=_STYLES.get(word, "dim"))
        if condition is not None and condition.interval_text:
            cell.append(f"\n{condition.interval_text}", style="dim")
    return cell


def _verdict(verdict: str, plain: bool) -> Text:
    if verdict in ("", "none"):
        return Text("")
    symbol = SYMBOLS.get(verdict, "·")
    return Text(f"{_ASCII[symbol] if plain else symbol} {verdict}", style=_STYLES.get(verdict, ""))


def _wrapped(name: str, width: int, style: str = "") -> Text:
    """A name broken at its hyphens, where it is long."""
    return Text("\n".join(textwrap.wrap(name, width, break_on_hyphens=True)) or name, style=style)

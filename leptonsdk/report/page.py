"""``report.html``: one self-contained page, made from ``run.json`` alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
import yaml
from markupsafe import Markup
from plotly.io.json import to_json_plotly

from leptonsdk.report import REPORT_FILE, figures, tables
from leptonsdk.report import format as fmt
from leptonsdk.report.conditions import read_conditions
from leptonsdk.report.forest import forest
from leptonsdk.report.models import primary_metrics, public, read_models
from leptonsdk.report.words import SYMBOLS, headline, headline_setting

_TEMPLATE = "template.html.j2"


def write_report(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write the page into a run folder, aside first, so that a reader never meets half of one.

    Args:
        folder: The run folder.
        state: ``run.json`` as data.

    Returns:
        The page's path.
    """
    path = Path(folder) / REPORT_FILE
    aside = path.with_name(path.name + ".new")
    with aside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(render(state))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return path


def render(state: Mapping[str, Any]) -> str:
    """The page's text. Everything that comes from the run is escaped; only our own script and plotly's are not."""
    models = read_models(state)
    conditions = read_conditions(state, models)
    metrics = primary_metrics(state, models)
    setting = headline_setting(models, conditions)
    quality = [plot for metric in metrics for plot in figures.quality_plots(models, metric, conditions, setting)]
    latency = figures.latency_plots(models)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(_TEMPLATE).render(
        name=public((state.get("model") or {}).get("id") or "model"),
        task=state.get("task"),
        head=headline(state, models, conditions, metrics),
        symbols=SYMBOLS,
        models=models,
        conditions=[(condition, forest(condition)) for condition in conditions],
        groups=tables.model_groups(models),
        quality=[(plot, _embedded(plot)) for plot in quality],
        latency=[(plot, _embedded(plot)) for plot in latency],
        ledger=tables.ledger_rows(state, models),
        losses=tables.export_losses(state, models),
        recipe=_recipe(state),
        facts=tables.facts(state),
        versions=sorted((state.get("versions") or {}).items()),
        files=sorted(((state.get("model") or {}).get("files") or {}).items()),
        times=tables.times(state, models),
        metrics=models.metrics,
        title=fmt.title,
        palette=_json({light: figures.DARK[name] for name, light in figures.LIGHT.items()}),
        plotly=Markup(plotly.offline.get_plotlyjs()) if quality or latency else None,
    )


def _unbroken(text: str) -> str:
    """Text whose bracketed intervals stay on one line."""
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _recipe(state: Mapping[str, Any]) -> str:
    recipe = public(state.get("recipe") or {})
    text: str = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100) if recipe else ""
    return text


def _embedded(plot: figures.Plot) -> Markup:
    figure = plot.figure.to_plotly_json()
    return _json(json.loads(to_json_plotly({"data": figure["data"], "layout": figure["layout"]})))


def _json(value: Any) -> Markup:
    """JSON that can stand in a script element whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
